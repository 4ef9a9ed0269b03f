//! The shape of the source tree, which no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::binary;

/// What the mind may depend on. A clock, a runtime or a file system is not among it.
const PROTO_MAY_USE: &[&str] =
    &["bip_bencode", "bip_metainfo", "rand_chacha", "rmp-serde", "serde", "sha1", "thiserror", "tracing"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The names in a section of a package's manifest.
fn dependencies(package: &str, section: &str) -> BTreeSet<String> {
    let manifest: toml::Table = read(format!("{package}/Cargo.toml")).parse().expect("cargo has read it");
    manifest.get(section).and_then(|s| s.as_table()).map(|t| t.keys().cloned().collect()).unwrap_or_default()
}

/// Every file under version control with that ending, as paths from the root.
fn tracked(ending: &str) -> Vec<String> {
    let output = Command::new("git").arg("-C").arg(root()).args(["ls-files", "--", &format!("*{ending}")]).output();
    let output = output.expect("git is installed");
    String::from_utf8_lossy(&output.stdout).lines().filter(|f| root().join(f).exists()).map(str::to_owned).collect()
}

#[test]
fn proto_depends_only_on_what_has_no_clock_socket_or_file() {
    let allowed: BTreeSet<String> = PROTO_MAY_USE.iter().map(|&s| s.to_owned()).collect();
    let found = dependencies("proto", "dependencies");
    let strange: Vec<_> = found.difference(&allowed).collect();
    assert!(strange.is_empty(), "proto must not depend on {strange:?}, or PROTO_MAY_USE here says why it may");
}

#[test]
fn node_and_sim_do_not_know_each_other() {
    for (package, other) in
        [("node", "labmesh-sim"), ("sim", "labmesh"), ("proto", "labmesh"), ("proto", "labmesh-sim")]
    {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            assert!(!dependencies(package, section).contains(other), "{package} names {other} in [{section}]");
        }
    }
}

#[test]
fn sibling_parts_of_proto_do_not_import_each_other() {
    let parts = [
        "announcer",
        "board",
        "discovery",
        "election",
        "lsd",
        "roster",
        "catalogue",
        "limiter",
        "torrents",
        "tracker",
        "neighbours",
        "swarm",
    ];
    // The choice of neighbours is a pure function, and the tracker's answers are made of it.
    let exception = ("tracker", "neighbours");
    // A world of the tests: it plays the node, whose part it is to join them.
    let world = "proto/src/swarm/room.rs";
    for file in tracked(".rs").iter().filter(|f| f.starts_with("proto/src/") && *f != world) {
        let Some(part) =
            parts.iter().find(|p| file[10..].starts_with(&format!("{p}.")) || file[10..].starts_with(&format!("{p}/")))
        else {
            continue;
        };
        let text = read(file);
        for other in parts.iter().filter(|o| *o != part && (*part, **o) != exception) {
            let import = format!("crate::{other}");
            let line = text.lines().find(|l| !l.trim_start().starts_with("//") && l.contains(&import));
            assert!(line.is_none(), "{file} imports its sibling: {line:?}");
        }
    }
}

#[test]
fn every_file_that_the_map_names_exists() {
    let map = read("docs/ARCHITECTURE.md");
    let endings = [".rs", ".toml", ".md", ".txt", ".sh", ".service"];
    let words = map.split(|c: char| c.is_whitespace() || "`(),;|".contains(c)).map(|w| w.trim_end_matches(['.', ':']));
    let named: BTreeSet<&str> = words.filter(|w| w.contains('/') && endings.iter().any(|e| w.ends_with(e))).collect();
    assert!(!named.is_empty(), "docs/ARCHITECTURE.md names no file");
    for name in named.into_iter().filter(|n| !n.contains(['*', '<', '{', 'N'])) {
        assert!(root().join(name).exists(), "docs/ARCHITECTURE.md names {name}, which does not exist");
    }
}

#[test]
fn every_markdown_file_has_one_title() {
    for file in tracked(".md") {
        let (mut titles, mut code) = (0, false);
        for line in read(&file).lines() {
            code ^= line.starts_with("```");
            titles += usize::from(!code && line.starts_with("# "));
        }
        assert_eq!(titles, 1, "{file}");
    }
}

#[test]
fn every_todo_has_a_name() {
    // Written so that this file does not find itself.
    let word = concat!("TO", "DO");
    for file in [".rs", ".toml", ".md", ".sh", ".txt"].iter().flat_map(|e| tracked(e)) {
        for (number, line) in read(&file).lines().enumerate() {
            let bare = line.split(word).skip(1).any(|rest| !rest.starts_with('('));
            assert!(!bare, "{file}:{} has a {word} without a name or a number: {word}(name)", number + 1);
        }
    }
}

#[test]
fn the_default_configuration_is_the_one_that_is_deployed() {
    let output = Command::new(binary()).arg("config").output().expect("labmesh can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), read("deploy/labmesh.toml"));
}

#[test]
fn every_scenario_parses_and_is_documented() {
    let docs = read("docs/SIMULATION.md");
    let scenarios: Vec<String> = tracked(".toml").into_iter().filter(|f| f.starts_with("sim/scenarios/")).collect();
    assert!(!scenarios.is_empty());
    for file in scenarios {
        let text = read(&file);
        labmesh_sim::scenario::Scenario::parse(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        let name = Path::new(&file).file_stem().and_then(|s| s.to_str()).expect("a name");
        assert!(docs.contains(&format!("`{name}`")), "docs/SIMULATION.md does not name {name}");
    }
}

#[test]
fn the_workspace_stands_alone() {
    // Written so that this file does not find itself.
    let outside = concat!("/wor", "k/");
    for file in tracked("") {
        if let Ok(text) = fs::read_to_string(root().join(&file)) {
            assert!(!text.contains(&format!(" {outside}")) && !text.contains(&format!("\"{outside}")), "{file}");
        }
    }
}
