//! A `.torrent` by its path or its URL.
//!
//! Rule: plain HTTP, one answer of at most [`TORRENT_BYTES_MAX`] bytes, ten seconds; no redirections, no TLS. Not here:
//! what is in it (`labmesh_proto::wire::metainfo`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use labmesh_proto::config::TORRENT_BYTES_MAX;
use labmesh_proto::wire::metainfo::Metainfo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::view::{Exit, Failure};

/// For the whole of it; a `.torrent` is small and near.
const PATIENCE: Duration = Duration::from_secs(10);
/// What stands before a body.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The bytes of the `.torrent` that a person named, if it is a path or URL of one; checked to be one.
///
/// # Errors
/// If it cannot be had, or is not a `.torrent`.
pub(super) async fn torrent(image: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(bytes) = bytes(image).await? else { return Ok(None) };
    Metainfo::parse(&bytes).with_context(|| format!("{image} is not a usable .torrent"))?;
    Ok(Some(bytes))
}

/// The same, whatever is in it.
///
/// # Errors
/// If it cannot be had.
pub(super) async fn bytes(image: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let scheme = image.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let bytes = match scheme.as_deref() {
        Some("http") => {
            timeout(PATIENCE, get(image)).await.with_context(|| format!("{image}: no answer in 10 s"))??
        }
        Some("https") => {
            let words =
                "https is not spoken here: use http, or fetch the .torrent with another program and give its path";
            return Err(Failure::new(Exit::Usage, format!("{image}: {words}")).into());
        }
        Some(scheme) => {
            return Err(Failure::new(Exit::Usage, format!("{image}: {scheme} is not spoken here, only http")).into());
        }
        None if names_a_file(image) => read(Path::new(image))?,
        None => return Ok(None),
    };
    Ok(Some(bytes))
}

/// No image of the mesh has such a name.
fn names_a_file(image: &str) -> bool {
    image.ends_with(".torrent") || Path::new(image).is_absolute()
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let failed = |e: std::io::Error| Failure::new(Exit::NoSuchImage, format!("cannot read {shown}: {e}"));
    let size = path.metadata().map_err(failed)?.len();
    if size > TORRENT_BYTES_MAX as u64 {
        bail!("{shown} has {size} bytes, which no .torrent of ours has (labmesh add offers an image)");
    }
    Ok(std::fs::read(path).map_err(failed)?)
}

async fn get(url: &str) -> anyhow::Result<Vec<u8>> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if host.is_empty() || host.contains('@') || url.chars().any(|c| c.is_control() || c == ' ') {
        bail!("{url:?} is not a URL (spaces are written %20)");
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let place = if has_port { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(&place).await.with_context(|| format!("cannot connect to {place}"))?;
    // 1.0, so that no server answers in chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/x-bittorrent\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let most = HEAD_BYTES_MAX + TORRENT_BYTES_MAX;
    stream.take(most as u64 + 1).read_to_end(&mut answer).await.with_context(|| format!("{url} broke off"))?;
    if answer.len() > most {
        bail!("{url} answers with more than a .torrent of ours has ({TORRENT_BYTES_MAX} bytes)");
    }
    body(&answer).with_context(|| url.to_owned())
}

/// The body of an answer with status 200 that is as long as it says.
fn body(answer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let end = answer.windows(4).take(HEAD_BYTES_MAX).position(|four| four == b"\r\n\r\n").context("no HTTP answer")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => {}
        Some("404") => return Err(Failure::new(Exit::NoSuchImage, "the server has no such .torrent (404)").into()),
        _ => bail!("the server answers {status:?}"),
    }
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    if let Some(expected) = length.and_then(|(_, value)| value.trim().parse::<usize>().ok())
        && expected != body.len()
    {
        bail!("the answer broke off: {} of {expected} bytes", body.len());
    }
    Ok(body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(answer: &[u8], expected: &str) {
        let error = format!("{:#}", body(answer).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn only_whole_good_answers_have_a_body() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde").unwrap(), b"de");
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nd\r\n\r\ne").unwrap(), b"d\r\n\r\ne");
        refused(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nde", "2 of 3 bytes");
        refused(b"HTTP/1.1 404 Not Found\r\n\r\n", "no such .torrent");
        refused(b"HTTP/1.1 302 Found\r\nLocation: x\r\n\r\n", "302");
        refused(b"SSH-2.0-OpenSSH\r\n", "no HTTP answer");
        refused(b"\r\n\r\n", "the server answers");
    }

    #[tokio::test]
    async fn what_cannot_be_a_torrent_is_refused_with_a_reason() {
        for (image, expected) in [
            ("https://pc01/x.torrent", "https is not spoken"),
            ("ftp://pc01/x.torrent", "ftp is not spoken"),
            ("/nonexistent/x.torrent", "cannot read"),
            ("http:///x", "is not a URL"),
            ("http://a b/x", "is not a URL"),
        ] {
            let error = format!("{:#}", torrent(image).await.unwrap_err());
            assert!(error.contains(expected), "{image}: {error}");
        }
        assert!(torrent("ou1/win10.img").await.unwrap().is_none());
    }
}
