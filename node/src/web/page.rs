//! The pages as HTML: what a person in the room sees in a browser.
//!
//! Rule: the page works without JavaScript and changes nothing. The status page is made of [`PARTS`]: elements with an
//! id, each of which can be replaced alone by whoever follows the page live. Not here: routes and headers (`web`),
//! how single things are written (`text`), sums (`overview`).

use std::fmt::{self, Write as _};
use std::time::Duration;

use bytes::Bytes;
use labmesh_proto::config::RateLimits;
use labmesh_proto::node::{ImageStatus, NodeStatus, Role, Status};
use labmesh_proto::wire::control::{TransferReport, TransferState};

use super::overview::{Flow, Overview};
use super::text::{
    Bar, Doing, ImageName, Left, Percent, Plain, SeedLeft, Size, Sources, Speed, Text, Waiting, image_path, plural,
};
use super::{register, room};
use crate::view;

/// Seconds after which a browser without JavaScript asks again.
const REFRESH_S: u32 = 3;
/// Images under way that the headline has a bar for; the table has them all.
const BARS_SHOWN: usize = 5;
/// What bttrack's page is called: those who look for these words find ours.
const TITLE: &str = "BitTorrent download info";
/// The columns of bttrack's table, and whether each holds numbers.
pub(super) const BTTRACK_COLUMNS: [(&str, bool); 7] = [
    ("info hash", false),
    ("torrent name", false),
    ("size", true),
    ("complete", true),
    ("downloading", true),
    ("downloaded", true),
    ("transferred", true),
];
/// How many elements the status page is made of; the first is its title.
pub(super) const PARTS: usize = 7;

/// The status page of one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// All of it.
    pub(super) html: Bytes,
    /// Its elements, each on lines of its own.
    pub(super) parts: [Bytes; PARTS],
}

impl Page {
    pub(super) fn new(status: &Status, mesh: &str) -> Self {
        let overview = Overview::new(status);
        let parts: [String; PARTS] = [
            build(|out| title(out, &overview)),
            build(|out| top(out, status, mesh)),
            build(|out| now(out, &overview)),
            build(|out| room::write(out, status, &overview)),
            build(|out| images(out, status, &overview)),
            build(|out| nodes(out, status, &overview)),
            build(|out| here(out, status)),
        ];
        let html = build(|out| {
            let [title, top, main @ ..] = &parts;
            open(out, title, true)?;
            write!(out, "<div class=head>\n{top}<p id=link class=dim>every {REFRESH_S} s</p>\n</div>\n<main>\n")?;
            main.iter().try_for_each(|part| out.write_str(part))?;
            out.write_str("</main>\n")?;
            footer(out)
        });
        Self { html: html.into(), parts: parts.map(Bytes::from) }
    }
}

/// `/images/`: a plain list of torrents, for people and for `wget`.
pub(super) fn listing(status: &Status) -> String {
    build(|out| {
        open(out, "<title>Images</title>\n", false)?;
        out.write_str("<h1>Images</h1>\n<ul>\n")?;
        for image in &status.images {
            writeln!(out, "<li>{} <span class=dim>{}</span>", torrent_link(image), Size(image.size))?;
        }
        out.write_str("</ul>\n")
    })
}

/// One name, several contents: which of them?
pub(super) fn choices(name: &str, choices: &[&ImageStatus]) -> String {
    build(|out| {
        open(out, "<title>Several contents</title>\n", false)?;
        writeln!(out, "<h1>{} has several contents</h1>\n<ul>", Text(name))?;
        for image in choices {
            let held = image.holders.join(", ");
            let (size, held) = (Size(image.size), Text(&held));
            writeln!(out, "<li>{} <span class=dim>{size}, on {held}</span>", torrent_link(image))?;
        }
        out.write_str("</ul>\n")
    })
}

fn build(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut page = String::with_capacity(4096);
    write(&mut page).expect("writing to a String does not fail");
    page
}

