//! What commands say when what was asked for is not what follows.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{MIB, Node, binary, one_master, random_file, same_bytes, scratch, wait_for};
use crate::lab::{Host, Lab, Link};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn an_address_of_no_interface_is_named() {
    let dir = scratch();
    let address = Ipv4Addr::new(10, 9, 9, 9).to_string();
    let mut node = Node::prepare(&Host::loopback(41), dir.path(), "keeper", &["--bind", &address]);
    node.spawn();
    node.ends(LONG).refused(1, &["this machine has no address 10.9.9.9", "--bind"]);
}

#[test]
fn every_setting_says_where_it_was_said() {
    let dir = scratch();
    let file = dir.path().join("lab.toml");
    std::fs::write(&file, "weight = 40\nsite = \"room-1\"").unwrap();
    let settings = || {
        let mut command = Command::new(binary());
        command.args(["config", "--json", "--socket", "/run/x.sock", "--config"]).arg(&file);
        command.env("LABMESH_WEIGHT", "10").env("LABMESH_MESH", "lab");
        command.output().expect("labmesh can be started")
    };
    let output = settings();
    assert!(output.status.success(), "{output:?}");
    let all: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    for (key, value, from) in [
        ("weight", json!(10), "environment"),
        ("mesh", json!("lab"), "environment"),
        ("site", json!("room-1"), "file"),
        ("socket", json!("/run/x.sock"), "flag"),
        ("prefer", json!(false), "default"),
    ] {
        assert_eq!(all[key], json!({ "value": value, "from": from }), "{key}");
    }
    std::fs::write(&file, "wieght = 40").unwrap();
    assert_eq!(settings().status.code(), Some(2));
}

/// A node that is alone cannot hand its mesh to anybody, and is master already.
#[test]
fn what_cannot_be_claimed_or_released_is_said_at_once() {
    let dir = scratch();
    let node = Node::start(&Host::loopback(42), dir.path(), "alone", &["--mesh", "release"]);
    wait_for(LONG, "it to serve itself", || (node.role()? == "solo").then_some(()));
    node.cli(&["master", "--release"]).refused(1, &["no other node can be master"]);
    let said = node.cli(&["master", "--claim"]).good();
    assert!(said.contains("is alone, so it is its own master"), "{said}");
}

#[test]
fn only_followers_of_weight_0_are_no_successors() {
    let Some(lab) = Lab::open(2, Link::Unshaped) else { return };
    let dir = scratch();
    let nodes = [("60", 0), ("0", 1)]
        .map(|(weight, n)| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &["--weight", weight]));
    assert_eq!(one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15)), 0);
    nodes[0].cli(&["master", "--release"]).refused(1, &["no other node can be master", "weight 0"]);
    nodes[1].cli(&["master", "--claim"]).refused(1, &["weight 0"]);
    let said = nodes[0].cli(&["master", "--claim"]).good();
    assert!(said.contains("pc0 is the master"), "{said}");
}

/// Modes and seed times of a copy that is whole, of one that is stopped, and of the master's.
#[test]
fn a_mode_says_what_follows_from_it() {
    let Some(lab) = Lab::open(2, Link::Mbit(100)) else { return };
    let dir = scratch();
    let image = dir.path().join("x.img");
    random_file(&image, 48 * MIB, 3);
    let source = Node::start(lab.host(0), dir.path(), "pc0", &["--weight", "60"]);
    wait_for(LONG, "the source to be its own master", || (source.role()? == "solo").then_some(()));
    let nodes = [source, Node::start(lab.host(1), dir.path(), "pc1", &["--weight", "30"])];
    assert_eq!(one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15)), 0);
    nodes[0].add(&image);
    nodes[1].sees("x.img", 1);

    // In mid-transfer, stopped: neither a speed nor a time left, for those who wait either.
    let mut getting = nodes[1].get("x.img", &["--seed-time", "0"]);
    getting.says_more_than(LONG, 20.0);
    nodes[1].cli(&["stop", "x.img"]).good();
    let transfer = nodes[1].transfer("x.img").expect("it is there");
    assert_eq!((&transfer["state"], &transfer["down_bps"]), (&"stopped".into(), &0.into()));
    assert!(transfer["left_s"].is_null(), "{transfer}");
    assert_eq!(getting.says("stopped", LONG)["down_bps"], 0);
    let said = nodes[1].cli(&["mode", "x.img", "peer"]).good();
    assert!(said.contains("x.img is a peer now, and stays stopped (labmesh start x.img"), "{said}");
    nodes[1].cli(&["mode", "x.img", "peer", "0"]).good();
    nodes[1].cli(&["start", "x.img"]).good();
    getting.completes(LONG);
    assert!(same_bytes(&image, &nodes[1].file("x.img")));

    // From now on, however long ago it was complete.
    wait_for(LONG, "it to be idle", || (nodes[1].state("x.img")? == "idle").then_some(()));
    let said = nodes[1].cli(&["mode", "x.img", "seeder", "60"]).good();
    assert!(said.contains("x.img is a seeder now, seeded for 5") || said.contains("seeded for 60 s"), "{said}");
    assert_eq!(nodes[1].state("x.img").as_deref(), Some("seeding"));
    let said = nodes[1].cli(&["mode", "x.img", "leecher"]).good();
    assert!(said.contains("idle, since its seed time is over"), "{said}");

    let said = nodes[0].cli(&["mode", "x.img", "seeder", "60"]).good();
    assert!(said.contains("for as long as this node is the master"), "{said}");
    let transfer = nodes[0].transfer("x.img").expect("it is there");
    assert_eq!((&transfer["seeds_as_master"], &transfer["seed_left_s"]), (&true.into(), &Value::Null));
    assert!(nodes[0].cli(&["status"]).good().contains("as master"));

    // Limits of a node that runs are not those of a `get`.
    let ran = nodes[1].cli(&["get", "x.img", "--upload-limit", "1MiB"]);
    assert!(ran.code == 0 && ran.stderr.contains("labmesh limit changes them"), "{}", ran.said());
}

/// Two contents of one name: that is no typing error, and both are named.
#[test]
fn a_name_of_two_contents_is_refused_with_both() {
    let Some(lab) = Lab::open(3, Link::Unshaped) else { return };
    let dir = scratch();
    let nodes = [0, 1, 2].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &[]));
    one_master(&[&nodes[0], &nodes[1], &nodes[2]], Duration::from_secs(15));
    let hashes = [0_usize, 1].map(|n| {
        let image = dir.path().join(format!("{n}")).join("x.img");
        std::fs::create_dir(image.parent().expect("it has one")).expect("a folder can be made");
        random_file(&image, MIB, n as u64);
        nodes[n].add(&image)
    });
    wait_for(LONG, "both to be seen", || (nodes[2].listed("x.img").len() == 2).then_some(()));
    nodes[2].cli(&["get", "x.img"]).refused(1, &hashes.each_ref().map(|hash| &hash[..4]));
}
