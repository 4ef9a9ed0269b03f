//! What the tracker remembers over a restart, as a file: bttrack's `--dfile`.
//!
//! Rule: written under another name, synced and renamed, by a thread of its own, so that neither a crash nor a slow disk
//! costs more than the last seconds. A line that cannot be read is left out, so that a damaged file costs no more than
//! its damage. When a client announced stands there by the clock on the wall, since no other goes on while the PC is
//! off: set forward, it makes clients forgotten, which announce again; set back, it keeps them for one silence more. Not
//! here: when it is written and what is in it (`labmesh_proto::tracker`).
//!
//! A line of a torrent: info hash, how often it was completed, and if a person named it its bytes and its name. A line of
//! a client: `client`, info hash, address, peer id in hexadecimal digits, bytes that it misses, has sent and has received,
//! the second since 1970 of its announce; then `counted` if it has said `completed`, and `hidden` if it was not found.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use labmesh_proto::config::{BOOK_KEPT_CLIENTS, CATALOGUE_IMAGES_MAX, TORRENT_NAME_BYTES_MAX};
use labmesh_proto::id::InfoHash;
use labmesh_proto::tracker::keeping::{Kept, KeptClient};
use labmesh_proto::wire::control::{ForeignPeer, RegisteredName};

const FILE: &str = "tracker";
/// What a line of a client begins with; no info hash does.
const CLIENT: &str = "client ";
/// As many lines as there are entries, each as long as it can be: hash, two numbers, name; for a client two hashes, an
/// address, four numbers, three words.
const BYTES_MAX: usize =
    CATALOGUE_IMAGES_MAX * (40 + 2 * 21 + 2 + TORRENT_NAME_BYTES_MAX) + BOOK_KEPT_CLIENTS * (2 * 41 + 54 + 4 * 21 + 24);

/// The file.
#[derive(Clone, Debug)]
pub struct Book {
    path: PathBuf,
    /// What is to be written; whoever writes holds the second lock, so that the newest is never overwritten by an older.
    latest: Arc<Mutex<Option<(Kept, SystemTime)>>>,
    writing: Arc<Mutex<()>>,
}