fn open(out: &mut String, title: &str, live: bool) -> fmt::Result {
    out.write_str("<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n")?;
    out.write_str("<meta name=viewport content=\"width=device-width, initial-scale=1\">\n")?;
    out.write_str(title)?;
    out.write_str("<link rel=icon href=/icon.svg>\n<link rel=stylesheet href=/style.css>\n")?;
    if live {
        writeln!(out, "<noscript><meta http-equiv=refresh content={REFRESH_S}></noscript>")?;
        out.write_str("<script src=/live.js defer></script>\n")?;
    }
    out.write_str("</head>\n<body>\n")
}

/// What a tab in the background shows.
fn title(out: &mut String, overview: &Overview<'_>) -> fmt::Result {
    out.write_str("<title id=title>")?;
    if let Some(flow) = overview.main() {
        let name = Plain(&flow.image.name);
        match flow.is_active() {
            true => write!(out, "{} {name} · ", Percent(flow.permille()))?,
            false => write!(out, "{} of {} have {name} · ", flow.have, overview.here)?,
        }
    }
    writeln!(out, "{TITLE}</title>")
}

/// Who is asked.
fn top(out: &mut String, status: &Status, mesh: &str) -> fmt::Result {
    write!(out, "<header id=top><b class=brand>labmesh</b> <span>mesh <b>{}</b>", Text(mesh))?;
    write!(out, ", seen from <b>{}</b>, ", Text(&status.name))?;
    match (status.role, &status.master) {
        (Role::Master, _) => write!(out, "the master")?,
        (Role::Solo, _) => write!(out, "alone and master of itself")?,
        (Role::Follower | Role::Candidate, Some(master)) => write!(out, "whose master is <b>{}</b>", Text(master))?,
        (Role::Follower | Role::Candidate, None) => write!(out, "<b class=warn>looking for a master</b>")?,
    }
    let (live, all) = (status.nodes.iter().filter(|n| n.live).count(), status.nodes.len());
    writeln!(out, " (term {}). {live} of {all} nodes are here.</span></header>", status.term)
}

/// The headline: how far everybody is, to be read from the back of the room.
fn now(out: &mut String, overview: &Overview<'_>) -> fmt::Result {
    out.write_str("<section id=now>\n")?;
    let (active, here) = (overview.active(), overview.here);
    match (active.as_slice(), overview.flows.as_slice()) {
        (_, []) => {
            out.write_str("<h1>No image is offered yet</h1>\n")?;
            out.write_str("<p class=lead>Put one into a cache: <code>labmesh add FILE</code></p>\n")?;
        }
        ([], [only]) => {
            headline(out, only, here)?;
            lead(out, only)?;
        }
        ([], many) => {
            writeln!(out, "<h1>{here} PC{} here, {} images</h1>", plural(here), many.len())?;
            out.write_str("<p class=lead>Nothing is being fetched.</p>\n")?;
        }
        ([one], _) => {
            headline(out, one, here)?;
            writeln!(out, "{}", Bar(one.permille()))?;
            lead(out, one)?;
        }
        (several, _) => {
            writeln!(out, "<h1>{} images on their way</h1>\n<ul class=flows>", several.len())?;
            for flow in several.iter().take(BARS_SHOWN) {
                write!(out, "<li><b>{}</b> <span>{} of {here}</span> ", ImageName(flow.image), flow.have)?;
                write!(out, "{} ", Bar(flow.permille()))?;
                lead(out, flow)?;
            }
            out.write_str("</ul>\n")?;
            if let Some(more) = several.len().checked_sub(BARS_SHOWN).filter(|more| *more > 0) {
                writeln!(out, "<p class=dim>and {more} more, in the table of images</p>")?;
            }
        }
    }
    out.write_str("</section>\n")
}

fn headline(out: &mut String, flow: &Flow<'_>, here: usize) -> fmt::Result {
    let name = ImageName(flow.image);
    match flow.have {
        all if all >= here && here == 1 => writeln!(out, "<h1>This PC has <b>{name}</b></h1>"),
        all if all >= here => writeln!(out, "<h1>All {here} PCs have <b>{name}</b></h1>"),
        have => writeln!(out, "<h1>{have} of {here} PCs {} <b>{name}</b></h1>", if have == 1 { "has" } else { "have" }),
    }
}

