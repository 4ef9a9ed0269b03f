//! A `.torrent` by its path or its URL.
//!
//! Rule: plain HTTP, one answer of at most [`TORRENT_BYTES_MAX`] bytes, ten seconds; no redirections, no TLS. Not here:
//! what is in it (`labmesh_proto::wire::metainfo`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use labmesh_proto::config::TORRENT_BYTES_MAX;
use labmesh_proto::wire::metainfo::Metainfo;
use labmesh_proto::wire::tracker_client::TrackerUrl;
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::io::http::{self, Get, HttpError};
use crate::view::{Exit, Failure};

/// For the whole of it; a `.torrent` is small and near.
const PATIENCE: Duration = Duration::from_secs(10);

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
        Some("http") => get(image).await?,
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
    // What a person types holds letters that a URL does not.
    let Ok(TrackerUrl { host, port, target, .. }) = TrackerUrl::parse(&utf8_percent_encode(url, CONTROLS).to_string())
    else {
        bail!("{url:?} is not a URL (spaces are written %20)");
    };
    let what = Get { host: &host, port, target: &target, from: None, body_max: TORRENT_BYTES_MAX, within: PATIENCE };
    match http::get(&what).await {
        Ok(body) => Ok(body.bytes),
        Err(HttpError::Status { code: 404, .. }) => {
            let words = format!("{url}: the server has no such .torrent (404)");
            Err(Failure::new(Exit::NoSuchImage, words).into())
        }
        Err(error) => Err(error).with_context(|| url.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