impl Book {
    /// The book in that state folder.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join(FILE), latest: Arc::default(), writing: Arc::default() }
    }

    /// What it says at this time of the day; nothing if there is none yet.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn load(&self, now: SystemTime) -> io::Result<Kept> {
        let mut text = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(BYTES_MAX as u64).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(parse(&String::from_utf8_lossy(&text), seconds(now)))
    }

    /// Writes what holds `now` on a thread of `runtime`. Of several in a row only the last need reach the disk.
    pub fn save(&self, runtime: &tokio::runtime::Handle, kept: Kept, now: SystemTime) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((kept, now));
        let book = self.clone();
        runtime.spawn_blocking(move || book.flush());
    }

    /// Writes what is not written yet.
    pub fn flush(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((kept, now)) = latest
            && let Err(error) = self.write(&print(&kept, seconds(now)))
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot keep the tracker's book");
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

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn print(book: &Kept, now: u64) -> String {
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
    for client in &book.clients {
        let ForeignPeer { info_hash, addr, peer_id, left, uploaded, downloaded } = client.peer;
        let (id, heard) = (InfoHash(peer_id), now.saturating_sub(client.silent.as_secs()));
        let counted = if client.counted { " counted" } else { "" };
        let hidden = if client.shown { "" } else { " hidden" };
        text.push_str(CLIENT);
        text.push_str(&format!("{info_hash} {addr} {id} {left} {uploaded} {downloaded} {heard}{counted}{hidden}\n"));
    }
    text
}

fn parse(text: &str, now: u64) -> Kept {
    let mut book = Kept::default();
    for line in text.lines().take(CATALOGUE_IMAGES_MAX + BOOK_KEPT_CLIENTS) {
        if let Some(client) = line.strip_prefix(CLIENT) {
            book.clients.extend(parse_client(client, now));
            continue;
        }
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

fn parse_client(line: &str, now: u64) -> Option<KeptClient> {
    let mut words = line.split(' ');
    let info_hash = words.next()?.parse().ok()?;
    let addr: SocketAddr = words.next()?.parse().ok().filter(|addr: &SocketAddr| is_of_one(addr.ip()))?;
    let InfoHash(peer_id) = words.next()?.parse().ok()?;
    let mut number = || words.next()?.parse::<u64>().ok();
    let (left, uploaded, downloaded, heard) = (number()?, number()?, number()?, number()?);
    let (mut counted, mut shown) = (false, true);
    for word in words {
        match word {
            "counted" => counted = true,
            "hidden" => shown = false,
            _ => return None,
        }
    }
    let peer = ForeignPeer { info_hash, addr, peer_id, left, uploaded, downloaded };
    Some(KeptClient { peer, silent: Duration::from_secs(now.saturating_sub(heard)), counted, shown })
}

/// One machine can have this address.
fn is_of_one(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(byte: u8, name: &str) -> RegisteredName {
        RegisteredName { info_hash: InfoHash([byte; 20]), name: name.to_owned(), size: 700 << 20 }
    }

    const NOON: u64 = 1_764_244_800;

    fn client(addr: &str, silent: u64) -> KeptClient {
        let peer = ForeignPeer {
            info_hash: InfoHash([2; 20]),
            addr: addr.parse().unwrap(),
            peer_id: *b"-TR3000- \0\xff\nabcdefgh",
            left: 5,
            uploaded: 0,
            downloaded: u64::MAX,
        };
        KeptClient { peer, silent: Duration::from_secs(silent), counted: false, shown: true }
    }

    fn sample() -> Kept {
        let downloaded = vec![(InfoHash([1; 20]), 4), (InfoHash([2; 20]), u64::MAX)];
        let names = vec![name(2, "windows 10 ñ.iso"), name(3, "x")];
        let clients = vec![
            client("10.1.2.3:6881", 0),
            KeptClient { counted: true, ..client("[fd00::7]:1", 30) },
            KeptClient { shown: false, ..client("10.1.2.3:0", 94) },
        ];
        Kept { clients, downloaded, names }
    }

    #[test]
    fn what_is_saved_is_loaded_and_nothing_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::new(folder.path());
        let noon = UNIX_EPOCH + Duration::from_secs(NOON);
        assert_eq!(book.load(noon).unwrap(), Kept::default());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        book.save(runtime.handle(), Kept::default(), noon);
        book.save(runtime.handle(), sample(), noon);
        book.flush();
        assert_eq!(Book::new(folder.path()).load(noon).unwrap(), sample());
        assert!(!folder.path().join("tracker.new").exists());
    }

    #[test]
    fn clients_are_older_by_the_time_between_and_a_clock_that_was_set_back_makes_none_younger() {
        let text = print(&sample(), NOON);
        let silent = |now: u64| parse(&text, now).clients.iter().map(|c| c.silent.as_secs()).collect::<Vec<_>>();
        assert_eq!(silent(NOON + 600), [600, 630, 694]);
        assert_eq!(silent(NOON - 40), [0, 0, 54]);
        assert_eq!(silent(0), [0, 0, 0]);
    }

    #[test]
    fn a_damaged_line_costs_itself_only() {
        let text = print(&sample(), NOON);
        let good = text.lines().find(|line| line.starts_with(CLIENT)).unwrap();
        for (from, to) in [
            ("10.1.2.3", "10.1.2"),
            ("10.1.2.3", "0.0.0.0"),
            ("10.1.2.3", "224.0.0.1"),
            (":6881", ":66881"),
            ("0202", "02"),
            ("2d54", "2d5"),
            (" 5 ", " -5 "),
            ("881", "881 "),
            (" 5 0 ", " 5 "),
        ] {
            let damaged = good.replacen(from, to, 1);
            assert_ne!(damaged, good);
            assert_eq!(parse(&damaged, NOON), Kept::default(), "{damaged}");
        }
        assert_eq!(parse(&format!("{good} happy"), NOON), Kept::default());
        let damaged = format!("{}\0\u{fffd}nonsense\n{text}\n12 3\nclient\nclient \n", &text[..30]);
        assert_eq!(parse(&damaged, NOON), sample());
        assert_eq!(parse(&format!("{} 0 5 a\u{7}b\n", InfoHash([1; 20])), NOON), Kept::default());
    }

    /// Cut in its last number, a line is a client that announced long ago, whom the tracker forgets.
    #[test]
    fn a_file_may_end_anywhere() {
        let text = print(&sample(), NOON);
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let cut = parse(&text[..end], NOON);
            assert!(cut.clients.len() <= 3 && cut.downloaded.len() <= 2 && cut.names.len() <= 2);
            let whole = text[..end].lines().filter(|line| line.starts_with(CLIENT)).count();
            assert!(whole.saturating_sub(cut.clients.len()) <= 1, "{}", &text[..end]);
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics_and_gives_only_what_is_good(
            text in "(\\PC|\n| |[0-9a-f]{40} [0-9]{1,3}|client [0-9a-f]{40} 10.0.0.1:[0-9]{1,5} [0-9a-f]{40}( [0-9]{1,20}){3,5}\n)*",
            now: u64,
        ) {
            let book = parse(&text, now);
            prop_assert!(book.names.iter().all(RegisteredName::is_good));
            prop_assert!(book.clients.iter().all(|client| is_of_one(client.peer.addr.ip())));
        }
    }
}
