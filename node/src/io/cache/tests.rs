//! Real files in temporary folders, real inotify. Tests wait for what the cache reports.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use labmesh_proto::config::Mode;
use labmesh_proto::id::Geometry;
use labmesh_proto::io::Input;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::config::Settings;
use crate::io::Event;

/// Far longer than anything takes, so that only a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

struct Lab {
    folder: TempDir,
    cache: Cache,
    events: mpsc::Receiver<Event>,
}

fn config(folder: &Path, extra: &str) -> Config {
    let file = folder.join("labmesh.toml");
    fs::write(&file, extra).unwrap();
    let settings = Settings {
        cache: Some(folder.join("cache")),
        library: Some(vec![folder.join("library")]),
        state: Some(folder.join("state")),
        ..Settings::default()
    };
    Config::resolve(Some(&file), settings).unwrap()
}

impl Lab {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("cache")).unwrap();
        prepare(&folder.path().join("cache"));
        Self::on(folder)
    }

    fn on(folder: TempDir) -> Self {
        let (sender, events) = mpsc::channel(16);
        let cache = Cache::start(&config(folder.path(), ""), "labmesh.local", sender).unwrap();
        Self { folder, cache, events }
    }

    /// Ends this node's cache and starts another on the same folders.
    fn restarted(self) -> Self {
        let Self { folder, cache, events } = self;
        drop((cache, events));
        Self::on(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("cache").join(name)
    }

    fn source(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    async fn next(&mut self) -> Input {
        match timeout(PATIENCE, self.events.recv()).await.expect("the cache reports something").unwrap() {
            Event::Input(input) => input,
            other => panic!("{other:?}"),
        }
    }

    /// The next report must be that this image is here.
    async fn has(&mut self, expected: &str) -> (Arc<Metainfo>, bool) {
        match self.next().await {
            Input::CacheHas { name, metainfo, stopped } if name == expected => (metainfo, stopped),
            other => panic!("expected {expected}, not {other:?}"),
        }
    }

    async fn loses(&mut self, expected: &Metainfo) {
        assert_eq!(self.next().await, Input::CacheLost { info_hash: expected.info_hash() });
    }

    async fn add(&self, file: PathBuf, name: Option<&str>, placement: Placement) -> Result<Added, AddError> {
        let (progress, _listening) = watch::channel(Step::default());
        let add = Add { file, name: name.map(ToOwned::to_owned), placement };
        timeout(PATIENCE, self.cache.add(add, progress)).await.expect("add ends")
    }

    async fn until(&self, what: impl Fn() -> bool) {
        let look = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, look).await.expect("it happens");
    }
}

/// What the system's own tool says.
fn md5sum(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..32].to_owned()
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