/// Who is at it, how fast, how long still, and what is in the way.
fn lead(out: &mut String, flow: &Flow<'_>) -> fmt::Result {
    out.write_str("<p class=lead>")?;
    if flow.is_active() {
        write!(out, "{} fetching", flow.fetching)?;
        if flow.down_bps > 0 {
            write!(out, ", {}/s in all", Size(flow.down_bps))?;
        }
        if let Some(left) = flow.left {
            write!(out, ", <b>{} left</b>", view::span(left))?;
        }
    } else if flow.failed == 0 {
        write!(out, "{}", Size(flow.image.size))?;
    }
    if flow.waiting > 0 {
        let waiting = Waiting { pieces: flow.missing_pieces, away: &flow.away };
        write!(out, " <strong class=warn>{} {waiting}</strong>", flow.waiting)?;
    }
    if flow.failed > 0 {
        write!(out, " <strong class=bad>{} failed</strong>", flow.failed)?;
    }
    out.write_str("</p>\n")
}

/// The columns and the totals row of bttrack's page, so that those who knew it feel at home; then how far it is.
fn images(out: &mut String, status: &Status, overview: &Overview<'_>) -> fmt::Result {
    out.write_str("<section id=images>\n<h2>Images</h2>\n")?;
    let flows = &overview.flows;
    if flows.is_empty() {
        out.write_str("<p class=dim>None yet.</p>\n")?;
        register::table(out, status)?;
        return out.write_str("</section>\n");
    }
    thead(
        out,
        "images",
        &[&BTTRACK_COLUMNS[..], &[("progress", false), ("speed", true), ("time left", true)]].concat(),
    )?;
    out.write_str("<tbody>\n")?;
    for flow in flows {
        let i = flow.image;
        out.write_str("<tr>")?;
        cell(out, "info hash", format_args!("<code>{}</code>", i.info_hash))?;
        write!(out, "<td class=\"t name\" data-label=\"torrent name\">{}", torrent_link(i))?;
        if flow.waiting > 0 {
            let waiting = Waiting { pieces: flow.missing_pieces, away: &flow.away };
            write!(out, "<div class=warn>{} {waiting}</div>", flow.waiting)?;
        }
        if flow.failed > 0 {
            write!(out, "<div class=bad>{} failed</div>", flow.failed)?;
        }
        out.write_str("</td>")?;
        number(out, "size", Size(i.size))?;
        number(out, "complete", i.complete)?;
        number(out, "downloading", i.downloading)?;
        number(out, "downloaded", i.downloaded)?;
        number(out, "transferred", Size(i.size.saturating_mul(i.downloaded)))?;
        match flow.is_active() {
            true => progress(out, flow.permille())?,
            false => out.write_str("<td></td>")?,
        }
        number(out, "speed", Speed { down: flow.down_bps, up: 0 })?;
        number(out, "time left", Left(flow.left))?;
        out.write_str("</tr>\n")?;
    }
    let sum = |f: fn(&ImageStatus) -> u64| flows.iter().map(|flow| f(flow.image)).fold(0u64, u64::saturating_add);
    out.write_str("</tbody>\n<tfoot><tr>")?;
    write!(out, "<td colspan=2 data-label=\"in all\">{} image{}</td>", flows.len(), plural(flows.len()))?;
    number(out, "size", Size(sum(|i| i.size)))?;
    number(out, "complete", sum(|i| i.complete.into()))?;
    number(out, "downloading", sum(|i| i.downloading.into()))?;
    number(out, "downloaded", sum(|i| i.downloaded))?;
    number(out, "transferred", Size(sum(|i| i.size.saturating_mul(i.downloaded))))?;
    out.write_str("<td></td>")?;
    number(out, "speed", Speed { down: flows.iter().map(|f| f.down_bps).fold(0, u64::saturating_add), up: 0 })?;
    out.write_str("<td></td></tr></tfoot>\n</table></div>\n")?;
    register::table(out, status)?;
    out.write_str("</section>\n")
}

