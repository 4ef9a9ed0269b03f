//! How single things are written on a page: text from outside, sizes, speeds, times, progress.
//!
//! Rule: no text from outside reaches a page but through [`Text`] or [`image_path`].

use std::fmt::{self, Write as _};
use std::time::Duration;

use labmesh_proto::node::{ImageStatus, TransferStatus};
use labmesh_proto::wire::control::TransferState;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::view;

/// Senders named in the row of a transfer; the others are counted.
const SOURCES_SHOWN: usize = 4;
/// Absent holders that are named; the others are counted.
const AWAY_SHOWN: usize = 6;

/// Where the torrent of an image is: its name, and the content too if the name alone does not say which.
pub(super) fn image_path(image: &ImageStatus) -> String {
    const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
    let name = utf8_percent_encode(&image.name, PATH);
    match image.ambiguous {
        true => format!("/images/{name}@{}.torrent", &image.info_hash.to_string()[..8]),
        false => format!("/images/{name}.torrent"),
    }
}

/// Text from outside, which becomes nothing but text: escaped, without control characters, and kept from turning the
/// writing direction of what follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<bdi>")?;
        write!(f, "{}", Plain(self.0))?;
        f.write_str("</bdi>")
    }
}

/// The same where no element may stand: in a title.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<'a>(pub(super) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        Ok(())
    }
}

/// An image by its name; if that is not enough, by its content too.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageName<'a>(pub(super) &'a ImageStatus);

impl fmt::Display for ImageName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Text(&self.0.name))?;
        if self.0.ambiguous {
            write!(f, "<small>@{}</small>", &self.0.info_hash.to_string()[..8])?;
        }
        Ok(())
    }
}

/// Bytes, in the decimal units that disks and links are sold in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&view::size(self.0))
    }
}

/// A bar, of thousandths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar(pub(super) u16);

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = self.0.min(1000);
        write!(f, "<progress max=1000 value={permille}>{}</progress>", Percent(permille))
    }
}

/// Thousandths as people say them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percent(pub(super) u16);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.min(1000) {
            1000 => f.write_str("100 %"),
            permille => write!(f, "{}.{} %", permille / 10, permille % 10),
        }
    }
}

/// Payload in both directions; nothing for nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    pub(super) down: u64,
    pub(super) up: u64,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.down > 0 {
            write!(f, "<span>↓ {}/s</span>", Size(self.down))?;
        }
        if self.down > 0 && self.up > 0 {
            f.write_str(" ")?;
        }
        if self.up > 0 {
            write!(f, "<span>↑ {}/s</span>", Size(self.up))?;
        }
        Ok(())
    }
}

/// How long something will take; nothing if nobody knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left(pub(super) Option<Duration>);

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |left| f.write_str(&view::span(left)))
    }
}

/// How long a copy is seeded still, while it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeedLeft {
    pub(super) state: TransferState,
    pub(super) left: Option<Duration>,
    /// There is no end because the node is the master.
    pub(super) as_master: bool,
}

impl fmt::Display for SeedLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.state, self.left) {
            (TransferState::Seeding, None) if self.as_master => f.write_str("as master"),
            (TransferState::Seeding, None) => f.write_str("no end"),
            (TransferState::Seeding, Some(left)) => f.write_str(&view::span(left)),
            _ => Ok(()),
        }
    }
}

/// What is waited for, and who had it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting<'a> {
    pub(super) pieces: u32,
    pub(super) away: &'a [&'a str],
}

impl fmt::Display for Waiting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waiting for {} piece{}", self.pieces, plural(self.pieces as usize))?;
        if self.away.is_empty() {
            return f.write_str(" that nobody present has");
        }
        f.write_str(" last seen on ")?;
        for (n, name) in self.away.iter().take(AWAY_SHOWN).enumerate() {
            write!(f, "{}{}", if n > 0 { ", " } else { "" }, Text(name))?;
        }
        match self.away.len().saturating_sub(AWAY_SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What a transfer of this node does, and what it waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing<'a>(pub(super) &'a TransferStatus);

impl fmt::Display for Doing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        match (t.state, &t.error) {
            (TransferState::Waiting, _) => {
                let away: Vec<&str> = t.last_seen_on.iter().map(String::as_str).collect();
                write!(f, "<span class=warn>{}", Waiting { pieces: t.missing_pieces, away: &away })?;
                if let Some(said) = &t.tracker {
                    write!(f, "; its tracker, {}", Text(said))?;
                }
                f.write_str("</span>")
            }
            (state, Some(error)) => {
                write!(f, "<span class=bad>{}: {}</span>", view::state(state), Text(&error.to_string()))
            }
            (state, None) => f.write_str(view::state(state)),
        }
    }
}

/// Who sent how much, most first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a>(pub(super) &'a [(String, u64, u64)]);

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

/// `s` unless there is one.
pub(super) fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_becomes_nothing_but_text() {
        let shown = Text("<script>alert('1&\"2')</script>\r\n").to_string();
        assert_eq!(shown, "<bdi>&lt;script&gt;alert(&#39;1&amp;&quot;2&#39;)&lt;/script&gt;\u{fffd}\u{fffd}</bdi>");
    }

    #[test]
    fn seed_time_is_told_only_while_seeding() {
        let left = |state, secs: Option<u64>| {
            SeedLeft { state, left: secs.map(Duration::from_secs), as_master: false }.to_string()
        };
        let master = SeedLeft { state: TransferState::Seeding, left: None, as_master: true };
        assert_eq!(master.to_string(), "as master");
        assert_eq!(left(TransferState::Seeding, Some(90)), "90 s");
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

    #[test]
    fn who_had_the_missing_pieces_is_named() {
        let shown = |pieces, away: &[&str]| Waiting { pieces, away }.to_string();
        assert_eq!(shown(1, &[]), "waiting for 1 piece that nobody present has");
        assert_eq!(shown(412, &["pc07"]), "waiting for 412 pieces last seen on <bdi>pc07</bdi>");
        assert!(shown(2, &["a", "b", "c", "d", "e", "f", "g", "h"]).ends_with("<bdi>f</bdi> and 2 more"));
    }

    #[test]
    fn one_hundred_percent_is_everything() {
        assert_eq!(
            [0, 412, 999, 1000, 2000].map(|p| Percent(p).to_string()).join(" "),
            "0.0 % 41.2 % 99.9 % 100 % 100 %"
        );
    }
}