/// Pieces are written a thousand times a second; the watcher sleeps between crowds of them, and must miss nothing else.
#[tokio::test]
async fn an_image_that_comes_while_another_is_fetched_is_found() {
    let mut lab = Lab::new(|_| {});
    let mut part = fs::File::create(lab.file("big.img.part")).unwrap();
    let pieces = Arc::new(AtomicUsize::new(0));
    std::thread::spawn({
        let pieces = Arc::clone(&pieces);
        // Until the test is over, however it ends.
        move || {
            while Arc::strong_count(&pieces) > 1 {
                part.write_all(&[0; 4096]).unwrap();
                pieces.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let written = || pieces.load(Ordering::Relaxed);
    lab.until(|| written() > 300).await;
    fs::write(lab.file("new.img"), bytes(2, 100_000)).unwrap();
    lab.has("new.img").await;
    assert!(written() > 400, "it was fetched all the while");
}

#[tokio::test]
async fn images_are_found_with_their_sidecars_in_opengnsys_words() {
    let content = bytes(1, 3_000_000);
    let mut lab = Lab::new(|cache| {
        fs::create_dir(cache.join("ou1")).unwrap();
        fs::write(cache.join("ou1/win 10.img"), &content).unwrap();
        fs::write(cache.join("notes.txt"), b"no image").unwrap();
        fs::write(cache.join("locked.img"), b"x").unwrap();
        fs::write(cache.join("locked.img.lock"), b"").unwrap();
        fs::write(cache.join(".hidden.img"), b"x").unwrap();
    });
    let (metainfo, stopped) = lab.has("ou1/win 10.img").await;
    assert_eq!((metainfo.name(), stopped), ("win 10.img", false));
    assert_eq!(metainfo.geometry(), Geometry::new(3_000_000, 64 * 1024).unwrap());
    let image = lab.file("ou1/win 10.img");
    let full = lab.file("ou1/win 10.img.full.sum");
    let torrent = lab.file("ou1/win 10.img.torrent");
    lab.until(|| full.exists() && read_torrent(&torrent).is_ok_and(|m| m.comment().is_some())).await;
    let whole = md5sum(&format!("md5sum '{}'", image.display()));
    let tail = md5sum(&format!("tail -c1M '{}' | md5sum", image.display()));
    assert_eq!(fs::read_to_string(full).unwrap(), format!("{whole}\n"));
    assert_eq!(fs::read_to_string(lab.file("ou1/win 10.img.sum")).unwrap(), format!("{tail}\n"));
    let written = read_torrent(&torrent).unwrap();
    assert_eq!((written.comment(), written.info_hash()), (Some(whole.as_str()), metainfo.info_hash()));
    assert!(lab.events.is_empty(), "locked, hidden and other files are not offered");
}

#[tokio::test]
async fn a_new_image_is_offered_when_it_has_stopped_growing() {
    let mut lab = Lab::new(|_| {});
    let path = lab.file("a.img");
    for len in [10, 20, 30] {
        fs::write(&path, bytes(2, len * 1000)).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(lab.events.is_empty(), "it still grows");
    }
    let (metainfo, _) = lab.has("a.img").await;
    assert_eq!(metainfo.geometry().length(), 30_000);
}

#[tokio::test]
async fn changed_content_is_a_new_image() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), b"old").unwrap());
    let (old, _) = lab.has("a.img").await;
    fs::write(lab.file("a.img"), b"something new").unwrap();
    lab.loses(&old).await;
    let (new, _) = lab.has("a.img").await;
    assert_ne!(old.info_hash(), new.info_hash());
    assert_eq!(read_torrent(&lab.file("a.img.torrent")).unwrap().info_hash(), new.info_hash());
}

#[tokio::test]
async fn removing_image_torrent_or_adding_a_lock_ends_the_offer() {
    let mut lab = Lab::new(|cache| {
        for (n, name) in ["a.img", "b.img", "c.img"].iter().enumerate() {
            fs::write(cache.join(name), [n as u8]).unwrap();
        }
    });
    let mut all = Vec::new();
    for name in ["a.img", "b.img", "c.img"] {
        all.push(lab.has(name).await.0);
    }
    fs::remove_file(lab.file("a.img")).unwrap();
    lab.loses(&all[0]).await;
    fs::remove_file(lab.file("b.img.torrent")).unwrap();
    lab.loses(&all[1]).await;
    fs::write(lab.file("c.img.lock"), b"").unwrap();
    lab.loses(&all[2]).await;
    fs::remove_file(lab.file("c.img.lock")).unwrap();
    assert_eq!(lab.has("c.img").await.0.info_hash(), all[2].info_hash());
    assert_eq!(lab.cache.rescan().await.unwrap(), 1, "b.img is hashed again by and by");
    assert_eq!(lab.has("b.img").await.0.info_hash(), all[1].info_hash());
}

#[tokio::test]
async fn the_marker_stops_and_starts_an_image() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), b"a").unwrap());
    let info_hash = lab.has("a.img").await.0.info_hash();
    lab.cache.mark_stopped("a.img", true).await.unwrap();
    assert!(lab.file("a.img.torrent.inactive").exists());
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: true });
    let mut lab = lab.restarted();
    assert!(lab.has("a.img").await.1, "stopped over a restart");
    fs::remove_file(lab.file("a.img.torrent.inactive")).unwrap();
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: false });
}

