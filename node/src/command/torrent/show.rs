//! `labmesh torrent show`: everything that a `.torrent` says, in the words of `ctorrent -x` and `transmission-show`.
//!
//! Rule: a line that ctorrent has begins as there, down to the single space, for scripts that look for it; what it lacks
//! is named as by transmission-show.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use labmesh_proto::wire::metainfo::survey::{File, Survey};
use sha2::{Digest as _, Sha256};

use super::super::fetch;
use super::place;
use crate::progress::Out;
use crate::view::{self, Exit, Failure};

/// Shows what a .torrent says, also of one that labmesh does not fetch.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The path or URL of a .torrent
    torrent: String,
}

impl Show {
    pub(super) async fn run(self, out: Out) -> anyhow::Result<()> {
        let bytes = fetch::bytes(&place(&self.torrent)).await?.unwrap_or_default();
        show(out, &bytes).with_context(|| self.torrent)
    }
}

fn show(out: Out, bytes: &[u8]) -> anyhow::Result<()> {
    let survey = Survey::read(bytes).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    let v2 = survey.is_v2.then(|| hex(&Sha256::digest(&bytes[survey.info.clone()])));
    out.json(&json(&survey, v2.as_deref()))?;
    Ok(out.say(&text(&survey, v2.as_deref()))?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn size(survey: &Survey) -> u64 {
    survey.files.iter().map(|file| file.length).fold(0, u64::saturating_add)
}

fn json(survey: &Survey, v2: Option<&str>) -> serde_json::Value {
    let file = |file: &File| serde_json::json!({ "path": file.path, "size": file.length });
    serde_json::json!({
        "name": survey.name, "info_hash": survey.info_hash.map(|hash| hash.to_string()), "info_hash_v2": v2,
        "size": size(survey), "piece_length": survey.piece_length, "pieces": survey.pieces,
        "private": survey.private, "source": survey.source, "comment": survey.comment,
        "created_by": survey.created_by, "created": survey.created, "trackers": survey.announce,
        "web_seeds": survey.web_seeds, "files": survey.files.iter().map(file).collect::<Vec<_>>(),
        "refused": survey.refused.as_ref().map(ToString::to_string),
    })
}

fn text(survey: &Survey, v2: Option<&str>) -> String {
    let mut lines: Vec<(&str, String)> = vec![("Name", survey.name.clone())];
    lines.extend(survey.info_hash.map(|hash| ("Hash", hash.to_string())));
    lines.extend(v2.map(|hash| ("Hash (v2)", hash.to_owned())));
    let size = size(survey);
    lines.push(("Total size", format!("{} ({size} bytes)", view::size(size))));
    lines.push(("Pieces", survey.pieces.to_string()));
    lines.push(("Piece length", format!("{} ({})", survey.piece_length, view::binary_size(survey.piece_length))));
    lines.push(("Private", if survey.private { "Yes" } else { "No" }.to_owned()));
    let optional = [("Comment", &survey.comment), ("Created with", &survey.created_by), ("Source", &survey.source)];
    lines.extend(optional.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))));
    lines.extend(survey.created.and_then(date).map(|date| ("Created on", date)));
    lines.extend(survey.web_seeds.iter().map(|url| ("Web seed", url.clone())));
    let tiers = survey.announce.iter().enumerate();
    let mut trackers = tiers.flat_map(|(tier, urls)| urls.iter().map(move |url| (tier + 1, url)));
    lines.extend(trackers.next().map(|(_, url)| ("Announce", url.clone())));
    let mut text = String::new();
    for (key, value) in lines {
        text.push_str(&format!("{key}: {}\n", view::printable(&value)));
    }
    for (n, (tier, url)) in trackers.enumerate() {
        text.push_str(if n == 0 { "Alternates:\n" } else { "" });
        text.push_str(&format!(" {}. {} (tier {tier})\n", n + 1, view::printable(url)));
    }
    if survey.is_folder {
        text.push_str(&format!("Directory: {}\n", view::printable(&survey.name)));
    }
    for (n, file) in survey.files.iter().enumerate() {
        text.push_str(&format!("<{}> {} [{}]\n", n + 1, view::printable(&file.path), file.length));
    }
    if let Some(refused) = &survey.refused {
        text.push_str(&format!("labmesh does not fetch it: {refused}\n"));
    }
    text
}

/// What no calendar has is left out.
fn date(seconds: i64) -> Option<String> {
    /// The end of the year 9999, as far as the calendar's text goes.
    const LAST: u64 = 253_402_300_799;
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds <= LAST)?;
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    Some(humantime::format_rfc3339_seconds(time).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_that_read_ctorrent_find_its_lines() {
        let bytes = include_bytes!("../../../../tests/vectors/mktorrent.torrent");
        let survey = Survey::read(bytes).unwrap();
        let text = text(&survey, None);
        let file = format!("<1> {} [{}]", survey.files[0].path, survey.files[0].length);
        assert!(text.lines().any(|line| line == file), "{text}");
        assert!(text.contains("\nHash: 15792ab834aa62646e7ec8b1472b58a517650f1e\n"), "{text}");
        assert_eq!(text.matches("\nAnnounce: ").count(), 1, "{text}");
        assert!(!text.contains("does not fetch"), "{text}");
    }

    #[test]
    fn several_files_are_shown_and_honestly_refused() {
        let survey = Survey::read(include_bytes!("../../../../tests/vectors/multi-file.torrent")).unwrap();
        let text = text(&survey, None);
        assert!(text.contains("\n<2> ") && text.contains("labmesh does not fetch it: a torrent of several"), "{text}");
        assert_eq!(json(&survey, None)["files"].as_array().unwrap().len(), survey.files.len());
    }

    #[test]
    fn no_date_is_too_strange() {
        assert_eq!(date(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!((date(-1), date(i64::MAX)), (None, None));
    }
}
