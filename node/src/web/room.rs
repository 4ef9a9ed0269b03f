//! The room as tiles, one for each PC: who has the image, who is at it, who is in trouble; to be read at a glance.
//!
//! Rule: what a tile says by its colour it says in a word too. Not here: the figures of every transfer (`page`).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use labmesh_proto::node::{NodeStatus, Role, Status};
use labmesh_proto::wire::control::{TransferReport, TransferState};

use super::overview::{Flow, Overview};
use super::page::NodeLink;
use super::text::{Bar, ImageName, Percent, SeedLeft, Speed, Text, plural};
use crate::view;

/// What a PC is at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tile<'a> {
    /// Not heard of lately.
    Away,
    /// Its most important transfer.
    At(&'a TransferReport),
    /// It has the image that the room is about.
    Has,
    /// It is here, and that is all.
    Ready,
}

impl<'a> Tile<'a> {
    fn of(node: &'a NodeStatus, main: Option<&Flow<'_>>) -> Self {
        // Trouble first, then what is fetched and has least; seeding is not worth a word beside them.
        let rank = |t: &TransferReport| match t.state {
            TransferState::Failed => Some((0, 0)),
            TransferState::Waiting => Some((1, t.permille)),
            TransferState::Checking | TransferState::Fetching => Some((2, t.permille)),
            TransferState::Seeding | TransferState::Idle | TransferState::Stopped => None,
        };
        let at = node.transfers.iter().filter_map(|t| Some((rank(t)?, t))).min_by_key(|(rank, _)| *rank);
        let has = main.is_some_and(|flow| flow.image.holders.contains(&node.name));
        match (node.live, at) {
            (false, _) => Self::Away,
            (true, Some((_, report))) => Self::At(report),
            (true, None) if has => Self::Has,
            (true, None) => Self::Ready,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Has => "has",
            Self::Ready => "ready",
            Self::At(report) => match report.state {
                TransferState::Failed => "failed",
                TransferState::Waiting => "waiting",
                _ => "fetching",
            },
        }
    }
}

/// One tile for each node; grouped by site if there are several.
pub(super) fn write(out: &mut String, status: &Status, overview: &Overview<'_>) -> fmt::Result {
    let mut sites: BTreeMap<&str, Vec<&NodeStatus>> = BTreeMap::new();
    for node in &status.nodes {
        sites.entry(&node.site).or_default().push(node);
    }
    out.write_str("<section id=room>\n<h2>Room")?;
    if let Some(flow) = overview.main() {
        write!(out, " <span class=dim>who has {}</span>", ImageName(flow.image))?;
    }
    out.write_str("</h2>\n")?;
    let several = sites.len() > 1;
    for (site, nodes) in sites {
        if several {
            let shown = if site.is_empty() { "no site" } else { site };
            writeln!(out, "<h3>{}</h3>", Text(shown))?;
        }
        out.write_str("<ul class=tiles>\n")?;
        nodes.into_iter().try_for_each(|node| tile(out, node, overview))?;
        out.write_str("</ul>\n")?;
    }
    out.write_str("</section>\n")
}

fn tile(out: &mut String, node: &NodeStatus, overview: &Overview<'_>) -> fmt::Result {
    let main = overview.main();
    let tile = Tile::of(node, main);
    write!(out, "<li class={}><b>{}</b>", tile.class(), NodeLink(node))?;
    if node.live && node.role == Role::Master {
        out.write_str(" <i>master</i>")?;
    }
    out.write_str("<strong>")?;
    match tile {
        Tile::Away => out.write_str("away")?,
        Tile::Ready => out.write_str(if main.is_some() { "has it not" } else { "ready" })?,
        Tile::Has => out.write_str("has it")?,
        Tile::At(report) => match report.state {
            TransferState::Fetching => write!(out, "{}", Percent(report.permille))?,
            state => out.write_str(view::state(state))?,
        },
    }
    out.write_str("</strong>")?;
    match tile {
        Tile::At(report) => at(out, report, overview)?,
        Tile::Has => {
            write!(out, "{}", Bar(1000))?;
            let of_main = |t: &&TransferReport| main.is_some_and(|flow| flow.image.info_hash == t.info_hash);
            if let Some(report) = node.transfers.iter().find(of_main) {
                out.write_str("<small>")?;
                seeding(out, report)?;
                out.write_str("</small>")?;
            }
        }
        Tile::Ready if main.is_none() => {
            let held = overview.held_by(node);
            write!(out, "<small>has {held} image{}</small>", plural(held))?;
        }
        Tile::Away | Tile::Ready => {}
    }
    out.write_str("</li>\n")
}

/// How far a transfer is, how fast, and of what if that is not clear.
fn at(out: &mut String, report: &TransferReport, overview: &Overview<'_>) -> fmt::Result {
    write!(out, "{}<small>", Bar(report.permille))?;
    match report.state {
        TransferState::Waiting => write!(out, "for {} pieces", report.missing_pieces)?,
        TransferState::Fetching => write!(out, "{}", Speed { down: report.down_bps, up: 0 })?,
        _ => {}
    }
    let main = overview.main().map(|flow| flow.image.info_hash);
    let image = overview.image(&report.info_hash).filter(|image| main != Some(image.info_hash));
    if let Some(image) = image {
        write!(out, " {}", ImageName(image))?;
    }
    out.write_str("</small>")
}

fn seeding(out: &mut String, report: &TransferReport) -> fmt::Result {
    write!(out, "{} ", Speed { down: 0, up: report.up_bps })?;
    let left = report.seed_left_s.map(|s| Duration::from_secs(s.into()));
    if left.is_some() {
        write!(out, "<span>seeds {}</span>", SeedLeft { state: report.state, left, as_master: false })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::overview::tests::{node, report};
    use super::*;

    #[test]
    fn a_tile_shows_what_needs_eyes_most() {
        use TransferState::{Failed, Fetching, Seeding, Waiting};
        let pc = |live, transfers: &[(TransferState, u16)]| {
            node("pc1", live, transfers.iter().map(|(state, permille)| report(1, *state, *permille, 0)).collect())
        };
        let class = |live, transfers: &[_]| Tile::of(&pc(live, transfers), None).class();
        assert_eq!(class(true, &[(Fetching, 1), (Failed, 9), (Waiting, 2)]), "failed");
        assert_eq!(class(true, &[(Fetching, 1), (Waiting, 2)]), "waiting");
        assert_eq!(class(true, &[(Seeding, 1000)]), "ready");
        assert_eq!(class(false, &[(Failed, 1)]), "away");
        let slowest = pc(true, &[(Fetching, 900), (Fetching, 100), (Seeding, 1000)]);
        assert!(matches!(Tile::of(&slowest, None), Tile::At(report) if report.permille == 100));
    }
}