#[tokio::test]
async fn a_torrent_renamed_to_inactive_is_the_marker_and_the_torrent() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), b"a").unwrap());
    let info_hash = lab.has("a.img").await.0.info_hash();
    let full = lab.file("a.img.full.sum");
    lab.until(|| full.exists()).await;
    fs::rename(lab.file("a.img.torrent"), lab.file("a.img.torrent.inactive")).unwrap();
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: true });
    lab.cache.mark_stopped("a.img", false).await.unwrap();
    assert!(lab.file("a.img.torrent").exists() && !lab.file("a.img.torrent.inactive").exists());
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: false });
}

#[tokio::test]
async fn a_verified_image_is_not_hashed_again_after_a_restart() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), bytes(3, 100_000)).unwrap());
    let info_hash = lab.has("a.img").await.0.info_hash();
    let index = lab.folder.path().join("state/cache-index.json");
    lab.until(|| index.exists()).await;
    // Other content with the same size and time: only hashing could tell.
    let path = lab.file("a.img");
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    let Lab { folder, cache, events } = lab;
    drop((cache, events));
    fs::write(&path, bytes(4, 100_000)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    let mut lab = Lab::on(folder);
    assert_eq!(lab.has("a.img").await.0.info_hash(), info_hash);
}

#[tokio::test]
async fn an_unknown_image_is_verified_against_the_torrent_that_it_brings() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), bytes(3, 600_000)).unwrap());
    let info_hash = lab.has("a.img").await.0.info_hash();
    let (image, torrent) = (fs::read(lab.file("a.img")).unwrap(), fs::read(lab.file("a.img.torrent")).unwrap());
    // A damaged image that is older than its torrent is not offered; a good one is, with that torrent.
    let mut lab = Lab::new(|cache| {
        fs::write(cache.join("bad.img"), bytes(9, 600_000)).unwrap();
        fs::write(cache.join("good.img"), &image).unwrap();
        fs::write(cache.join("bad.img.torrent"), &torrent).unwrap();
        fs::write(cache.join("good.img.torrent"), &torrent).unwrap();
    });
    assert_eq!(lab.has("good.img").await.0.info_hash(), info_hash);
    assert_eq!(fs::read(lab.file("bad.img.torrent")).unwrap(), torrent, "it is left alone");
    assert_eq!(lab.cache.rescan().await.unwrap(), 1);
}

#[tokio::test]
async fn a_torrent_that_is_none_is_made_again() {
    let mut lab = Lab::new(|cache| {
        fs::write(cache.join("a.img"), b"a").unwrap();
        fs::write(cache.join("a.img.torrent"), b"d4:infod").unwrap();
    });
    let (metainfo, _) = lab.has("a.img").await;
    assert_eq!(read_torrent(&lab.file("a.img.torrent")).unwrap().info_hash(), metainfo.info_hash());
}

#[tokio::test]
async fn a_library_is_offered_and_never_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("library");
    fs::create_dir(&library).unwrap();
    fs::write(library.join("a.img"), b"a").unwrap();
    let mut lab = Lab::on(folder);
    lab.has("a.img").await;
    assert_eq!(lab.cache.locate("a.img"), Some(library.join("a.img")));
    assert_eq!(fs::read_dir(&library).unwrap().count(), 1, "no sidecars beside it");
    assert!(lab.cache.delete("a.img").await.is_err());
    let mut lab = lab.restarted();
    lab.has("a.img").await;
}

#[tokio::test]
async fn links_are_followed_only_where_add_makes_them() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("real.img"), b"real").unwrap();
    let mut lab = Lab::new(|cache| {
        use std::os::unix::fs::symlink;
        symlink("../labmesh.toml", cache.join("relative.img")).unwrap();
        symlink("/dev/zero", cache.join("device.img")).unwrap();
        symlink(outside.path(), cache.join("folder")).unwrap();
        symlink(outside.path().join("real.img"), cache.join("absolute.img")).unwrap();
    });
    lab.has("absolute.img").await;
    assert_eq!(lab.cache.rescan().await.unwrap(), 1);
}

