//! Runs the dialogues of `tests/traces/election`; `UPDATE_TRACES=1` rewrites them, and reviewers read the difference.
//!
//! A file is comments (`#`) and commands; after each command that made somebody speak comes `----` and what was said,
//! up to an empty line. Not here: what must hold in every dialogue (checked by [`Group`] itself).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Group, Link, Verbosity, letter};
use crate::config::Weight;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces/election")
}

#[test]
fn every_dialogue_is_as_written() {
    let mut files: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "txt"));
    files.sort();
    assert!(files.len() >= 16, "the dialogues are missing");
    let different: Vec<_> = files.iter().filter(|path| !check(path)).collect();
    assert!(different.is_empty(), "other dialogues than written (UPDATE_TRACES=1 rewrites them): {different:?}");
}

#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a test that rewrites what it expects on request")]
fn check(path: &Path) -> bool {
    let expected = fs::read_to_string(path).unwrap();
    let got = play(&expected);
    if got == expected {
        return true;
    }
    let update = std::env::var("UPDATE_TRACES").is_ok();
    if update {
        fs::write(path, &got).unwrap();
        return true;
    }
    let line = expected.lines().zip(got.lines()).position(|(a, b)| a != b).unwrap_or(0);
    let (want, have) = (expected.lines().nth(line), got.lines().nth(line));
    eprintln!("{}:{}\n  expected {want:?}\n  got      {have:?}", path.display(), line + 1);
    false
}

/// The script with what is said now in place of what was said.
fn play(script: &str) -> String {
    let mut group = None;
    let mut out = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let said = command(&mut group, line);
        if lines.next_if(|next| *next == "----").is_some() {
            while lines.next_if(|next| !next.is_empty()).is_some() {}
            lines.next_if(|next| next.is_empty());
        }
        if !said.is_empty() {
            write!(out, "----\n{}\n\n", said.join("\n")).unwrap();
        }
    }
    out
}

fn command(group: &mut Option<Group>, line: &str) -> Vec<String> {
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap();
    let words: Vec<&str> = words.collect();
    if verb == "nodes" {
        *group = Some(nodes(&words));
        return Vec::new();
    }
    let group = group.as_mut().expect("a dialogue begins with `nodes`");
    let hosts = hosts(group, &words);
    match verb {
        "start" => hosts.iter().for_each(|host| group.start(*host)),
        "kill" => hosts.iter().for_each(|host| group.kill(*host)),
        "stop" => hosts.iter().for_each(|host| group.stop(*host)),
        "suspend" => hosts.iter().for_each(|host| group.suspend(*host)),
        "resume" => hosts.iter().for_each(|host| group.resume(*host)),
        "deafen" => hosts.iter().for_each(|host| group.set_deaf(*host, true)),
        "cure" => hosts.iter().for_each(|host| group.set_deaf(*host, false)),
        "prefer" => hosts.iter().for_each(|host| group.prefer(*host)),
        "claim" => hosts.iter().for_each(|host| group.claim(*host)),
        "release" => hosts.iter().for_each(|host| group.release(*host)),
        "forge" => group.forge(host(words[0]), words[1].parse().unwrap(), host(words[2])),
        "cut" => cut(group, line),
        "unicast" => group.set_multicast(false),
        "join" => group.join(hosts[0], hosts[1]),
        "heal" => group.heal(),
        "advance" => group.advance(seconds(words[0])),
        "lose" => group.set_link(Link { loss_permille: words[0].parse().unwrap(), ..group.link }),
        "roles" => group.set_verbosity(Verbosity::Roles),
        "messages" => group.set_verbosity(Verbosity::Messages),
        "show" => return show(group),
        other => panic!("no such command: {other}"),
    }
    group.take_log()
}

/// `nodes 30`, or `nodes a b:60 c`, each with its weight.
fn nodes(words: &[&str]) -> Group {
    let weight = |word: &&str| word.split_once(':').map_or(50, |(_, weight)| weight.parse::<u8>().unwrap());
    let weights: Vec<u8> = match words {
        [count] if count.parse::<usize>().is_ok() => vec![50; count.parse().unwrap()],
        words => words.iter().map(weight).collect(),
    };
    let weights: Vec<Weight> = weights.into_iter().map(|weight| Weight::try_from(weight).unwrap()).collect();
    let link = Link { delay_min: Duration::from_millis(1), delay_max: Duration::from_millis(4), loss_permille: 0 };
    Group::new(&weights, link, 1)
}

fn hosts(group: &Group, words: &[&str]) -> Vec<usize> {
    match words {
        ["all"] => (0..group.len()).collect(),
        words => words.iter().filter(|word| word.as_bytes()[0].is_ascii_lowercase()).map(|word| host(word)).collect(),
    }
}

fn host(word: &str) -> usize {
    (0..52).find(|n| letter(*n) == word).unwrap_or_else(|| panic!("no such node: {word}"))
}

/// `cut a b | c d`: who is not named stays with the first island.
fn cut(group: &mut Group, line: &str) {
    let mut islands = vec![0; group.len()];
    for (island, words) in line.trim_start_matches("cut").split('|').enumerate() {
        for word in words.split_whitespace() {
            islands[host(word)] = island;
        }
    }
    group.cut(&islands);
}

fn seconds(word: &str) -> Duration {
    Duration::from_secs_f64(word.trim_end_matches('s').parse().unwrap())
}

fn show(group: &Group) -> Vec<String> {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for n in 0..group.len() {
        let role = group.role(n).map_or("off".to_owned(), |role| format!("{role:?}").to_lowercase());
        let epoch = group.epoch(n).map_or(String::new(), |epoch| format!(" {}", group.epoch_name(epoch)));
        let live = if group.role(n).is_some() { format!(" live {}", group.live_members(n)) } else { String::new() };
        let line = format!("{role}{epoch}{live}");
        match lines.iter_mut().find(|(other, _)| *other == line) {
            Some((_, names)) => names.push(letter(n)),
            None => lines.push((line, vec![letter(n)])),
        }
    }
    lines.into_iter().map(|(line, names)| format!("{line}: {}", names.join(" "))).collect()
}
