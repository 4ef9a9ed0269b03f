//! What the tracker remembers over a restart, as a file: bttrack's `--dfile`, without the peers, which announce again.
//!
//! Rule: written under another name, synced and renamed, by a thread of its own, so that neither a crash nor a slow disk
//! costs more than the last seconds. A line that cannot be read is left out, so that a damaged file costs no more than
//! its damage. Not here: when it is written and what is in it (`labmesh_proto::tracker`).
//!
//! Each line: info hash, how often it was completed, and for a torrent that a person named its bytes and its name.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use labmesh_proto::config::{CATALOGUE_IMAGES_MAX, TORRENT_NAME_BYTES_MAX};
use labmesh_proto::wire::control::{BookReplica, RegisteredName};

const FILE: &str = "tracker";
/// As many lines as there are entries, each as long as it can be: hash, two numbers, name.
const BYTES_MAX: usize = CATALOGUE_IMAGES_MAX * (40 + 2 * 21 + 2 + TORRENT_NAME_BYTES_MAX);

/// The file.
#[derive(Clone, Debug)]
pub struct Book {
    path: PathBuf,
    /// What is to be written; whoever writes holds the second lock, so that the newest is never overwritten by an older.
    latest: Arc<Mutex<Option<String>>>,
    writing: Arc<Mutex<()>>,
}

impl Book {
    /// The book in that state folder.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join(FILE), latest: Arc::default(), writing: Arc::default() }
    }

    /// What it says; nothing if there is none yet.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn load(&self) -> io::Result<BookReplica> {
        let mut text = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(BYTES_MAX as u64).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(parse(&String::from_utf8_lossy(&text)))
    }

    /// Writes it on a thread of `runtime`. Of several in a row only the last need reach the disk.
    pub fn save(&self, runtime: &tokio::runtime::Handle, book: &BookReplica) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(print(book));
        let book = self.clone();
        runtime.spawn_blocking(move || book.flush());
    }

    /// Writes what is not written yet.
    pub fn flush(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(text) = latest
            && let Err(error) = self.write(&text)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot keep the tracker's counters");
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

fn print(book: &BookReplica) -> String {
    let mut lines = std::collections::BTreeMap::new();
    for (info_hash, downloaded) in &book.downloaded {
        lines.insert(*info_hash, (*downloaded, None));
    }
    for name in &book.names {
        lines.entry(name.info_hash).or_insert((0, None)).1 = Some(name);
    }
    let mut text = String::new();
    for (info_hash, (downloaded, name)) in lines {
        text.push_str(&format!("{info_hash} {downloaded}"));
        if let Some(name) = name {
            text.push_str(&format!(" {} {}", name.size, name.name));
        }
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> BookReplica {
    let mut book = BookReplica::default();
    for line in text.lines().take(CATALOGUE_IMAGES_MAX) {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next();
        let hash = word().and_then(|w| w.parse().ok());
        let (Some(info_hash), Some(downloaded)) = (hash, word().and_then(|w| w.parse().ok())) else { continue };
        if downloaded > 0 {
            book.downloaded.push((info_hash, downloaded));
        }
        if let (Some(Ok(size)), Some(name)) = (word().map(str::parse), word()) {
            let name = RegisteredName { info_hash, name: name.to_owned(), size };
            book.names.extend(Some(name).filter(RegisteredName::is_good));
        }
    }
    book
}

#[cfg(test)]
mod tests {
    use labmesh_proto::id::InfoHash;
    use proptest::prelude::*;

    use super::*;

    fn name(byte: u8, name: &str) -> RegisteredName {
        RegisteredName { info_hash: InfoHash([byte; 20]), name: name.to_owned(), size: 700 << 20 }
    }

    fn sample() -> BookReplica {
        let downloaded = vec![(InfoHash([1; 20]), 4), (InfoHash([2; 20]), u64::MAX)];
        BookReplica { peers: vec![], downloaded, names: vec![name(2, "windows 10 ñ.iso"), name(3, "x")] }
    }

    #[test]
    fn what_is_saved_is_loaded_and_nothing_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::new(folder.path());
        assert_eq!(book.load().unwrap(), BookReplica::default());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        book.save(runtime.handle(), &BookReplica::default());
        book.save(runtime.handle(), &sample());
        book.flush();
        assert_eq!(Book::new(folder.path()).load().unwrap(), sample());
        assert!(!folder.path().join("tracker.new").exists());
    }

    #[test]
    fn a_damaged_line_costs_itself_only() {
        let text = print(&sample());
        let damaged = format!("{}\0\u{fffd}nonsense\n{text}\n12 3\n", &text[..30]);
        assert_eq!(parse(&damaged), sample());
        assert_eq!(parse(&format!("{} 0 5 a\u{7}b\n", InfoHash([1; 20]))), BookReplica::default());
    }

    proptest! {
        #[test]
        fn noise_never_panics_and_gives_only_good_names(text in "(\\PC|\n| |[0-9a-f]{40} [0-9]{1,3})*") {
            prop_assert!(parse(&text).names.iter().all(RegisteredName::is_good));
        }
    }
}