#[tokio::test]
async fn add_copies_moves_or_links() {
    let mut lab = Lab::new(|_| {});
    let content = bytes(7, 400_000);
    let source = lab.source("source.img", &content);
    let copied = lab.add(source.clone(), Some("ou1/copied.img"), Placement::Copy).await.unwrap();
    let (metainfo, _) = lab.has("ou1/copied.img").await;
    assert_eq!((copied.info_hash, copied.size), (metainfo.info_hash(), 400_000));
    assert_eq!(fs::read(lab.file("ou1/copied.img")).unwrap(), content);
    lab.add(source.clone(), Some("linked.img"), Placement::InPlace).await.unwrap();
    lab.has("linked.img").await;
    assert_eq!(fs::read_link(lab.file("linked.img")).unwrap(), source.canonicalize().unwrap());
    lab.cache.delete("linked.img").await.unwrap();
    lab.next().await;
    assert!(source.exists() && !lab.file("linked.img.torrent").exists());
    lab.add(source.clone(), None, Placement::Move).await.unwrap();
    lab.has("source.img").await;
    assert!(!source.exists() && lab.file("source.img").exists());
    let again = lab.source("other.img", b"other");
    let refused = lab.add(again, Some("source.img"), Placement::Copy).await.unwrap_err();
    assert!(matches!(refused, AddError::Exists(_)), "{refused}");
    let here = lab.add(lab.file("source.img"), None, Placement::Copy).await.unwrap();
    assert_eq!(here.name, "source.img");
}

#[tokio::test]
async fn add_refuses_what_cannot_be_an_image() {
    let lab = Lab::new(|_| {});
    let text = lab.source("notes.txt", b"x");
    let empty = lab.source("empty.img", b"");
    let good = lab.source("good.img", b"x");
    let folder = lab.folder.path().to_owned();
    for (file, name, expected) in [
        (text, None, "does not end like an image"),
        (empty, None, "not a regular file with something in it"),
        (folder.clone(), Some("a.img"), "not a regular file"),
        (folder.join("missing.img"), None, "cannot read"),
        (good.clone(), Some("../a.img"), "cannot be the name"),
        (good.clone(), Some("a/b/c.img"), "cannot be the name"),
        (good, Some(".a.img"), "cannot be the name"),
    ] {
        let error = lab.add(file, name, Placement::Copy).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(fs::read_dir(lab.cache.folder()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_fetched_copy_is_known_without_hashing_and_set_aside_on_demand() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), b"a").unwrap());
    let (metainfo, _) = lab.has("a.img").await;
    fs::write(lab.file("b.img"), b"b").unwrap();
    fs::write(lab.file("b.img.torrent"), fs::read(lab.file("a.img.torrent")).unwrap()).unwrap();
    lab.cache.fetched("b.img", Arc::clone(&metainfo));
    let full = lab.file("b.img.full.sum");
    lab.until(|| full.exists()).await;
    lab.cache.set_aside("b.img").unwrap();
    lab.loses(&metainfo).await;
    assert!(lab.file("b.img.ant").exists() && lab.file("b.img.torrent.ant").exists() && !lab.file("b.img").exists());
}

/// A torrent of other people's tracker for that file.
fn strangers_torrent(file: &Path, name: &str) -> (Metainfo, Vec<u8>) {
    let size = file.metadata().unwrap().len();
    let metainfo = torrent_of(file, name, Geometry::new(size, 262_144).unwrap(), &|_| {}).unwrap();
    let bytes = metainfo.to_bytes(&[vec!["http://tracker.example/announce".to_owned()]], None);
    (metainfo, bytes)
}

