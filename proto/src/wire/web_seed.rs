//! Web seeds: where else the file of a torrent lies (BEP 19, `url-list`).
//!
//! Rule: only what a plain `GET` with a range can fetch is one; other addresses of a torrent are left out. Not here: the
//! question itself and its answer, which are HTTP and none of ours.

use std::fmt;
use std::fmt::Write as _;

use crate::config::WEB_SEEDS_PER_TORRENT_MAX;
use crate::wire::metainfo::Metainfo;
use crate::wire::tracker_client::{Scheme, TrackerUrl};

/// One file on one web server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WebSeed {
    /// A name or an address, in lower case and without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query, encoded as they are sent.
    pub target: String,
}

impl WebSeed {
    /// The web seeds of a torrent that can be asked, in its order.
    pub fn of(metainfo: &Metainfo) -> Vec<Self> {
        let urls = metainfo.web_seeds();
        let parsed = urls.iter().filter_map(|url| Self::parse(url, metainfo.name()));
        parsed.take(WEB_SEEDS_PER_TORRENT_MAX).collect()
    }

    /// An address that ends with a slash is that of the folder (BEP 19). What may not stand in an address is encoded:
    /// people write spaces and letters of all alphabets there.
    fn parse(url: &str, name: &str) -> Option<Self> {
        let mut whole = String::new();
        let file = if url.ends_with('/') { name } else { "" };
        for byte in url.bytes() {
            if byte.is_ascii_graphic() { whole.push(byte.into()) } else { write!(whole, "%{byte:02X}").ok()? }
        }
        TrackerUrl::parse(&whole).ok()?;
        for byte in file.bytes() {
            let plain = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
            if plain { whole.push(byte.into()) } else { write!(whole, "%{byte:02X}").ok()? }
        }
        let TrackerUrl { scheme, host, port, target } = TrackerUrl::parse(&whole).ok()?;
        (scheme == Scheme::Http).then_some(Self { host, port, target })
    }
}

impl fmt::Display for WebSeed {
    /// Without the path, which may hold a person's password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(host: &str, port: u16, target: &str) -> Option<WebSeed> {
        Some(WebSeed { host: host.to_owned(), port, target: target.to_owned() })
    }

    #[test]
    fn a_file_is_taken_as_it_is_named_and_a_folder_gets_the_name() {
        let parse = |url| WebSeed::parse(url, "Aula 3 ñ.img");
        assert_eq!(parse("http://Repo/images/a.img"), seed("repo", 80, "/images/a.img"));
        assert_eq!(parse("http://repo:8080/images/"), seed("repo", 8080, "/images/Aula%203%20%C3%B1.img"));
        assert_eq!(parse("http://[fe80::1]/a%20b c.img?k=v"), seed("fe80::1", 80, "/a%20b%20c.img?k=v"));
    }

    #[test]
    fn what_cannot_be_asked_is_none() {
        for url in
            ["", "/", "https://repo/a", "ftp://repo/a", "udp://repo:1/a", "http://", "http://:80/a", "repo/a.img"]
        {
            assert_eq!(WebSeed::parse(url, "a"), None, "{url}");
        }
    }
}
