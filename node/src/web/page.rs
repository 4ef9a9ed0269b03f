//! The pages as HTML: what a person in the room sees in a browser.
//!
//! Rule: no text from outside reaches a page but through [`Text`] or [`image_path`]; the pages work without JavaScript
//! and change nothing. Not here: routes and headers (`web`).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use bytesize::ByteSize;
use labmesh_proto::id::InfoHash;
use labmesh_proto::node::{ImageStatus, NodeStatus, Role, Status, TransferStatus};
use labmesh_proto::wire::control::{TransferReport, TransferState};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::view;

/// Seconds after which the browser asks again.
const REFRESH_S: u32 = 3;
/// Senders named in the row of a transfer; the others are counted.
const SOURCES_SHOWN: usize = 4;

/// The status page of one moment.
pub(super) fn status(status: &Status, mesh: &str) -> String {
    let room = status.images.len()
        + status.transfers.len()
        + status.nodes.iter().map(|n| 1 + n.transfers.len()).sum::<usize>();
    build(4096 + 1024 * room, |out| {
        open(out, "BitTorrent download info", Some(REFRESH_S))?;
        header(out, status, mesh)?;
        images(out, &status.images)?;
        super::register::table(out, status)?;
        nodes(out, status)?;
        transfers(out, &status.transfers)?;
        footer(out)
    })
}

/// `/images/`: a plain list of torrents, for people and for `wget`.
pub(super) fn listing(status: &Status) -> String {
    build(1024 + 256 * status.images.len(), |out| {
        open(out, "Images", None)?;
        out.write_str("<h1>Images</h1>\n<ul>\n")?;
        for image in &status.images {
            writeln!(out, "<li>{} <span class=dim>{}</span>", torrent_link(image), Size(image.size))?;
        }
        out.write_str("</ul>\n")
    })
}

/// One name, several contents: which of them?
pub(super) fn choices(name: &str, choices: &[&ImageStatus]) -> String {
    build(1024 + 256 * choices.len(), |out| {
        open(out, "Several contents", None)?;
        writeln!(out, "<h1>{} has several contents</h1>\n<ul>", Text(name))?;
        for image in choices {
            let held = image.holders.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            writeln!(
                out,
                "<li>{} <span class=dim>{}, on {}</span>",
                torrent_link(image),
                Size(image.size),
                Text(&held)
            )?;
        }
        out.write_str("</ul>\n")
    })
}

fn build(capacity: usize, write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut page = String::with_capacity(capacity);
    write(&mut page).expect("writing to a String does not fail");
    page
}

fn open(out: &mut String, title: &str, refresh_s: Option<u32>) -> fmt::Result {
    out.write_str("<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n")?;
    out.write_str("<meta name=viewport content=\"width=device-width, initial-scale=1\">\n")?;
    if let Some(seconds) = refresh_s {
        writeln!(out, "<meta http-equiv=refresh content={seconds}>")?;
    }
    writeln!(out, "<title>{title}</title>\n<link rel=stylesheet href=/style.css>\n</head>\n<body>")
}

fn header(out: &mut String, status: &Status, mesh: &str) -> fmt::Result {
    let live = status.nodes.iter().filter(|n| n.live).count();
    out.write_str("<header><h1>labmesh</h1>\n")?;
    write!(out, "<p>Mesh <b>{}</b>. This node is <b>{}</b>, ", Text(mesh), Text(&status.name))?;
    match (status.role, &status.master) {
        (Role::Master, _) => write!(out, "the master")?,
        (Role::Solo, _) => write!(out, "alone and master of itself")?,
        (Role::Follower | Role::Candidate, Some(master)) => write!(out, "its master is <b>{}</b>", Text(master))?,
        (Role::Follower | Role::Candidate, None) => write!(out, "<span class=warn>looking for a master</span>")?,
    }
    writeln!(out, " (term {}). {live} of {} nodes are here.</p></header>", status.term, status.nodes.len())
}