#[tokio::test]
async fn a_file_that_a_torrent_names_is_an_image_whatever_it_ends_in() {
    let mut lab = Lab::new(|cache| {
        for (name, torrent) in [("data.bin", "data.bin"), ("README", "another name")] {
            fs::write(cache.join(name), name).unwrap();
            let (_, bytes) = strangers_torrent(&cache.join(name), name);
            fs::write(cache.join(format!("{torrent}.torrent")), bytes).unwrap();
        }
        // Nothing names this one; what names that one is no name of an image; and a torrent that cannot be read stays.
        fs::write(cache.join("notes.txt"), b"x").unwrap();
        fs::write(cache.join("x.sum"), b"x").unwrap();
        fs::write(cache.join("x.torrent"), strangers_torrent(&cache.join("x.sum"), "x.sum").1).unwrap();
        fs::write(cache.join("notes.txt.torrent"), b"not one").unwrap();
        // In a library too.
        let library = cache.with_file_name("library");
        fs::create_dir(&library).unwrap();
        fs::write(library.join("film.mkv"), b"film").unwrap();
        fs::write(library.join("film.mkv.torrent"), strangers_torrent(&library.join("film.mkv"), "film.mkv").1)
            .unwrap();
    });
    for _ in 0..2 {
        // In the order of their names, whatever folder they lie in.
        lab.has("README").await;
        let (data, _) = lab.has("data.bin").await;
        lab.has("film.mkv").await;
        assert_eq!(data.name(), "data.bin");
        assert_eq!(lab.cache.rescan().await.unwrap(), 3);
        assert_eq!(fs::read(lab.file("notes.txt.torrent")).unwrap(), b"not one");
        lab = lab.restarted();
    }
    lab.has("README").await;
    let (data, _) = lab.has("data.bin").await;
    lab.has("film.mkv").await;
    fs::rename(lab.file("data.bin.torrent"), lab.file("data.bin.torrent.inactive")).unwrap();
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash: data.info_hash(), stopped: true });
    fs::remove_file(lab.file("data.bin.torrent.inactive")).unwrap();
    lab.loses(&data).await;
}

#[tokio::test]
async fn a_fetched_copy_of_any_name_is_known_without_hashing() {
    let mut lab = Lab::new(|_| {});
    let file = lab.source("data.bin", b"data");
    let (metainfo, bytes) = strangers_torrent(&file, "data.bin");
    fs::write(lab.file("data.bin.torrent"), bytes).unwrap();
    fs::rename(file, lab.file("data.bin")).unwrap();
    let metainfo = Arc::new(metainfo);
    lab.cache.fetched("data.bin", Arc::clone(&metainfo));
    let full = lab.file("data.bin.full.sum");
    lab.until(|| full.exists()).await;
    fs::remove_file(lab.file("data.bin")).unwrap();
    lab.loses(&metainfo).await;
}

/// Who is about to fetch a file that is there must hear first that it is there.
#[tokio::test]
async fn a_file_that_was_never_read_is_read_before_it_is_fetched() {
    let mut lab = Lab::new(|_| {});
    let (progress, _listening) = watch::channel(Step::default());
    lab.cache.settle("none.img", progress.clone()).await;
    fs::write(lab.file("a.img"), b"a").unwrap();
    lab.cache.settle("a.img", progress).await;
    let told = timeout(Duration::ZERO, lab.has("a.img")).await;
    assert!(told.is_ok(), "before the answer");
}

