//! `labmesh torrent create`: the `.torrent` of a file.
//!
//! Rule: the same file and the same flags give the same bytes, and the info hash that mktorrent, ctorrent and
//! Transmission give them. The file is hashed on all cores and never written to.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use labmesh_proto::config::{PIECE_BYTES_MAX, PIECE_BYTES_MIN, TORRENT_BYTES_MAX};
use labmesh_proto::id::Geometry;
use labmesh_proto::wire::metainfo::{Metainfo, piece_length_for};

use crate::config::values::Value as _;
use crate::io::cache::torrent_of;
use crate::progress::{Out, SharedJob};
use crate::view::{self, Exit, Failure};

/// What a torrent holds besides the hashes of its pieces, roomy.
const REST_BYTES: u64 = 64 * 1024;

/// Makes the .torrent of a file. The same file and the same flags give the same bytes, everywhere.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// The file
    file: PathBuf,
    /// A tracker, or several of one tier with commas between them; each use begins the next tier
    #[arg(long, short, value_name = "URL[,URL]", value_parser = tier)]
    announce: Vec<Tier>,
    /// Write the .torrent there instead of beside the file
    #[arg(long, short = 'o', visible_alias = "output", value_name = "PATH")]
    target: Option<PathBuf>,
    /// Its name in the torrent, instead of the file's
    #[arg(long, short)]
    name: Option<String>,
    /// Bytes of a piece, a power of two such as 4MiB; without it, the mesh's rule
    #[arg(long, short = 'l', value_name = "SIZE", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// A comment
    #[arg(long, short, value_name = "TEXT")]
    comment: Option<String>,
    /// Where the file can be fetched by HTTP or FTP too (BEP 19); may be said several times
    #[arg(long, short, value_name = "URL", value_parser = web_seed)]
    web_seed: Vec<String>,
    /// For peers of its own trackers only (BEP 27); this is another swarm
    #[arg(long, short)]
    private: bool,
    /// Write today's date, which makes the .torrent another file each time
    #[arg(long)]
    date: bool,
    /// Replace a .torrent that is there
    #[arg(long, short)]
    force: bool,
}

/// Trackers that are equally good (BEP 12).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tier(Vec<String>);

fn tier(text: &str) -> Result<Tier, String> {
    text.split(',').map(|url| one_of(url, &["http", "https", "udp"])).collect::<Result<_, _>>().map(Tier)
}

fn web_seed(text: &str) -> Result<String, String> {
    one_of(text, &["http", "https", "ftp"])
}

/// An address with one of these schemes and a host.
fn one_of(url: &str, schemes: &[&str]) -> Result<String, String> {
    let expected = || format!("no such address: {url:?} (expected {}://HOST...)", schemes.join("://, "));
    let (scheme, rest) = url.split_once("://").ok_or_else(expected)?;
    let good = schemes.contains(&scheme.to_ascii_lowercase().as_str())
        && !rest.is_empty()
        && !rest.starts_with(['/', ':'])
        && !url.contains(|c: char| c.is_control() || c.is_whitespace());
    if good { Ok(url.to_owned()) } else { Err(expected()) }
}

fn piece_length(text: &str) -> Result<u32, String> {
    let bytes = ByteSize::read(text)?.as_u64();
    let good = bytes.is_power_of_two() && (PIECE_BYTES_MIN.into()..=PIECE_BYTES_MAX.into()).contains(&bytes);
    good.then_some(bytes as u32).ok_or_else(|| {
        let (least, most) = (PIECE_BYTES_MIN / 1024, PIECE_BYTES_MAX / 1024 / 1024);
        format!("a piece of {bytes} bytes (expected a power of two from {least}KiB to {most}MiB)")
    })
}