/// The columns and the totals row of bttrack's page, so that those who knew it feel at home.
fn images(out: &mut String, images: &[ImageStatus]) -> fmt::Result {
    const COLUMNS: [(&str, bool); 7] = [
        ("info hash", false),
        ("torrent name", false),
        ("size", true),
        ("complete", true),
        ("downloading", true),
        ("downloaded", true),
        ("transferred", true),
    ];
    out.write_str("<h2>Images</h2>\n")?;
    if images.is_empty() {
        return out.write_str("<p class=dim>No image is offered yet. Put one into a cache: labmesh add FILE</p>\n");
    }
    thead(out, &COLUMNS)?;
    out.write_str("<tbody>\n")?;
    for i in images {
        out.write_str("<tr>")?;
        text(out, "info hash", format_args!("<code>{}</code>", i.info_hash))?;
        text(out, "torrent name", torrent_link(i))?;
        number(out, "size", Size(i.size))?;
        number(out, "complete", i.complete)?;
        number(out, "downloading", i.downloading)?;
        number(out, "downloaded", i.downloaded)?;
        number(out, "transferred", Size(i.size.saturating_mul(i.downloaded)))?;
        out.write_str("</tr>\n")?;
    }
    let sum = |f: fn(&ImageStatus) -> u64| images.iter().map(f).fold(0u64, u64::saturating_add);
    out.write_str("</tbody>\n<tfoot><tr>")?;
    cell(out, "in all", format_args!("{} image{}", images.len(), if images.len() == 1 { "" } else { "s" }))?;
    cell(out, "torrent name", "")?;
    number(out, "size", Size(sum(|i| i.size)))?;
    number(out, "complete", sum(|i| i.complete.into()))?;
    number(out, "downloading", sum(|i| i.downloading.into()))?;
    number(out, "downloaded", sum(|i| i.downloaded))?;
    number(out, "transferred", Size(sum(|i| i.size.saturating_mul(i.downloaded))))?;
    out.write_str("</tr></tfoot>\n</table></div>\n")
}

/// Every node with what it fetches and seeds; a node with several transfers has a row for each.
fn nodes(out: &mut String, status: &Status) -> fmt::Result {
    const COLUMNS: [(&str, bool); 11] = [
        ("name", false),
        ("address", false),
        ("role", false),
        ("mode", false),
        ("image", false),
        ("state", false),
        ("progress", false),
        ("speed", true),
        ("seed time left", true),
        ("weight", true),
        ("site", false),
    ];
    let names: BTreeMap<InfoHash, &str> = status.images.iter().map(|i| (i.info_hash, i.name.as_str())).collect();
    out.write_str("<h2>Nodes</h2>\n")?;
    thead(out, &COLUMNS)?;
    out.write_str("<tbody>\n")?;
    for node in &status.nodes {
        let (first, more) = match node.transfers.split_first() {
            Some((first, more)) => (Some(first), more),
            None => (None, &[][..]),
        };
        node_row(out, node, first, &names)?;
        for transfer in more {
            out.write_str("<tr class=more><td></td><td></td><td></td>")?;
            transfer_cells(out, transfer, &names)?;
            out.write_str("<td></td><td></td></tr>\n")?;
        }
    }
    out.write_str("</tbody>\n</table></div>\n")
}

fn node_row(
    out: &mut String,
    node: &NodeStatus,
    transfer: Option<&TransferReport>,
    names: &BTreeMap<InfoHash, &str>,
) -> fmt::Result {
    out.write_str("<tr>")?;
    match node.addr {
        Some(ip) => {
            let addr = std::net::SocketAddr::new(ip, node.http_port);
            text(out, "name", format_args!("<a href=\"http://{addr}/\">{}</a>", Text(&node.name)))?;
            cell(out, "address", ip)?;
        }
        None => {
            text(out, "name", Text(&node.name))?;
            cell(out, "address", "")?;
        }
    }
    match (node.live, node.role) {
        (false, _) => cell(out, "role", "<span class=warn>away</span>")?,
        (true, Role::Master) => cell(out, "role", "<b>master</b>")?,
        (true, role) => cell(out, "role", view::role(role))?,
    }
    match transfer {
        Some(transfer) => transfer_cells(out, transfer, names)?,
        None => out.write_str("<td></td><td></td><td></td><td></td><td></td><td></td>")?,
    }
    number(out, "weight", node.weight.get())?;
    text(out, "site", Text(&node.site))?;
    out.write_str("</tr>\n")
}