#[tokio::test]
async fn what_is_offered_already_by_another_name_is_said_to_be() {
    let mut lab = Lab::new(|_| {});
    let file = lab.source("x.img", b"x");
    let first = lab.add(file.clone(), None, Placement::Copy).await.unwrap();
    assert_eq!(first.offered_as, None);
    lab.has("x.img").await;
    fs::copy(lab.file("x.img.torrent"), lab.folder.path().join("x.img.torrent")).unwrap();
    for _ in 0..2 {
        let added = lab.add(file.clone(), Some("x y/\u{fc}.img"), Placement::Copy).await;
        match added {
            Ok(added) => assert_eq!((added.offered_as.as_deref(), added.info_hash), (Some("x.img"), first.info_hash)),
            Err(error) => assert!(matches!(error, AddError::Exists(_)), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_sub_folder_goes_with_its_last_image() {
    let mut lab = Lab::new(|cache| {
        fs::create_dir(cache.join("ou1")).unwrap();
        fs::write(cache.join("ou1/a.img"), b"a").unwrap();
        fs::write(cache.join("ou1/b.img"), b"b").unwrap();
    });
    let (a, _) = lab.has("ou1/a.img").await;
    let (b, _) = lab.has("ou1/b.img").await;
    for name in ["ou1/a.img", "ou1/b.img"] {
        let sum = lab.file(&format!("{name}.full.sum"));
        lab.until(|| sum.exists()).await;
    }
    lab.cache.delete("ou1/a.img").await.unwrap();
    lab.loses(&a).await;
    assert!(lab.file("ou1/b.img").exists());
    lab.cache.delete("ou1/b.img").await.unwrap();
    lab.loses(&b).await;
    assert!(!lab.file("ou1").exists() && lab.cache.folder().exists());
}

#[tokio::test]
async fn hostile_names_reach_no_file() {
    let lab = Lab::new(|_| {});
    let victim = lab.source("victim.img", b"x");
    for name in ["../victim.img", "/etc/passwd", "a/../../victim.img", ""] {
        assert!(lab.cache.delete(name).await.is_err(), "{name}");
        assert!(lab.cache.set_aside(name).is_err(), "{name}");
        assert!(lab.cache.mark_stopped(name, true).await.is_err(), "{name}");
    }
    assert!(victim.exists());
}

#[tokio::test]
async fn partial_copies_go_on_at_the_start() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), bytes(5, 300_000)).unwrap());
    let (metainfo, _) = lab.has("a.img").await;
    let Lab { folder, cache, events } = lab;
    drop((cache, events));
    // A copy that the disk has begun, in another cache.
    let other = tempfile::tempdir().unwrap();
    fs::create_dir(other.path().join("cache")).unwrap();
    let (events, mut opened) = mpsc::channel(16);
    let buffers = crate::io::buffers::Buffers::new(1 << 20);
    let folders = crate::io::disk::Folders { cache: other.path().join("cache"), ..Default::default() };
    let mut disk = crate::io::disk::Disk::start(folders, buffers, events).unwrap();
    let image = labmesh_proto::id::ImageIndex(0);
    disk.open(image, "a.img", Arc::clone(&metainfo), false, Mode::Leecher, None);
    timeout(PATIENCE, opened.recv()).await.unwrap().unwrap();
    disk.close(image);
    drop(opened);
    disk.end();
    drop(folder);
    let mut lab = Lab::on(other);
    let Input::CachePart { name, metainfo: part, mode, .. } = lab.next().await else { panic!("no partial copy") };
    assert_eq!((name.as_str(), part.info_hash(), mode), ("a.img", metainfo.info_hash(), Mode::Leecher));
}

/// The torrent of an image that another lab's cache made, naming these trackers.
async fn torrent_naming(content: &[u8], tracker: &str) -> Vec<u8> {
    let mut lab = Lab::new(|cache| fs::write(cache.join("x.img"), content).unwrap());
    let (metainfo, _) = lab.has("x.img").await;
    metainfo.to_bytes(&[vec![tracker.to_owned()]], None)
}

const ELSEWHERE: &str = "http://tracker.example:6969/announce";

#[tokio::test]
async fn a_torrent_of_others_asks_for_its_image_and_the_meshs_own_does_not() {
    let content = bytes(1, 600_000);
    let mut lab = Lab::new(|_| {});
    let ours = torrent_naming(&content, "http://labmesh.local:6969/announce").await;
    let theirs = torrent_naming(&content, ELSEWHERE).await;
    let info_hash = Metainfo::parse(&theirs).unwrap().info_hash();
    fs::write(lab.file("ours.img.torrent"), ours).unwrap();
    fs::write(lab.file("\u{f1} 1.img.torrent"), &theirs).unwrap();
    let Input::CachePart { name, metainfo, mode, seed_time, stopped } = lab.next().await else { panic!() };
    assert_eq!((name.as_str(), metainfo.info_hash()), ("\u{f1} 1.img", info_hash));
    assert_eq!((mode, seed_time, stopped), (Mode::Seeder, None, false));
    fs::rename(lab.file("\u{f1} 1.img.torrent"), lab.file("\u{f1} 1.img.torrent.inactive")).unwrap();
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: true });
    fs::rename(lab.file("\u{f1} 1.img.torrent.inactive"), lab.file("\u{f1} 1.img.torrent")).unwrap();
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: false });
    fs::remove_file(lab.file("\u{f1} 1.img.torrent")).unwrap();
    assert_eq!(lab.next().await, Input::CacheLost { info_hash });
    // By the name in it if its own is none.
    fs::write(lab.file("whatever.torrent"), &theirs).unwrap();
    let Input::CachePart { name, .. } = lab.next().await else { panic!() };
    assert_eq!(name, "x.img");
    fs::rename(lab.file("whatever.torrent"), lab.file("whatever.torrent.inactive")).unwrap();
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: true });
    fs::rename(lab.file("whatever.torrent.inactive"), lab.file("whatever.torrent")).unwrap();
    assert_eq!(lab.next().await, Input::CacheStopped { info_hash, stopped: false });
}