/// Every node with what it fetches and seeds; a node with several transfers has a row for each.
fn nodes(out: &mut String, status: &Status, overview: &Overview<'_>) -> fmt::Result {
    const COLUMNS: [(&str, bool); 12] = [
        ("name", false),
        ("role", false),
        ("site", false),
        ("mode", false),
        ("image", false),
        ("state", false),
        ("progress", false),
        ("speed", true),
        ("time left", true),
        ("seed time left", true),
        ("address", false),
        ("weight", true),
    ];
    out.write_str("<section id=nodes>\n<h2>Nodes</h2>\n")?;
    thead(out, "nodes", &COLUMNS)?;
    out.write_str("<tbody>\n")?;
    for node in &status.nodes {
        let (first, more) = match node.transfers.split_first() {
            Some((first, more)) => (Some(first), more),
            None => (None, &[][..]),
        };
        node_row(out, node, first, overview)?;
        for transfer in more {
            out.write_str("<tr class=more><td></td><td></td><td></td>")?;
            transfer_cells(out, transfer, overview)?;
            out.write_str("<td></td><td></td></tr>\n")?;
        }
    }
    out.write_str("</tbody>\n</table></div>\n</section>\n")
}

fn node_row(
    out: &mut String,
    node: &NodeStatus,
    transfer: Option<&TransferReport>,
    overview: &Overview<'_>,
) -> fmt::Result {
    writeln!(out, "<tr{}>", if node.live { "" } else { " class=away" })?;
    write!(out, "<td class=\"t name\" data-label=name>{}</td>", NodeLink(node))?;
    match (node.live, node.role) {
        (false, _) => cell(out, "role", "away")?,
        (true, Role::Master) => cell(out, "role", "<b>master</b>")?,
        (true, role) => cell(out, "role", view::role(role))?,
    }
    match node.site.as_str() {
        "" => out.write_str("<td></td>")?,
        site => text(out, "site", Text(site))?,
    }
    match (transfer, overview.held_by(node)) {
        (Some(transfer), _) => transfer_cells(out, transfer, overview)?,
        (None, 0) => out.write_str("<td></td><td></td><td></td><td></td><td></td><td></td><td></td>")?,
        (None, n) => {
            out.write_str("<td></td>")?;
            cell(out, "image", format_args!("<span class=dim>has {n} image{}</span>", plural(n)))?;
            out.write_str("<td></td><td></td><td></td><td></td><td></td>")?;
        }
    }
    match node.addr {
        Some(ip) => cell(out, "address", ip)?,
        None => out.write_str("<td></td>")?,
    }
    number(out, "weight", node.weight.get())?;
    out.write_str("</tr>\n")
}

fn transfer_cells(out: &mut String, t: &TransferReport, overview: &Overview<'_>) -> fmt::Result {
    cell(out, "mode", t.mode)?;
    match overview.image(&t.info_hash) {
        Some(image) => text(out, "image", ImageName(image))?,
        None => cell(out, "image", format_args!("<code>{:?}</code>", t.info_hash))?,
    }
    match t.state {
        TransferState::Waiting => {
            cell(out, "state", format_args!("<span class=warn>waiting for {} pieces</span>", t.missing_pieces))?;
        }
        TransferState::Failed => cell(out, "state", "<span class=bad>failed</span>")?,
        state => cell(out, "state", view::state(state))?,
    }
    progress(out, t.permille)?;
    number(out, "speed", Speed { down: t.down_bps, up: t.up_bps })?;
    number(out, "time left", Left(overview.left(t)))?;
    let left = t.seed_left_s.map(|s| Duration::from_secs(s.into()));
    number(out, "seed time left", SeedLeft { state: t.state, left, as_master: false })
}

