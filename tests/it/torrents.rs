//! `labmesh torrent create|show|verify`, beside the tools that people know, and a damaged copy mended over the network.
//!
//! A tool that is not installed skips its part and says so; `tests/run` installs them all.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::foreign::without_private_0;
use crate::harness::{KIB, MIB, Node, labmesh, one_master, random_file, same_bytes, scratch};
use crate::lab::{Lab, Link};

const LONG: Duration = Duration::from_secs(60);

fn path(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// The lines of `--json`.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))).collect()
}

/// Runs a maker of torrents; `None`, and a line that says so, if it is not installed.
#[track_caller]
fn make(program: &str, words: &[&str]) -> Option<()> {
    let mut command = Command::new(program);
    let Ok(output) = command.args(words).stdin(Stdio::null()).output() else {
        eprintln!("SKIPPED: {program} is not installed here; tests/run installs it");
        return None;
    };
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// What we say of a torrent.
#[track_caller]
fn shown(torrent: &Path) -> Value {
    lines(&labmesh(&["torrent", "show", path(torrent), "--json"]).good()).remove(0)
}

#[track_caller]
fn created(file: &Path, torrent: &Path, words: &[&str]) -> Value {
    let all = [&["torrent", "create", path(file), "--target", path(torrent), "--force", "--json"], words].concat();
    lines(&labmesh(&all).good()).remove(0)
}

#[test]
fn our_info_hash_is_that_of_every_maker() {
    const TRACKER: &str = "http://127.0.0.1/announce";
    let dir = scratch();
    let (ours, theirs) = (dir.path().join("ours.torrent"), dir.path().join("theirs.torrent"));
    for (size, exponent) in [(1, 18), (256 * KIB, 18), (7 * MIB + 3, 16), (9 * MIB, 22)] {
        let image = dir.path().join(format!("made {size} ñ.img"));
        random_file(&image, size, size);
        let (file, target) = (path(&image), path(&theirs));
        let (bytes, kib) = ((1_u64 << exponent).to_string(), (1_u64 << (exponent - 10)).to_string());
        let check = |maker: &str, words: &[&str], made: Option<()>| {
            if made.is_some() {
                without_private_0(&theirs);
                let made = created(&image, &ours, &[&["--piece-length", &bytes, "-a", TRACKER], words].concat());
                assert_eq!(made["info_hash"], shown(&theirs)["info_hash"], "{maker} {words:?}, {size} bytes");
                assert_eq!(shown(&ours)["info_hash"], made["info_hash"]);
                fs::remove_file(&theirs).expect("just made");
            }
        };
        let power = exponent.to_string();
        let mktorrent = ["-l", &power, "-a", TRACKER, "-o", target, file];
        check("mktorrent", &[], make("mktorrent", &mktorrent));
        check("mktorrent", &["--private"], make("mktorrent", &[&["-p"], &mktorrent[..]].concat()));
        let transmission = ["-s", &kib, "-t", TRACKER, "-o", target, file];
        check("transmission-create", &[], make("transmission-create", &transmission));
        check(
            "transmission-create",
            &["--private"],
            make("transmission-create", &[&["-p"], &transmission[..]].concat()),
        );
        let ctorrent = ["-t", file, "-u", TRACKER, "-l", &bytes, "-s", target];
        check("ctorrent", &[], make("ctorrent", &ctorrent));
        fs::remove_file(image).expect("just made");
    }
}

#[test]
fn a_torrent_says_what_was_asked_for_and_is_the_same_every_time() {
    let dir = scratch();
    let image = dir.path().join("lab image.img");
    random_file(&image, MIB, 5);
    let torrent = dir.path().join("x.torrent");
    let words = [
        "-a",
        "http://a/announce,http://b/announce",
        "-a",
        "udp://c:1",
        "--comment",
        "Aula é",
        "--web-seed",
        "http://w/lab%20image.img",
        "--web-seed",
        "ftp://w/x",
        "--private",
        "--name",
        "other.img",
        "-l",
        "64KiB",
    ];
    created(&image, &torrent, &words);
    let first = fs::read(&torrent).expect("made");
    let said = shown(&torrent);
    assert_eq!(said["trackers"], json!([["http://a/announce", "http://b/announce"], ["udp://c:1"]]));
    assert_eq!(said["web_seeds"], json!(["http://w/lab%20image.img", "ftp://w/x"]));
    assert_eq!((&said["private"], &said["comment"], &said["created"]), (&true.into(), &"Aula é".into(), &Value::Null));
    assert_eq!((&said["name"], &said["pieces"], &said["refused"]), (&"other.img".into(), &16.into(), &Value::Null));
    created(&image, &torrent, &words);
    assert_eq!(fs::read(&torrent).expect("made"), first, "made again");
    created(&image, &torrent, &[&words[..], &["--date"]].concat());
    assert_eq!(shown(&torrent)["info_hash"], said["info_hash"]);
    assert!(shown(&torrent)["created"].as_i64().is_some_and(|date| date > 1_700_000_000));

    // Others read the same in it.
    if let Ok(output) = Command::new("transmission-show").arg(&torrent).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in ["Tier #2", "http://w/lab%20image.img", "Private torrent", "Comment: Aula é", "Name: other.img"] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains(said["info_hash"].as_str().expect("a hash")), "{text}");
    }
    if let Ok(output) = Command::new("ctorrent").arg("-x").arg(&torrent).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ours = labmesh(&["torrent", "show", path(&torrent)]).good();
        // But for the comment, of which it shows the letters of ASCII only.
        for key in ["<1> ", "Announce: ", "Alternates:", "Private: ", "Created with: "] {
            let theirs = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in {text}"));
            assert!(ours.lines().any(|line| line == theirs), "{theirs} in {ours}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_said_with_its_exit_code() {
    let dir = scratch();
    let (image, torrent) = (dir.path().join("a.img"), dir.path().join("a.img.torrent"));
    random_file(&image, 300 * KIB, 7);
    File::create(dir.path().join("empty.img")).expect("writable");
    labmesh(&["torrent", "create", path(&dir.path().join("none.img"))]).refused(3, &["cannot read", "none.img"]);
    labmesh(&["torrent", "create", path(&dir.path().join("empty.img"))]).refused(1, &["is empty"]);
    labmesh(&["torrent", "create", path(dir.path())]).refused(2, &["is a folder"]);
    labmesh(&["torrent", "create", path(&image)]).good();
    labmesh(&["torrent", "create", path(&image)]).refused(1, &["is there already", "--force"]);
    labmesh(&["torrent", "show", path(&image)]).refused(1, &["not a torrent"]);
    labmesh(&["torrent", "verify", path(&torrent)]).good();
    labmesh(&["torrent", "verify", path(&torrent), path(&dir.path().join("b.img"))]).refused(3, &["cannot read"]);
    let other = dir.path().join("other.img");
    random_file(&other, 400 * KIB, 8);
    labmesh(&["torrent", "verify", path(&torrent), path(&other), "--repair"]).refused(6, &["left as it is"]);
    assert_eq!(other.metadata().expect("it is there").len(), 400 * KIB, "another file is not touched");
    fs::rename(&image, dir.path().join("b.img")).expect("our own file");
    labmesh(&["torrent", "verify", path(&torrent)]).refused(3, &["say which file"]);
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let multi = labmesh(&["torrent", "show", path(&vectors.join("multi-file.torrent"))]).good();
    assert!(multi.contains("\n<2> ") && multi.contains("labmesh does not fetch it"), "{multi}");
}

/// Goal: of a damaged copy only the bad pieces cross the network again. Method: the copy of a stopped node is damaged
/// in two ways, checked, repaired and completed, and the bytes are counted at its interface and in its status.
#[test]
fn a_damaged_copy_is_repaired_with_its_bad_pieces_only() {
    const IMAGE: &str = "repair me.img";
    const SIZE: u64 = 40 * MIB + 1234;
    const PIECE: u64 = 64 * KIB;
    let Some(lab) = Lab::open(2, Link::Unshaped) else { return };
    let dir = scratch();
    let image = dir.path().join(IMAGE);
    random_file(&image, SIZE, 8);
    let mut nodes = [0, 1].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &[]));
    one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15));
    nodes[0].add(&image);
    nodes[1].sees(IMAGE, 1);
    nodes[1].get(IMAGE, &[]).completes(LONG);

    let (copy, torrent) = (nodes[1].file(IMAGE), nodes[1].file(&format!("{IMAGE}.torrent")));
    let flipped = |file: &File| {
        for piece in [3, 4, 100] {
            file.write_all_at(b"not what it was", piece * PIECE + 77).expect("writable");
        }
    };
    let cut = |file: &File| file.set_len(SIZE - 1234 - PIECE).expect("writable");
    type Damage<'a> = &'a dyn Fn(&File);
    let cases: [(Damage<'_>, Value, u64, &str); 2] = [
        (&flipped, json!([[3, 4], [100, 100]]), 3 * PIECE, "3-4, 100"),
        (&cut, json!([[639, 640]]), PIECE + 1234, "639-640"),
    ];
    for (damage, runs, bytes, words) in cases {
        assert!(nodes[1].stop().success());
        damage(&File::options().write(true).open(&copy).expect("the copy is there"));
        labmesh(&["torrent", "verify", path(&torrent)]).refused(6, &[words, "is damaged", "--repair"]);
        let ran = labmesh(&["torrent", "verify", path(&torrent), "--repair", "--json"]);
        assert_eq!(ran.code, 6, "{}", ran.said());
        let said = lines(&ran.stdout);
        assert_eq!((&said[0]["bad"], &said[0]["bad_bytes"]), (&runs, &bytes.into()), "{said:?}");
        assert_eq!(said[1]["path"], format!("{}.part", path(&copy)), "{said:?}");
        assert!(!copy.exists());

        let before = lab.host(1).bytes();
        nodes[1].restart();
        one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15));
        nodes[1].get(IMAGE, &[]).completes(LONG);
        assert!(same_bytes(&image, &copy));
        let received = lab.host(1).bytes().since(before).rx;
        println!("{bytes} bytes were bad, {received} came");
        assert!(received < bytes + bytes / 5 + 200 * KIB, "{received} bytes came for {bytes} bad ones");
        let downloaded = nodes[1].transfer(IMAGE).expect("it is seeded")["downloaded"].clone();
        assert_eq!(downloaded, bytes);
        labmesh(&["torrent", "verify", path(&torrent)]).good();
    }
}