#[tokio::test]
async fn half_an_image_becomes_a_partial_copy_and_nothing_of_it_is_left_alone() {
    let content = bytes(1, 600_000);
    let theirs = torrent_naming(&content, ELSEWHERE).await;
    let mut lab = Lab::new(|cache| {
        fs::write(cache.join("half.img"), &content[..300_000]).unwrap();
        fs::write(cache.join("other.img"), bytes(2, 300_000)).unwrap();
        fs::write(cache.join("half.img.torrent"), &theirs).unwrap();
        fs::write(cache.join("other.img.torrent"), &theirs).unwrap();
    });
    let Input::CachePart { name, .. } = lab.next().await else { panic!() };
    assert_eq!(name, "half.img");
    let journal = crate::io::disk::read_journal(&lab.file("half.img.part.journal")).unwrap();
    assert_eq!((journal.have.count(), lab.file("half.img").exists()), (4, false));
    assert_eq!(lab.cache.rescan().await.unwrap(), 0);
    assert_eq!(fs::read(lab.file("other.img")).unwrap(), bytes(2, 300_000));
    assert_eq!(fs::read(lab.file("other.img.torrent")).unwrap(), theirs);
}

#[tokio::test]
async fn an_image_that_was_removed_is_fetched_again_when_somebody_says_so() {
    let content = bytes(1, 600_000);
    let theirs = torrent_naming(&content, ELSEWHERE).await;
    let mut lab = Lab::new(|cache| {
        fs::write(cache.join("a.img"), &content).unwrap();
        fs::write(cache.join("a.img.torrent"), &theirs).unwrap();
    });
    let (metainfo, _) = lab.has("a.img").await;
    let full = lab.file("a.img.full.sum");
    lab.until(|| full.exists()).await;
    assert_eq!(fs::read(lab.file("a.img.torrent")).unwrap(), theirs, "it stays as it was dropped");
    fs::remove_file(lab.file("a.img")).unwrap();
    lab.loses(&metainfo).await;
    let mut lab = lab.restarted();
    assert_eq!(lab.cache.rescan().await.unwrap(), 0);
    let Input::CachePart { name, .. } = lab.next().await else { panic!() };
    assert_eq!(name, "a.img", "only the rescan asks for it again");
    assert!(lab.events.is_empty());
}

#[tokio::test]
async fn a_renamed_image_is_not_read_again() {
    let mut lab = Lab::new(|cache| fs::write(cache.join("a.img"), bytes(3, 100_000)).unwrap());
    let (metainfo, _) = lab.has("a.img").await;
    let full = lab.file("a.img.full.sum");
    lab.until(|| full.exists()).await;
    // Other content with the same size and time, changed where nobody watches: only reading could tell.
    let aside = lab.folder.path().join("aside");
    fs::rename(lab.file("a.img"), &aside).unwrap();
    let times = fs::metadata(&aside).unwrap().modified().unwrap();
    fs::write(&aside, bytes(4, 100_000)).unwrap();
    fs::File::options().write(true).open(&aside).unwrap().set_modified(times).unwrap();
    fs::rename(lab.file("a.img.torrent"), lab.file("b.img.torrent")).unwrap();
    fs::rename(&aside, lab.file("b.img")).unwrap();
    lab.loses(&metainfo).await;
    assert_eq!(lab.has("b.img").await.0.info_hash(), metainfo.info_hash());
}