impl Create {
    pub(super) fn run(self, out: Out) -> anyhow::Result<()> {
        let shown = self.file.display();
        let missing = |e| Failure::new(Exit::NoSuchImage, format!("cannot read {shown}: {e}"));
        let before = self.file.metadata().map_err(missing)?;
        if before.is_dir() {
            let words = "is a folder; a torrent here is of one file, as an image is (pack the folder first)";
            return Err(Failure::new(Exit::Usage, format!("{shown} {words}")).into());
        }
        if !before.is_file() || before.len() == 0 {
            bail!("{shown} is {}", if before.is_file() { "empty" } else { "no file" });
        }
        let own_name = self.file.file_name().and_then(|name| name.to_str());
        let name = self
            .name
            .as_deref()
            .or(own_name)
            .with_context(|| format!("the name of {shown} is not UTF-8; --name gives another for the torrent"))?;
        let target = self.target.clone().unwrap_or_else(|| with_ending(&self.file));
        if target.symlink_metadata().is_ok() && !self.force {
            bail!("{} is there already (--force replaces it)", target.display());
        }
        let geometry = self.geometry(before.len())?;
        let metainfo = hashed(out, &self.file, name, geometry)?;
        let after = self.file.metadata().map_err(missing)?;
        if (before.len(), before.modified().ok()) != (after.len(), after.modified().ok()) {
            bail!("{shown} changed while it was hashed; try again when nobody writes to it");
        }
        let bytes = self.dressed(metainfo)?;
        // What is published is what is read back.
        let written = Metainfo::parse(&bytes)?;
        write(&target, &bytes).with_context(|| format!("cannot write {}", target.display()))?;
        let geometry = written.geometry();
        out.json(&serde_json::json!({
            "event": "created", "torrent": target, "name": written.name(), "info_hash": written.info_hash().to_string(),
            "size": geometry.length(), "piece_length": geometry.piece_length(), "pieces": geometry.pieces(),
            "private": written.private(),
        }))?;
        let cut = format!("{} in {} pieces", view::size(geometry.length()), geometry.pieces());
        Ok(out.say(&format!("{}: {cut}, info hash {}", target.display(), written.info_hash()))?)
    }

    fn geometry(&self, size: u64) -> anyhow::Result<Geometry> {
        let piece_length = self.piece_length.unwrap_or_else(|| piece_length_for(size));
        let hashes = size.div_ceil(u64::from(piece_length)).saturating_mul(20);
        if hashes.saturating_add(REST_BYTES) > TORRENT_BYTES_MAX as u64 {
            let words = format!(
                "pieces of {} KiB make a torrent of more than {TORRENT_BYTES_MAX} bytes; choose a larger \
                 --piece-length, or none",
                piece_length / 1024
            );
            return Err(Failure::new(Exit::Usage, words).into());
        }
        Geometry::new(size, piece_length).context("the file is too large for a torrent")
    }

    /// Everything that was asked for around the hashes.
    fn dressed(&self, metainfo: Metainfo) -> anyhow::Result<Vec<u8>> {
        let mut metainfo = if self.private { metainfo.into_private()? } else { metainfo };
        if !self.web_seed.is_empty() {
            metainfo.set_web_seeds(&self.web_seed);
        }
        if self.date {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock says before 1970")?;
            metainfo.set_created(now.as_secs());
        }
        let tiers: Vec<Vec<String>> = self.announce.iter().map(|tier| tier.0.clone()).collect();
        Ok(metainfo.to_bytes(&tiers, self.comment.as_deref()))
    }
}

/// `FILE.torrent`.
fn with_ending(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".torrent");
    path.into()
}

fn hashed(out: Out, file: &Path, name: &str, geometry: Geometry) -> anyhow::Result<Metainfo> {
    let job = SharedJob::new(out.job(name, geometry.length()), "hashing");
    let metainfo = torrent_of(file, name, geometry, &|done| job.reach(done));
    job.clear();
    metainfo.with_context(|| format!("cannot make a torrent of {}", file.display()))
}

/// Whole or not at all, and readable for everybody, as torrents are.
fn write(target: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let target = std::path::absolute(target)?;
    let folder = target.parent().context("it is a folder")?;
    let mut file = tempfile::Builder::new().prefix(".labmesh-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_sizes_are_checked_before_anything_is_hashed() {
        let urls = |list: &[&str]| Ok(Tier(list.iter().map(|url| (*url).to_owned()).collect()));
        assert_eq!(tier("http://a/announce"), urls(&["http://a/announce"]));
        assert_eq!(tier("udp://a:1,HTTP://[::1]:2/x"), urls(&["udp://a:1", "HTTP://[::1]:2/x"]));
        for bad in ["", "http://", "http:///x", "ftp://a", "http://a b", "http://a,", "a:80", "http://a\n"] {
            assert!(tier(bad).is_err(), "{bad:?}");
        }
        assert!(web_seed("ftp://mirror/x.img").is_ok() && web_seed("udp://mirror").is_err());
        assert_eq!([piece_length("4MiB"), piece_length("16384")], [Ok(4 << 20), Ok(16384)]);
        for bad in ["4MB", "8KiB", "128MiB", "0", "many"] {
            assert!(piece_length(bad).is_err(), "{bad}");
        }
    }
}
