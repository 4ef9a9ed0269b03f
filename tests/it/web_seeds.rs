//! Web seeds: an image that lies behind Debian's lighttpd, and no tracker or client anywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clients::{installed, spawn};
use crate::harness::{MIB, Node, Program, labmesh, random_file, same_bytes, scratch, wait_for};
use crate::lab::{Host, Lab, Link};

/// With a space and letters that a URL does not have.
const IMAGE: &str = "Aula 3 \u{f1}and\u{fa}.img";
const SIZE: u64 = 48 * MIB + 321;
const PORT: u16 = 8080;
const LONG: Duration = Duration::from_secs(60);

fn lab(hosts: usize, link: Link) -> Option<Lab> {
    Lab::open(hosts, link).filter(|_| installed("lighttpd", &["-v"]))
}

/// lighttpd on a host, which serves that folder.
fn web_server(host: &Host, folder: &Path) -> Program {
    let settings = folder.with_extension("conf");
    let text = format!(
        "server.document-root = \"{}\"\nserver.port = {PORT}\nserver.bind = \"{}\"\n",
        folder.display(),
        host.addr()
    );
    fs::write(&settings, text).expect("the settings can be written");
    let mut command = host.command("lighttpd");
    command.arg("-D").arg("-f").arg(&settings);
    let program = spawn(command, folder);
    wait_for(Duration::from_secs(10), "lighttpd to answer", || {
        host.enter(|| std::net::TcpStream::connect((host.addr(), PORT)).ok())
    });
    program
}

/// An image in a folder for the web, and its torrent, which names the folder and nothing else.
fn image_on_the_web(dir: &Path, host: &Host) -> (PathBuf, PathBuf) {
    let folder = dir.join("web");
    fs::create_dir(&folder).expect("a folder can be made");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let (image, torrent) = (folder.join(IMAGE), dir.join("web.torrent"));
    random_file(&image, SIZE, 23);
    let url = format!("http://{}:{PORT}/", host.addr());
    let [from, to] = [&image, &torrent].map(|p| p.to_str().expect("a plain path"));
    labmesh(&["torrent", "create", from, "--output", to, "--web-seed", &url]).good();
    (image, torrent)
}

/// One node has the torrent, the other asks the mesh for it by name: both fetch from the server what the other has not.
#[test]
fn an_image_behind_a_web_server_reaches_the_room_without_a_tracker() {
    let Some(lab) = lab(3, Link::Unshaped) else { return };
    let dir = scratch();
    let (image, torrent) = image_on_the_web(dir.path(), lab.host(0));
    let _server = web_server(lab.host(0), &dir.path().join("web"));
    let before = lab.host(0).bytes();
    let first = Node::start(lab.host(1), dir.path(), "first", &[]);
    let second = Node::start(lab.host(2), dir.path(), "second", &[]);
    first.get(torrent.to_str().expect("a plain path"), &[]).completes(LONG);
    assert!(same_bytes(&image, &first.file(IMAGE)));
    // What the web was good for is over: the second has it of the first.
    second.get(IMAGE, &[]).completes(LONG);
    assert!(same_bytes(&image, &second.file(IMAGE)));
    let sent = lab.host(0).bytes().since(before).tx;
    println!("the server sent {:.2} copies to two nodes", sent as f64 / SIZE as f64);
    assert!((SIZE..SIZE * 6 / 5).contains(&sent), "{sent} of {SIZE}");
}

/// The server comes late, ends half way, and is there again; then it has another file of the same length.
#[test]
fn a_web_server_that_comes_and_goes_is_used_while_it_is_there_and_never_believed() {
    let Some(lab) = lab(3, Link::Mbit(100)) else { return };
    let dir = scratch();
    let (image, torrent) = image_on_the_web(dir.path(), lab.host(0));
    let node = Node::start(lab.host(1), dir.path(), "node", &[]);
    let mut getting = node.get(torrent.to_str().expect("a plain path"), &[]);
    wait_for(LONG, "it to wait", || (node.state(IMAGE)? == "waiting").then_some(()));
    let server = web_server(lab.host(0), &dir.path().join("web"));
    wait_for(LONG, "a part to arrive", || (node.percent(IMAGE) > 10.0).then_some(()));
    drop(server);
    wait_for(LONG, "it to wait again", || (node.state(IMAGE)? == "waiting").then_some(()));
    assert!(node.percent(IMAGE) < 100.0);
    let server = web_server(lab.host(0), &dir.path().join("web"));
    getting.completes(LONG);
    assert!(same_bytes(&image, &node.file(IMAGE)));
    // Local discovery would find it.
    drop((server, getting, node));

    random_file(&image, SIZE, 24);
    let _server = web_server(lab.host(0), &dir.path().join("web"));
    let other = Node::start(lab.host(2), dir.path(), "other", &["--mesh", "other"]);
    let _getting = other.get(torrent.to_str().expect("a plain path"), &[]);
    wait_for(LONG, "the liar to be refused", || other.log_text().contains("sent bad data").then_some(()));
    assert!(other.percent(IMAGE) < 1.0);
}
