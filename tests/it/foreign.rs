//! aria2, Transmission, libtorrent and ctorrent in our swarm, and we in theirs; our info hashes beside those of other
//! makers.
//!
//! A client that is not installed skips its test and says so; `tests/run` installs them all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{HTTP_PORT, MIB, Node, Program, one_master, random_file, same_bytes, scratch, wait_for};
use crate::lab::{Host, Lab, Link};

const IMAGE: &str = "foreign.img";
const SIZE: u64 = 48 * MIB + 12_345;
const LONG: Duration = Duration::from_secs(90);

/// A client as a person would start it: a torrent, a folder, and whether the image is in it already.
pub(crate) trait Client {
    fn installed(&self) -> bool;
    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Vec<Program>;
}

pub(crate) struct Aria2;
struct Transmission;
pub(crate) struct Libtorrent;
struct Ctorrent;

impl Client for Aria2 {
    fn installed(&self) -> bool {
        installed("aria2c", &["--version"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Vec<Program> {
        let mut aria2 = host.command("aria2c");
        aria2.args(["--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--seed-ratio=0.0"]);
        aria2.args(["--enable-peer-exchange=false", "--listen-port=6881", "--check-integrity=true", "--no-conf=true"]);
        aria2.arg("--file-allocation=none").arg("--dir").arg(folder).arg(torrent);
        vec![spawn(aria2, folder)]
    }
}

/// Version 3.00 takes its time, whoever the other side is (seen with `tcpdump` and its debug log): it says whom it is
/// interested in and whom it unchokes every ten seconds, the first time ten after its start; it tries encryption
/// first and waits half a second after our refusal; it looks at requests of others twice a second, and makes its own
/// once a second, at most 512 of 16 KiB. No setting changes that, so these two tests take 15 to 25 s.
impl Client for Transmission {
    fn installed(&self) -> bool {
        installed("transmission-daemon", &["--version"]) && installed("transmission-remote", &["--version"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Vec<Program> {
        let state = folder.with_extension("state");
        fs::create_dir_all(&state).expect("a folder can be made");
        let mut daemon = host.command("transmission-daemon");
        daemon.args(["-f", "--no-dht", "--no-lpd", "--no-utp", "--no-portmap", "--no-auth", "-P", "6881"]);
        daemon.arg("-g").arg(&state).arg("-w").arg(folder);
        let daemon = spawn(daemon, folder);
        let add = || {
            let output = host.command("transmission-remote").arg("127.0.0.1:9091").arg("-a").arg(torrent).output();
            output.is_ok_and(|o| o.status.success() && String::from_utf8_lossy(&o.stdout).contains("success"))
        };
        wait_for(Duration::from_secs(15), "transmission to take the torrent", || add().then_some(()));
        vec![daemon]
    }
}

impl Client for Libtorrent {
    fn installed(&self) -> bool {
        installed("/usr/bin/python3", &["-c", "import libtorrent"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Vec<Program> {
        let mut client = host.command(libtorrent_client());
        client.arg(torrent).arg(folder).arg("seed").arg(host.addr().to_string());
        vec![spawn(client, folder)]
    }
}

impl Client for Ctorrent {
    fn installed(&self) -> bool {
        Path::new("/usr/bin/ctorrent").exists() || installed("ctorrent", &["-h"])
    }

    fn start(&self, host: &Host, torrent: &Path, folder: &Path) -> Vec<Program> {
        let mut ctorrent = host.command("ctorrent");
        // Seeds for an hour; the file's name is said, or it would be made in the folder that this test runs in.
        ctorrent.args(["-e", "1", "-p", "6881", "-s"]).arg(folder.join(IMAGE)).arg(torrent);
        ctorrent.current_dir(folder.parent().expect("the test's own folder"));
        vec![spawn(ctorrent, folder)]
    }
}

fn libtorrent_client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/libtorrent_client")
}

pub(crate) fn installed(program: &str, arguments: &[&str]) -> bool {
    let found = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("SKIPPED: {program} {arguments:?} does not run here; tests/run installs it");
    }
    found
}

/// What it prints lies beside its folder, for whoever looks for a failure.
pub(crate) fn spawn(mut command: Command, folder: &Path) -> Program {
    let log = fs::File::create(folder.with_extension("log")).expect("the log can be written");
    let log_too = log.try_clone().expect("a handle can be copied");
    Program(command.stdin(Stdio::null()).stdout(log).stderr(log_too).spawn().expect("it is installed"))
}

/// Waits until the folder holds the image, byte for byte: clients reserve the whole file before they fill it.
#[track_caller]
fn arrives(folder: &Path, image: &Path) {
    wait_for(LONG, &format!("{}", folder.join(IMAGE).display()), || {
        same_bytes(image, &folder.join(IMAGE)).then_some(())
    });
}

/// A labmesh master with an image on the first host, another labmesh node on the second, a stranger on the third.
fn downloads_from_us(client: &dyn Client) {
    let Some(lab) = Lab::open(3, Link::Unshaped).filter(|_| client.installed()) else { return };
    let dir = scratch();
    let image = dir.path().join(IMAGE);
    random_file(&image, SIZE, 5);
    let nodes = [0, 1].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &[]));
    one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15));
    let hash = nodes[0].add(&image);
    nodes[1].sees(IMAGE, 1);

    // From the node that does not hold it: every node serves the whole catalogue.
    let escaped: String = (0..20).map(|i| format!("%{}", &hash[2 * i..2 * i + 2])).collect();
    let (code, torrent) = nodes[1].page(&format!("/file?info_hash={escaped}"));
    assert_eq!(code, 200);
    let path = dir.path().join("fetched.torrent");
    fs::write(&path, torrent).expect("the torrent can be written");
    let folder = dir.path().join("stranger");
    fs::create_dir(&folder).expect("a folder can be made");
    let _programs = client.start(lab.host(2), &path, &folder);
    arrives(&folder, &image);

    // And the stranger, whole, gives: our second node gets the image with the first one gone.
    let (code, scraped) = nodes[1].page(&format!("/scrape?info_hash={escaped}"));
    assert!(code == 200 && String::from_utf8_lossy(&scraped).contains("8:completei"), "{scraped:?}");
}

/// A stranger seeds an image that labmesh knows only by a `.torrent` of mktorrent.
fn fetches_from(client: &dyn Client) {
    let Some(lab) = Lab::open(2, Link::Unshaped).filter(|_| client.installed()) else { return };
    if !installed("mktorrent", &["-h"]) {
        return;
    }
    let dir = scratch();
    let folder = dir.path().join("stranger");
    fs::create_dir(&folder).expect("a folder can be made");
    let image = folder.join(IMAGE);
    random_file(&image, SIZE, 6);
    let torrent = dir.path().join("foreign.torrent");
    let tracker = format!("http://{}:{HTTP_PORT}/announce", lab.host(0).addr());
    mktorrent(&image, &torrent, &tracker, 18);

    let node = Node::start(lab.host(0), dir.path(), "pc01", &[]);
    wait_for(Duration::from_secs(5), "the node to serve", || (node.role()? == "solo").then_some(()));
    let mut getting = node.get(&torrent.to_string_lossy(), &[]);
    wait_for(Duration::from_secs(5), "the transfer to begin", || node.transfer(IMAGE));
    let _programs = client.start(lab.host(1), &torrent, &folder);
    getting.completes(LONG);
    assert!(same_bytes(&image, &node.file(IMAGE)));
}

pub(crate) fn mktorrent(image: &Path, torrent: &Path, tracker: &str, exponent: u32) {
    let mut command = Command::new("mktorrent");
    command.args(["-l", &exponent.to_string(), "-a", tracker, "-o"]).arg(torrent).arg(image);
    let output = command.output().expect("mktorrent is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The info hash as libtorrent reads it, which knows hybrids too.
pub(crate) fn libtorrent_hash(torrent: &Path) -> String {
    let output = Command::new(libtorrent_client()).arg(torrent).args(["-", "show"]).output().expect("it is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The info hash as Transmission reads it.
fn shown_hash(torrent: &Path) -> String {
    let output = Command::new("transmission-show").arg(torrent).output().expect("transmission-cli is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|l| l.trim().strip_prefix("Hash: "));
    line.unwrap_or_else(|| panic!("no hash in {text}")).trim().to_owned()
}

#[test]
fn aria2_downloads_from_us() {
    downloads_from_us(&Aria2);
}

#[test]
fn transmission_downloads_from_us() {
    downloads_from_us(&Transmission);
}

#[test]
fn libtorrent_downloads_from_us() {
    downloads_from_us(&Libtorrent);
}

#[test]
fn ctorrent_downloads_from_us() {
    downloads_from_us(&Ctorrent);
}

#[test]
fn we_fetch_what_ctorrent_seeds() {
    fetches_from(&Ctorrent);
}

#[test]
fn we_fetch_what_aria2_seeds() {
    fetches_from(&Aria2);
}

#[test]
fn we_fetch_what_transmission_seeds() {
    fetches_from(&Transmission);
}

#[test]
fn we_fetch_what_libtorrent_seeds() {
    fetches_from(&Libtorrent);
}

#[test]
fn our_info_hash_is_that_of_mktorrent_and_transmission() {
    if !installed("transmission-create", &["--version"]) || !installed("mktorrent", &["-h"]) {
        return;
    }
    let dir = scratch();
    let node = Node::start(&Host::loopback(11), dir.path(), "maker", &["--mesh", "hashes"]);
    // Our rule gives 256 KiB up to 512 MiB.
    for size in [1, 256 * 1024, 256 * 1024 + 1, 7 * MIB + 3] {
        let image = dir.path().join(format!("made {size} ñ.img"));
        random_file(&image, size, size);
        let ours = node.add(&image);
        let theirs = dir.path().join("theirs.torrent");
        mktorrent(&image, &theirs, "http://127.0.0.1/announce", 18);
        assert_eq!(ours, shown_hash(&theirs), "mktorrent, {size} bytes");
        let mut command = Command::new("transmission-create");
        command.args(["-s", "256", "-t", "http://127.0.0.1/announce", "-o"]).arg(&theirs).arg(&image);
        assert!(command.output().is_ok_and(|o| o.status.success()));
        without_private_0(&theirs);
        assert_eq!(ours, shown_hash(&theirs), "transmission-create, {size} bytes");
        fs::remove_file(theirs).expect("just made");
    }
}

/// Transmission 3 writes `private` 0 into every `info`, which nobody else does: the rest must be the same bytes.
fn without_private_0(torrent: &Path) {
    const KEY: &[u8] = b"7:privatei0e";
    let mut bytes = fs::read(torrent).expect("readable");
    if let Some(at) = bytes.windows(KEY.len()).position(|w| w == KEY) {
        bytes.drain(at..at + KEY.len());
        fs::write(torrent, bytes).expect("writable");
    }
}

/// Torrents that were there before us keep their identity: an info key nobody knows, and a hybrid of v1 and v2.
#[test]
fn torrents_of_others_keep_their_info_hash_through_add_export_and_rewrite() {
    if !Libtorrent.installed() {
        return;
    }
    let dir = scratch();
    let mut node = Node::prepare(&Host::loopback(12), dir.path(), "keeper", &["--mesh", "keeping"]);
    let mut hashes = Vec::new();
    for kind in ["v1", "hybrid"] {
        let (image, torrent) = (node.file(&format!("{kind}.img")), node.file(&format!("{kind}.img.torrent")));
        random_file(&image, 5 * MIB + 7, 9);
        let mut maker = Command::new(libtorrent_client());
        assert!(maker.arg(&image).arg(&torrent).args(["make", kind]).status().is_ok_and(|s| s.success()));
        hashes.push((kind, libtorrent_hash(&torrent)));
    }
    node.restart();
    for (kind, hash) in hashes {
        let name = format!("{kind}.img");
        assert_eq!(node.sees(&name, 1)["info_hash"], hash.as_str(), "the catalogue's, {kind}");
        for path in [format!("/file?hash={hash}"), format!("/images/{name}.torrent")] {
            let (code, bytes) = node.page(&path);
            let exported = dir.path().join("exported.torrent");
            fs::write(&exported, bytes).expect("it can be written");
            assert_eq!((code, libtorrent_hash(&exported)), (200, hash.clone()), "{path}");
        }
        assert_eq!(libtorrent_hash(&node.file(&format!("{name}.torrent"))), hash, "the sidecar after the scan, {kind}");
    }
}
