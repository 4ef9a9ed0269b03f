//! The head of an HTTP request, as far as the desk must understand it: is this an announce, and is it the last one?
//!
//! Rule: only what is plainly an announce stays at the desk. Everything else, malformed heads included, goes to the pages,
//! which know all of HTTP. Not here: what an announce says (`labmesh_proto::wire::http_tracker`).

use std::mem::MaybeUninit;
use std::net::IpAddr;

/// Headers that an announcing client sends at most; one with more is dealt with by the pages.
const HEADERS_MAX: usize = 32;
/// Where bttrack announces; some old clients know only its longer names.
const ANNOUNCE_PATHS: [&str; 3] = ["/announce", "/announce.php", "/tracker.php/announce"];

/// What the first bytes of a request are.
#[derive(Debug, PartialEq, Eq)]
pub enum Head<'b> {
    /// The rest is still to come.
    Partial,
    /// A client announces.
    Announce(AnnounceHead<'b>),
    /// Something else.
    Page,
}

/// An announce.
#[derive(Debug, PartialEq, Eq)]
pub struct AnnounceHead<'b> {
    /// Bytes of the head; what follows is the next request.
    pub len: usize,
    /// What stands behind the `?`.
    pub query: &'b str,
    /// Another request may follow on this connection.
    pub keep: bool,
    /// The protocol is HTTP/1.0.
    pub old: bool,
    /// For whom a proxy asks, as it says: the last address of `X-Forwarded-For`.
    pub forwarded: Option<IpAddr>,
}

/// Reads the first bytes of a request.
pub fn read(bytes: &[u8]) -> Head<'_> {
    let method = b"GET ";
    if !bytes.starts_with(&method[..method.len().min(bytes.len())]) {
        return Head::Page;
    }
    let mut headers = [MaybeUninit::uninit(); HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_request_with_uninit_headers(&mut request, bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => announce(&request, len).map_or(Head::Page, Head::Announce),
        // A browser need not wait until it has said everything.
        Ok(httparse::Status::Partial) if request.path.is_none_or(|path| announced(path).is_some()) => Head::Partial,
        Ok(httparse::Status::Partial) | Err(_) => Head::Page,
    }
}

fn announce<'b>(request: &httparse::Request<'_, 'b>, len: usize) -> Option<AnnounceHead<'b>> {
    let query = announced(request.path?)?;
    let old = request.version == Some(0);
    let (mut keep, mut forwarded) = (!old, None);
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let says = |word: &str| header.value.trim_ascii().eq_ignore_ascii_case(word.as_bytes());
        if is("connection") {
            keep = if old { says("keep-alive") } else { !says("close") };
        } else if is("x-forwarded-for") {
            let last = header.value.rsplit(|b| *b == b',').next()?;
            forwarded = std::str::from_utf8(last.trim_ascii()).ok().and_then(|ip| ip.parse().ok());
        } else if is("transfer-encoding") || is("expect") || is("upgrade") || (is("content-length") && !says("0")) {
            return None;
        }
    }
    Some(AnnounceHead { len, query, keep, old, forwarded: forwarded.map(|ip: IpAddr| ip.to_canonical()) })
}

/// The query of an announce. A proxy may be asked for the whole URL (RFC 9112, s. 3.2.2).
fn announced(target: &str) -> Option<&str> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/')?..],
        None => target,
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    ANNOUNCE_PATHS.contains(&path).then_some(query)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain<'b>(query: &'b str, len: usize) -> AnnounceHead<'b> {
        AnnounceHead { len, query, keep: true, old: false, forwarded: None }
    }

    #[track_caller]
    fn check(request: &str, expected: &Head<'_>) {
        assert_eq!(read(request.as_bytes()), *expected, "{request}");
    }

    #[test]
    fn announces_are_read_in_the_forms_that_clients_use() {
        for path in ["/announce", "/announce.php", "/tracker.php/announce", "http://pc07.lab:6969/announce"] {
            let request = format!("GET {path}?a=1&b=%ff HTTP/1.1\r\nHost: x\r\n\r\n");
            check(&request, &Head::Announce(plain("a=1&b=%ff", request.len())));
        }
        check("GET /announce HTTP/1.1\r\n\r\n", &Head::Announce(plain("", 26)));
        let old = "GET /announce?x HTTP/1.0\r\n\r\n";
        check(old, &Head::Announce(AnnounceHead { keep: false, old: true, ..plain("x", old.len()) }));
        let old = "GET /announce?x HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n";
        check(old, &Head::Announce(AnnounceHead { old: true, ..plain("x", old.len()) }));
        let last = "GET /announce?x HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\nGET";
        check(last, &Head::Announce(AnnounceHead { keep: false, ..plain("x", last.len() - 3) }));
    }

    #[test]
    fn the_last_address_is_the_one_that_the_nearest_proxy_saw() {
        let request = "GET /announce?x HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4, ::ffff:10.0.0.9 \r\n\r\n";
        let forwarded = Some([10, 0, 0, 9].into());
        check(request, &Head::Announce(AnnounceHead { forwarded, ..plain("x", request.len()) }));
        let nonsense = "GET /announce?x HTTP/1.1\r\nX-Forwarded-For: unknown\r\n\r\n";
        check(nonsense, &Head::Announce(plain("x", nonsense.len())));
    }

    #[test]
    fn everything_else_is_for_the_pages() {
        for page in [
            "POST /announce HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\n",
            "GET /announced?x HTTP/1.1\r\n\r\n",
            "GET http://announce HTTP/1.1\r\n\r\n",
            "GET /announce?x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "GET /announce?x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /announce?x HTTP/9\r\n\r\n",
            "what is this\r\n\r\n",
        ] {
            check(page, &Head::Page);
        }
        check(&format!("GET /announce?x HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100)), &Head::Page);
    }

    #[test]
    fn no_truncation_is_more_than_it_is() {
        let whole = "GET /announce?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(read(&whole.as_bytes()[..end]), Head::Partial, "{end}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(tail: Vec<u8>, text in "\\PC*") {
            let _ = read(&tail);
            let _ = read(&[b"GET /announce?", &tail[..]].concat());
            let _ = read(&[b"GET ", text.as_bytes(), b" HTTP/1.1\r\n\r\n"].concat());
        }
    }
}