fn transfer_cells(out: &mut String, t: &TransferReport, names: &BTreeMap<InfoHash, &str>) -> fmt::Result {
    cell(out, "mode", t.mode)?;
    match names.get(&t.info_hash) {
        Some(name) => text(out, "image", Text(name))?,
        None => cell(out, "image", format_args!("<code>{:?}</code>", t.info_hash))?,
    }
    match t.state {
        TransferState::Waiting => {
            cell(out, "state", format_args!("<span class=warn>waiting for {} pieces</span>", t.missing_pieces))?;
        }
        state => cell(out, "state", view::state(state))?,
    }
    cell(out, "progress", Progress(t.permille))?;
    number(out, "speed", Speed { down: t.down_bps, up: t.up_bps })?;
    number(out, "seed time left", Left { state: t.state, left: t.seed_left_s.map(|s| Duration::from_secs(s.into())) })
}

/// What this node itself fetches and seeds, in more detail.
fn transfers(out: &mut String, transfers: &[TransferStatus]) -> fmt::Result {
    const COLUMNS: [(&str, bool); 9] = [
        ("image", false),
        ("mode", false),
        ("state", false),
        ("progress", false),
        ("speed", true),
        ("received", true),
        ("sent", true),
        ("seed time left", true),
        ("from", false),
    ];
    out.write_str("<h2>On this node</h2>\n")?;
    if transfers.is_empty() {
        return out.write_str("<p class=dim>This node fetches and seeds nothing.</p>\n");
    }
    thead(out, &COLUMNS)?;
    out.write_str("<tbody>\n")?;
    for t in transfers {
        let permille = u64::from(t.have) * 1000 / u64::from(t.pieces.max(1));
        out.write_str("<tr>")?;
        text(out, "image", Text(&t.name))?;
        cell(out, "mode", t.mode)?;
        text(out, "state", Doing(t))?;
        cell(out, "progress", Progress(permille as u16))?;
        number(out, "speed", Speed { down: t.down_bps, up: t.up_bps })?;
        number(out, "received", Size(t.downloaded))?;
        number(out, "sent", Size(t.uploaded))?;
        number(out, "seed time left", Left { state: t.state, left: t.seed_left })?;
        text(out, "from", Sources(&t.sources))?;
        out.write_str("</tr>\n")?;
    }
    out.write_str("</tbody>\n</table></div>\n")
}

fn footer(out: &mut String) -> fmt::Result {
    out.write_str(
        "<footer>Torrents: <a href=/images/>/images/</a> · For programs: <a href=/api/status>/api/status</a>, ",
    )?;
    out.write_str("<a href=/api/images>/api/images</a>, <a href=/metrics>/metrics</a> · ")?;
    writeln!(out, "labmesh {}. This page changes nothing.</footer>", env!("CARGO_PKG_VERSION"))
}

fn thead(out: &mut String, columns: &[(&str, bool)]) -> fmt::Result {
    out.write_str("<div class=wide><table>\n<thead><tr>")?;
    for (name, is_number) in columns {
        write!(out, "<th scope=col{}>{name}</th>", if *is_number { " class=n" } else { "" })?;
    }
    out.write_str("</tr></thead>\n")
}

fn cell(out: &mut String, label: &str, content: impl fmt::Display) -> fmt::Result {
    write!(out, "<td data-label=\"{label}\">{content}</td>")
}

/// A cell that may be long: it is broken anywhere before the table grows too wide.
fn text(out: &mut String, label: &str, content: impl fmt::Display) -> fmt::Result {
    write!(out, "<td class=t data-label=\"{label}\">{content}</td>")
}

fn number(out: &mut String, label: &str, content: impl fmt::Display) -> fmt::Result {
    write!(out, "<td class=n data-label=\"{label}\">{content}</td>")
}

/// Where the torrent of an image is: its name, and the content too if the name alone does not say which.
pub(super) fn image_path(image: &ImageStatus) -> String {
    const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
    let name = utf8_percent_encode(&image.name, PATH);
    match image.ambiguous {
        true => format!("/images/{name}@{}.torrent", &image.info_hash.to_string()[..8]),
        false => format!("/images/{name}.torrent"),
    }
}

