//! How fast a node sends and fetches, measured at the network interface: as its settings say, as `labmesh limit` says
//! in the middle of a transfer, and as the schedule says again.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{MIB, Node, one_master, random_file, same_bytes, scratch, stays, wait_for};
use crate::lab::{Bytes, Host, Lab, Link};

const IMAGE: &str = "limits.img";
const LONG: Duration = Duration::from_secs(90);

/// What passes a host's interface in one way, in MiB a second over three seconds.
fn measured(host: &Host, way: fn(Bytes) -> u64) -> f64 {
    let (begin, before) = (Instant::now(), host.bytes());
    stays(Duration::from_secs(3), || true);
    way(host.bytes().since(before)) as f64 / MIB as f64 / begin.elapsed().as_secs_f64()
}

#[test]
fn limits_hold_at_the_interface_and_change_in_mid_transfer() {
    let Some(lab) = Lab::open(2, Link::Mbit(200)) else { return };
    let dir = scratch();
    let (size, image) = (128 * MIB, dir.path().join(IMAGE));
    random_file(&image, size, 78);
    let source = Node::start(lab.host(0), dir.path(), "pc01", &["--weight", "60"]);
    let limited = ["--weight", "30", "--download-limit", "2MiB"];
    let taker = Node::start(lab.host(1), dir.path(), "pc02", &limited);
    one_master(&[&source, &taker], Duration::from_secs(15));
    source.add(&image);
    taker.sees(IMAGE, 1);
    let mut getting = taker.get(IMAGE, &[]);
    wait_for(LONG, "the first piece", || (taker.percent(IMAGE) > 0.0).then_some(()));
    let fetched = || measured(lab.host(1), |bytes| bytes.rx);
    let sent = || measured(lab.host(0), |bytes| bytes.tx);

    let by_setting = fetched();
    assert_eq!(taker.json(&["limit"])["download_limit"], 2 * MIB);
    taker.cli(&["limit", "--down", "6MiB"]).good();
    let by_command = fetched();
    source.cli(&["limit", "--up", "3MiB"]).good();
    let by_source = sent();
    println!("2 MiB/s by setting: {by_setting:.2}; 6 by command: {by_command:.2}; 3 at the source: {by_source:.2}");
    for (rate, limit) in [(by_setting, 2.0), (by_command, 6.0), (by_source, 3.0)] {
        assert!((limit * 0.7..limit * 1.3).contains(&rate), "{rate:.2} MiB/s with a limit of {limit} MiB/s");
    }

    let said = taker.json(&["limit", "--down", "0"]);
    assert_eq!((&said["upload_limit"], &said["download_limit"]), (&0.into(), &0.into()));
    source.cli(&["limit", "--up", "0"]).good();
    let freed = sent();
    println!("without a limit {freed:.2} MiB/s until the end");
    assert!(freed > 8.0, "{freed:.2} MiB/s without a limit");
    getting.completes(LONG);
    assert!(same_bytes(&image, &taker.file(IMAGE)));
    source.cli(&["limit", "--up", "10 kB"]).refused(2, &["too low"]);
}

/// The entry holds all day, so the test does not depend on its hour.
#[test]
fn a_schedule_holds_from_the_start_and_a_command_over_it() {
    let Some(lab) = Lab::open(1, Link::Mbit(200)) else { return };
    let dir = scratch();
    let mut node = Node::prepare(lab.host(0), dir.path(), "pc01", &["--upload-limit", "4MiB"]);
    let lessons = "download_limit = \"5MiB\"\n[[limits]]\ndays = [\"mon-sun\"]\nupload = \"1MiB\"\n";
    fs::write(node.config(), lessons).expect("the configuration can be written");
    node.restart();
    let limits = |node: &Node, words: &[&str]| {
        let said = node.json(&[&["limit"], words].concat());
        let status = node.json(&["status"]);
        for key in ["upload_limit", "download_limit"] {
            assert_eq!(status[key], said[key], "what is in force is shown everywhere");
        }
        [said["upload_limit"].as_u64(), said["download_limit"].as_u64()].map(|n| n.unwrap_or_default() / MIB)
    };
    assert_eq!(limits(&node, &[]), [1, 5]);
    assert_eq!(limits(&node, &["--up", "3MiB"]), [3, 5]);
    let (_, page) = node.page("/");
    assert!(String::from_utf8_lossy(&page).contains("limits: up 3.0 MiB/s, down 5.0 MiB/s"));
    let (_, numbers) = node.page("/metrics");
    assert!(String::from_utf8_lossy(&numbers).contains("\nlabmesh_upload_limit_bytes_per_second 3145728\n"));
    assert!(stays(Duration::from_secs(6), || limits(&node, &[]) == [3, 5]), "the schedule said it again");
    node.stop();
    node.restart();
    assert_eq!(limits(&node, &[]), [1, 5]);
}
