//! The demo's image: random bytes, and whether a copy is the same.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

const CHUNK: usize = 4 * 1024 * 1024;

/// Makes the image.
///
/// # Errors
/// If it cannot be written.
pub(super) async fn make(folder: &Path, size: u64) -> anyhow::Result<PathBuf> {
    let path = folder.join("source.img");
    let place = path.clone();
    spawn_blocking(move || -> io::Result<()> {
        let (mut random, mut image) = (File::open("/dev/urandom")?, File::create(place)?);
        let mut left = size;
        let mut chunk = vec![0; CHUNK];
        while left > 0 {
            let part = &mut chunk[..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
            random.read_exact(part)?;
            image.write_all(part)?;
            left -= part.len() as u64;
        }
        Ok(())
    })
    .await?
    .with_context(|| format!("cannot make the image in {}", folder.display()))?;
    Ok(path)
}

/// The SHA-256 of a file.
///
/// # Errors
/// If it cannot be read.
pub(super) async fn digest(path: PathBuf) -> anyhow::Result<[u8; 32]> {
    let shown = path.display().to_string();
    spawn_blocking(move || -> io::Result<[u8; 32]> {
        let (mut file, mut hash, mut chunk) = (File::open(path)?, Sha256::new(), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(hash.finalize().into()),
                n => hash.update(&chunk[..n]),
            }
        }
    })
    .await?
    .with_context(|| format!("cannot read {shown}"))
}
