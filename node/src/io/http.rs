//! One `GET` over plain HTTP, for what other machines serve: `.torrent` files and the answers of trackers.
//!
//! Rule: one answer of bounded size in bounded time, and only status 200 has a body. Redirections are not followed, so
//! that nobody is led anywhere that was not named; there is no TLS. Not here: what is in the body.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

/// What stands before a body.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What is read at a time.
const CHUNK: usize = 16 * 1024;

/// What is asked of whom.
#[derive(Clone, Debug)]
pub struct Get<'a> {
    /// A name or an address, without brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// Path and query, encoded as they are sent.
    pub target: &'a str,
    /// The address to ask from, if it matters.
    pub from: Option<IpAddr>,
    /// A longer body is refused.
    pub body_max: usize,
    /// For the whole of it.
    pub within: Duration,
}

/// A body, and who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The other side.
    pub from: IpAddr,
    /// As it came.
    pub bytes: Vec<u8>,
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The name leads nowhere.
    #[error("{0} is not known here: {1}")]
    Unknown(String, io::Error),
    /// Nobody answers there.
    #[error("cannot connect to {0}: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// The connection broke.
    #[error("it broke off: {0}")]
    Broken(#[from] io::Error),
    /// Too slow.
    #[error("no answer in {} s", .0.as_secs())]
    Late(Duration),
    /// Something else listens there.
    #[error("it does not speak HTTP")]
    NotHttp,
    /// Another status than 200.
    #[error("it answers {line:?}")]
    Status {
        /// The number.
        code: u16,
        /// The whole line, cut.
        line: String,
    },
    /// More than was agreed to.
    #[error("it answers with more than {0} bytes")]
    TooLong(usize),
    /// Less than it said.
    #[error("the answer broke off: {got} of {expected} bytes")]
    Short {
        /// Bytes that came.
        got: usize,
        /// Bytes that were announced.
        expected: usize,
    },
}

/// Asks, and returns the body.
///
/// # Errors
/// If there is none; says why.
pub async fn get(what: &Get<'_>) -> Result<Body, HttpError> {
    timeout(what.within, ask(what)).await.map_err(|_| HttpError::Late(what.within))?
}

/// The address of a host; an IPv4 one if it has any, since that is where this node listens.
///
/// # Errors
/// If the name leads nowhere.
pub async fn resolve(host: &str, port: u16) -> Result<SocketAddr, HttpError> {
    let unknown = |e| HttpError::Unknown(host.to_owned(), e);
    let all: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(unknown)?.collect();
    let v4 = all.iter().find(|addr| addr.is_ipv4()).or(all.first());
    v4.copied().ok_or_else(|| unknown(io::ErrorKind::NotFound.into()))
}

async fn ask(what: &Get<'_>) -> Result<Body, HttpError> {
    let Get { host, port, target, from, body_max, .. } = what;
    let addr = resolve(host, *port).await?;
    let mut stream = connect(addr, *from).await.map_err(|e| HttpError::Unreachable(addr, e))?;
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    // 1.0, so that no server answers in chunks or waits for a second question.
    let request = format!("GET {target} HTTP/1.0\r\nHost: {shown}\r\nUser-Agent: labmesh\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; CHUNK];
    let head = loop {
        let n = stream.read(&mut chunk).await?;
        answer.extend_from_slice(&chunk[..n]);
        match head_of(&answer)? {
            Some(head) => break head,
            None if n == 0 => return Err(HttpError::NotHttp),
            None => {}
        }
    };
    let mut bytes = answer.split_off(head.len);
    let wanted = head.content_length.unwrap_or(usize::MAX);
    let most = wanted.min(*body_max + 1);
    while bytes.len() < most {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
    if bytes.len().max(head.content_length.unwrap_or(0)) > *body_max {
        return Err(HttpError::TooLong(*body_max));
    }
    if let Some(expected) = head.content_length {
        if bytes.len() < expected {
            return Err(HttpError::Short { got: bytes.len(), expected });
        }
        bytes.truncate(expected);
    }
    Ok(Body { from: addr.ip().to_canonical(), bytes })
}

async fn connect(addr: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(ip) = from.filter(|ip| ip.is_ipv4() == addr.is_ipv4() && !ip.is_unspecified()) {
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    socket.connect(addr).await
}

/// What stands before a body.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Its bytes, the empty line included.
    len: usize,
    content_length: Option<usize>,
}

/// The head of an answer with status 200; `None` if more has to come.
fn head_of(answer: &[u8]) -> Result<Option<Head>, HttpError> {
    const HTTP: &[u8] = b"HTTP/";
    let begins = answer.len().min(HTTP.len());
    if answer[..begins] != HTTP[..begins] {
        return Err(HttpError::NotHttp);
    }
    let Some(end) = answer.windows(4).take(HEAD_BYTES_MAX).position(|four| four == b"\r\n\r\n") else {
        return if answer.len() > HEAD_BYTES_MAX { Err(HttpError::NotHttp) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(HttpError::NotHttp)?;
    if code != 200 {
        let line = status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
        return Err(HttpError::Status { code, line });
    }
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    let content_length = length.and_then(|(_, value)| value.trim().parse().ok());
    Ok(Some(Head { len: end + 4, content_length }))
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server of one answer on a loopback address: its port.
    pub(crate) async fn serve(answer: Vec<u8>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
        });
        port
    }

    async fn asked(answer: &[u8]) -> Result<Vec<u8>, HttpError> {
        let port = serve(answer.to_vec()).await;
        let within = Duration::from_secs(20);
        let what = Get { host: "127.0.0.1", port, target: "/x", from: None, body_max: 20_000, within };
        get(&what).await.map(|body| body.bytes)
    }

    #[track_caller]
    fn refused(result: Result<Vec<u8>, HttpError>, expected: &str) {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[tokio::test]
    async fn only_whole_good_answers_have_a_body() {
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde").await.unwrap(), b"de");
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\ndetrash").await.unwrap(), b"de");
        assert_eq!(asked(b"HTTP/1.0 200 OK\r\n\r\nd\r\n\r\ne").await.unwrap(), b"d\r\n\r\ne");
        refused(asked(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nde").await, "2 of 3 bytes");
        refused(asked(b"HTTP/1.1 404 Not Found\r\n\r\n").await, "404 Not Found");
        refused(asked(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n").await, "302");
        refused(asked(b"SSH-2.0-OpenSSH\r\n").await, "does not speak HTTP");
        refused(asked(b"\r\n\r\n").await, "does not speak HTTP");
        refused(asked(b"HTTP/1.1 200 OK\r\n").await, "does not speak HTTP");
    }

    #[tokio::test]
    async fn a_long_answer_is_cut_off() {
        let long = [&b"HTTP/1.0 200 OK\r\n\r\n"[..], &[b'x'; 20_001]].concat();
        refused(asked(&long).await, "more than 20000 bytes");
        refused(asked(b"HTTP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n").await, "more than 20000 bytes");
        refused(asked(&[&b"HTTP/1.0 200 OK\r\nX: "[..], &[b'x'; 20_000]].concat()).await, "does not speak HTTP");
    }

    #[tokio::test]
    async fn who_is_not_there_or_silent_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let within = Duration::from_millis(100);
        let what = Get { host: "127.0.0.1", port, target: "/", from: None, body_max: 9, within };
        assert!(matches!(get(&what).await, Err(HttpError::Late(_))));
        drop(silent);
        let what = Get { within: Duration::from_secs(20), ..what };
        assert!(matches!(get(&what).await, Err(HttpError::Unreachable(..))));
    }
}