/// What this node itself fetches and seeds, in more detail.
fn here(out: &mut String, status: &Status) -> fmt::Result {
    const COLUMNS: [(&str, bool); 10] = [
        ("image", false),
        ("mode", false),
        ("state", false),
        ("progress", false),
        ("speed", true),
        ("time left", true),
        ("received", true),
        ("sent", true),
        ("seed time left", true),
        ("from", false),
    ];
    out.write_str("<section id=here>\n<h2>On this node</h2>\n")?;
    if status.limits != RateLimits::default() {
        writeln!(out, "<p class=dim>{}</p>", view::limits(&status.limits))?;
    }
    if status.transfers.is_empty() {
        return out.write_str("<p class=dim>This node fetches and seeds nothing.</p>\n</section>\n");
    }
    thead(out, "here", &COLUMNS)?;
    out.write_str("<tbody>\n")?;
    for t in &status.transfers {
        let permille = u64::from(t.have) * 1000 / u64::from(t.pieces.max(1));
        out.write_str("<tr>")?;
        write!(out, "<td class=\"t name\" data-label=image>{}</td>", Text(&t.name))?;
        cell(out, "mode", t.mode)?;
        text(out, "state", Doing(t))?;
        progress(out, permille as u16)?;
        number(out, "speed", Speed { down: t.down_bps, up: t.up_bps })?;
        number(out, "time left", Left(view::time_left(t.size.saturating_sub(t.bytes_have), t.down_bps)))?;
        number(out, "received", Size(t.downloaded))?;
        number(out, "sent", Size(t.uploaded))?;
        number(out, "seed time left", SeedLeft { state: t.state, left: t.seed_left, as_master: t.seeds_as_master })?;
        text(out, "from", Sources(&t.sources))?;
        out.write_str("</tr>\n")?;
    }
    out.write_str("</tbody>\n</table></div>\n</section>\n")
}

fn footer(out: &mut String) -> fmt::Result {
    out.write_str("<footer>Torrents: <a href=/images/>/images/</a> · For programs: ")?;
    out.write_str("<a href=/api/status>/api/status</a>, <a href=/api/images>/api/images</a>, ")?;
    out.write_str("<a href=/metrics>/metrics</a> · ")?;
    writeln!(out, "labmesh {}. This page changes nothing.</footer>", env!("CARGO_PKG_VERSION"))
}

pub(super) fn thead(out: &mut String, class: &str, columns: &[(&str, bool)]) -> fmt::Result {
    write!(out, "<div class=wide><table class={class}>\n<thead><tr>")?;
    for (name, is_number) in columns {
        write!(out, "<th scope=col{}>{name}</th>", if *is_number { " class=n" } else { "" })?;
    }
    out.write_str("</tr></thead>\n")
}

pub(super) fn cell(out: &mut String, label: &str, content: impl fmt::Display) -> fmt::Result {
    write!(out, "<td data-label=\"{label}\">{content}</td>")
}

/// A cell that may be long: it is broken anywhere before the table grows too wide.
fn text(out: &mut String, label: &str, content: impl fmt::Display) -> fmt::Result {
    write!(out, "<td class=t data-label=\"{label}\">{content}</td>")
}

/// A cell of a number; empty for none, so that a narrow page can leave it out.
pub(super) fn number(out: &mut String, label: &str, content: impl fmt::Display) -> fmt::Result {
    write!(out, "<td class=n data-label=\"{label}\">{content}</td>")
}

fn progress(out: &mut String, permille: u16) -> fmt::Result {
    write!(out, "<td class=p data-label=progress>{} <span>{}</span></td>", Bar(permille), Percent(permille))
}

fn torrent_link(image: &ImageStatus) -> String {
    format!("<a href=\"{}\">{}</a>", image_path(image), ImageName(image))
}

/// A node's name; a link to its own pages if its address is known.
#[derive(Debug)]
pub(super) struct NodeLink<'a>(pub(super) &'a NodeStatus);

impl fmt::Display for NodeLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.addr {
            Some(ip) => {
                let addr = std::net::SocketAddr::new(ip, self.0.http_port);
                write!(f, "<a href=\"http://{addr}/\">{}</a>", Text(&self.0.name))
            }
            None => write!(f, "{}", Text(&self.0.name)),
        }
    }
}
