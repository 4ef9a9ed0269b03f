//! A real socket with a driver's handle behind it that nobody answers: what is tested is the words, not the node.

use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::values::FileMode;

fn socket_config(folder: &TempDir) -> SocketConfig {
    SocketConfig { path: folder.path().join("run/control.sock"), mode: FileMode(0o600), group: None }
}

/// What `read_request` makes of bytes.
#[track_caller]
fn understood(bytes: &[u8]) -> Result<Option<(Request, Vec<u8>)>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { read_request(&mut BufReader::new(bytes)).await }).map_err(|e| e.to_string())
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let error = understood(bytes).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn hostile_lines_are_refused() {
    refused(b"hello\n", "expected");
    refused(b"{}\n", "ask");
    refused(b"{\"ask\":\"reboot\"}\n", "unknown variant");
    refused(b"{\"ask\":\"stop\",\"image\":\"a\",\"more\":1}\n", "unknown field");
    refused(b"{\"ask\":\"stop\"}\n", "missing field `image`");
    refused(b"{\"ask\":\"status\"}", "end of file");
    refused(b"\xff\xfe\n", "expected");
    refused(&[b'['; 200_000], "too long");
    let mut deep = vec![b'['; 60_000];
    deep.push(b'\n');
    refused(&deep, "");
    refused(
        b"{\"ask\":\"get\",\"image\":\"a\",\"torrent_bytes\":99999999999,\"mode\":null,\"seed_time\":null,\"replace\":false}\n",
        "at most",
    );
    refused(
        b"{\"ask\":\"get\",\"image\":\"a\",\"torrent_bytes\":5,\"mode\":null,\"seed_time\":null,\"replace\":false}\nabc",
        "end of file",
    );
    assert_eq!(understood(b""), Ok(None));
    assert_eq!(understood(b"{\"ask\":\"status\"}\n"), Ok(Some((Request::Status, vec![]))));
}

#[test]
fn requests_survive_the_round_trip() {
    let get = Request::Get {
        image: "ou1/\u{e1} b\n.img".into(),
        torrent_bytes: 3,
        mode: Some(Mode::Leecher),
        seed_time: Some(SeedTime::For(Duration::from_secs(60))),
        replace: true,
    };
    let add = Request::Add(cache::Add { file: "/a b".into(), name: None, placement: cache::Placement::InPlace });
    for (request, torrent) in [(get, &b"d\ne"[..]), (add, b""), (Request::Rescan {}, b""), (Request::List, b"")] {
        let mut bytes = serde_json::to_vec(&request).unwrap();
        bytes.push(b'\n');
        bytes.extend_from_slice(torrent);
        assert_eq!(understood(&bytes), Ok(Some((request, torrent.to_vec()))));
    }
}

proptest! {
    #[test]
    fn noise_is_refused_or_understood_but_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = understood(&bytes);
    }
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_goes_with_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let config = socket_config(&folder);
    let listener = Listener::bind(&config).unwrap();
    assert_eq!(config.path.metadata().unwrap().mode() & 0o777, 0o600);
    drop(listener);
    assert!(!config.path.exists());
}

#[tokio::test]
async fn a_live_node_is_left_alone_and_a_dead_ones_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let config = socket_config(&folder);
    let first = Listener::bind(&config).unwrap();
    let error = format!("{:#}", Listener::bind(&config).unwrap_err());
    assert!(error.contains("running already"), "{error}");
    // A killed node leaves its file behind.
    std::fs::rename(&config.path, folder.path().join("kept")).unwrap();
    drop(first);
    std::fs::rename(folder.path().join("kept"), &config.path).unwrap();
    assert!(Client::connect(std::slice::from_ref(&config.path)).await.is_err());
    let second = Listener::bind(&config).unwrap();
    assert!(Client::connect(std::slice::from_ref(&config.path)).await.is_ok());
    drop(second);
}

#[tokio::test]
async fn what_is_no_socket_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let config = socket_config(&folder);
    std::fs::create_dir(folder.path().join("run")).unwrap();
    std::fs::write(&config.path, "mine").unwrap();
    let error = format!("{:#}", Listener::bind(&config).unwrap_err());
    assert!(error.contains("in the way"), "{error}");
    assert_eq!(std::fs::read(&config.path).unwrap(), b"mine");
}

#[tokio::test]
async fn an_unknown_group_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = SocketConfig { group: Some("no-such-group".into()), ..socket_config(&folder) };
    let error = format!("{:#}", Listener::bind(&config).unwrap_err());
    assert!(error.contains("no-such-group"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path().join("run")).unwrap().count(), 0);
}

#[tokio::test]
async fn nobody_there_is_no_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let failure = Client::connect(&[folder.path().join("x.sock")]).await.unwrap_err();
    assert_eq!(failure.exit, Exit::NoMesh);
    assert!(failure.message.contains("labmesh run"), "{failure}");
}

#[tokio::test]
async fn a_wait_ends_with_what_has_happened_since_the_last() {
    let (said, mut events) = broadcast::channel(2);
    for _ in 0..3 {
        said.send(Event::BecameSolo).unwrap();
    }
    // Were it not for the events, this would take an hour.
    assert_eq!(wait(&mut events, Duration::from_secs(3600)).await, Answer::Done);
    assert!(events.is_empty());
    assert_eq!(wait(&mut events, Duration::ZERO).await, Answer::Done);
}