fn torrent_link(image: &ImageStatus) -> String {
    format!("<a href=\"{}\">{}</a>", image_path(image), Text(&image.name))
}

/// Text from outside, which becomes nothing but text: escaped, without control characters, and kept from turning the
/// writing direction of what follows.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<bdi>")?;
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_char(char::REPLACEMENT_CHARACTER)?,
                c => f.write_char(c)?,
            }
        }
        f.write_str("</bdi>")
    }
}

/// Bytes, in the decimal units that disks and links are sold in.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ByteSize(self.0).display().si())
    }
}

struct Progress(u16);

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = self.0.min(1000);
        let (whole, tenth) = (permille / 10, permille % 10);
        write!(f, "<span class=bar><progress max=1000 value={permille}></progress> {whole}.{tenth} %</span>")
    }
}

struct Speed {
    down: u64,
    up: u64,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.down > 0 {
            write!(f, "↓ {}/s", Size(self.down))?;
        }
        if self.down > 0 && self.up > 0 {
            f.write_str("<br>")?;
        }
        if self.up > 0 {
            write!(f, "↑ {}/s", Size(self.up))?;
        }
        Ok(())
    }
}

struct Left {
    state: TransferState,
    left: Option<Duration>,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.state, self.left) {
            (TransferState::Seeding, None) => f.write_str("no end"),
            (TransferState::Seeding, Some(left)) => {
                write!(f, "{}", humantime::format_duration(Duration::from_secs(left.as_secs())))
            }
            _ => Ok(()),
        }
    }
}

/// What a transfer of this node does, and what it waits for.
struct Doing<'a>(&'a TransferStatus);

impl fmt::Display for Doing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        match (t.state, &t.error) {
            (TransferState::Waiting, _) => {
                write!(f, "<span class=warn>waiting for {} pieces", t.missing_pieces)?;
                if !t.last_seen_on.is_empty() {
                    write!(f, " last seen on {}", Text(&t.last_seen_on.join(", ")))?;
                }
                f.write_str("</span>")
            }
            (state, Some(error)) => {
                write!(f, "<span class=warn>{}: {}</span>", view::state(state), Text(&error.to_string()))
            }
            (state, None) => f.write_str(view::state(state)),
        }
    }
}

/// Who sent how much, most first.
struct Sources<'a>(&'a [(String, u64, u64)]);

impl fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut senders: Vec<_> = self.0.iter().filter(|(_, received, _)| *received > 0).collect();
        senders.sort_by_key(|(_, received, _)| std::cmp::Reverse(*received));
        for (n, (name, received, _)) in senders.iter().take(SOURCES_SHOWN).enumerate() {
            write!(f, "{}{} {}", if n > 0 { ", " } else { "" }, Text(name), Size(*received))?;
        }
        match senders.len().saturating_sub(SOURCES_SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_becomes_nothing_but_text() {
        let shown = Text("<script>alert('1&\"2')</script>\n").to_string();
        assert_eq!(shown, "<bdi>&lt;script&gt;alert(&#39;1&amp;&quot;2&#39;)&lt;/script&gt;\u{fffd}</bdi>");
    }

    #[test]
    fn seed_time_is_told_only_while_seeding() {
        let left = |state, secs: Option<u64>| Left { state, left: secs.map(Duration::from_secs) }.to_string();
        assert_eq!(left(TransferState::Seeding, Some(90)), "1m 30s");
        assert_eq!(left(TransferState::Seeding, None), "no end");
        assert_eq!(left(TransferState::Fetching, None), "");
    }

    #[test]
    fn the_best_senders_are_named_and_the_others_counted() {
        let source = |n: u64| (format!("pc{n:02}"), n * 1000, 0);
        let six: Vec<_> = (0..6).map(source).collect();
        let shown = Sources(&six).to_string();
        assert!(shown.starts_with("<bdi>pc05</bdi> 5.0 kB, "), "{shown}");
        assert!(shown.ends_with("<bdi>pc02</bdi> 2.0 kB and 1 more"), "{shown}");
    }
}
