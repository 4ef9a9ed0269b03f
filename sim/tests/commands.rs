//! The program as a person or a script calls it: what it prints, where, and with which exit code.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const QUIET: &str =
    "about = \"four machines\"\nseeds = [1, 2]\n[lab]\nmachines = 4\nlink = \"1Gbit/s\"\nends_at = \"5s\"\n";
/// Nobody can be complete so soon.
const HOPELESS: &str = "about = \"too fast\"\n[lab]\nmachines = 4\nlink = \"1Gbit/s\"\nimage = \"16MiB\"\nends_at = \"9s\"\n\
                        [expect]\ncomplete_within = \"1ms\"\n";

fn sim(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_labmesh-sim")).args(arguments).current_dir(folder).output().expect("it is built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::with_prefix("labmesh sim's test").expect("a temporary folder");
    files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).expect("room for a file"));
    folder
}

#[test]
fn a_result_in_json_is_the_same_on_any_number_of_threads_and_compares_as_identical() {
    let folder = folder(&[("quiet.toml", QUIET)]);
    for (jobs, to) in [("1", "one.json"), ("3", "three.json")] {
        let out = sim(folder.path(), &["run", ".", "--seeds", "1-4", "--json", "--jobs", jobs]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        fs::write(folder.path().join(to), out.stdout).unwrap();
    }
    assert_eq!(fs::read(folder.path().join("one.json")).unwrap(), fs::read(folder.path().join("three.json")).unwrap());
    let out = sim(folder.path(), &["compare", "one.json", "three.json", "--identical"]);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stdout).contains("4 runs are the same"), "{}", text(&out.stdout));
}

#[test]
fn a_failing_run_prints_the_command_that_replays_it_from_any_folder() {
    let folder = folder(&[("hope less.toml", HOPELESS)]);
    let out = sim(folder.path(), &["run", "hope less.toml", "--seeds", "3-3"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stdout);
    assert!(said.contains("FAILED hope less seed 3: complete after"), "{said}");
    let command = said.lines().find_map(|line| line.trim().strip_prefix("replay: ")).expect("a command");
    let again = Command::new("sh").args(["-c", command]).current_dir("/").output().unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    let trace = text(&again.stdout);
    assert!(trace.contains("FAILED hope less seed 3"), "the same end");
    assert!(trace.lines().any(|line| line.contains("pc001 master   > event   became master")), "and its trace");
    assert!(trace.lines().all(|line| line.len() < 200), "in short lines");
}

#[test]
fn a_trace_is_filtered_by_machine_matter_and_time() {
    let folder = folder(&[("quiet.toml", QUIET)]);
    let arguments = ["replay", "quiet.toml", "--seed", "1", "--trace"];
    let out = sim(
        folder.path(),
        &[&arguments[..], &["--node", "pc002", "--only", "events,faults", "--until", "4s"]].concat(),
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    let (lines, verdict) = said.split_at(said.find("  seed").expect("the table"));
    assert!(lines.lines().count() > 1 && lines.lines().all(|line| line.contains(" pc002 ")), "{lines}");
    assert!(lines.lines().all(|line| line.contains(" event ") || line.contains(" fault ")), "{lines}");
    assert!(verdict.contains("not judged"), "{verdict}");
}

#[test]
fn what_became_worse_is_exit_code_1_and_different_sets_are_named() {
    let row = |scenario: &str, seed: u32, makespan: f64, trace: &str| {
        format!(
            "{{\"scenario\": \"{scenario}\", \"seed\": {seed}, \"failures\": [], \"makespan_s\": {makespan}, \
             \"median_s\": 1.0, \"limit_s\": 4.0, \"source_copies\": 1.0, \"received\": 1.0, \"two_masters_s\": 0.0, \
             \"events\": 5, \"trace\": \"{trace}\"}}"
        )
    };
    let set = |rows: &[String]| format!("{{\"runs\": [{}]}}", rows.join(","));
    let old = set(&[row("lab", 1, 5.0, "a"), row("gone", 1, 5.0, "b")]);
    let slow = set(&[row("lab", 1, 5.5, "c"), row("fresh", 1, 5.0, "d")]);
    let fast = set(&[row("lab", 1, 4.5, "c")]);
    let folder = folder(&[("old.json", &old), ("slow.json", &slow), ("fast.json", &fast)]);
    let code = |arguments: &[&str]| sim(folder.path(), &[&["compare"], arguments].concat()).status.code();
    let out = sim(folder.path(), &["compare", "old.json", "slow.json"]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains("WORSE: makespan +10.0 %"), "{said}");
    assert!(said.contains("only in old.json: gone, seeds 1") && said.contains("only in slow.json: fresh"), "{said}");
    assert_eq!(code(&["old.json", "slow.json", "--tolerance", "11%"]), Some(0));
    assert_eq!(code(&["old.json", "fast.json"]), Some(0));
    assert_eq!(code(&["old.json", "fast.json", "--same-runs"]), Some(1));
    assert_eq!(code(&["old.json", "old.json", "--identical"]), Some(0));
}

#[test]
fn a_report_is_one_page() {
    let folder = folder(&[("quiet.toml", QUIET)]);
    let out = sim(folder.path(), &["report", "quiet.toml", "-o", "page.html"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("<h2>quiet</h2>") && page.matches("<svg").count() == 1, "its masters");
    let json = sim(folder.path(), &["run", "quiet.toml", "--json"]).stdout;
    fs::write(folder.path().join("run.json"), json).unwrap();
    assert!(sim(folder.path(), &["report", "run.json", "-o", "table.html"]).status.success());
    assert!(fs::read_to_string(folder.path().join("table.html")).unwrap().contains("2 runs, all passed"));
}

#[test]
fn a_wrong_question_is_exit_code_2_and_says_what_is_wrong() {
    let typo = QUIET.replace("machines = 4", "machines = 4\nmachnies = 5");
    let folder = folder(&[("quiet.toml", QUIET), ("typo.toml", &typo), ("bad.json", "{\"runs\": [\n{\"seed\": 1}]}")]);
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (arguments, words) in [
        (&["run", "none.toml"][..], &["cannot read none.toml"][..]),
        (&["run", "typo.toml"], &["typo.toml is no scenario", "line 5, column 1", "machnies"]),
        (&["run", "empty"], &["no scenario (*.toml) in the folder empty"]),
        (&["run", "quiet.toml", "--seeds", "x"], &["such as 20", "100-199"]),
        (&["run", "quiet.toml", "--seeds", "0"], &["at least one seed"]),
        (&["run", "quiet.toml", "--random"], &["draws its faults from the seed"]),
        (&["run", "quiet.toml", "quiet.toml"], &["are both called quiet"]),
        (&["replay", ".", "--seed", "1"], &["is a folder"]),
        (&["replay", "quiet.toml", "--seed", "-1"], &["--seed"]),
        (&["replay", "quiet.toml", "--seed", "1", "--trace", "--node", "pc005"], &["no pc005", "pc001 to pc004"]),
        (&["replay", "quiet.toml", "--seed", "1", "--trace", "--from", "soon"], &["such as 5s"]),
        (&["compare", "quiet.toml", "bad.json"], &["run --json", "quiet.toml", "line 1 column"]),
        (&["compare", "bad.json", "bad.json"], &["bad.json", "line 2 column"]),
        (&["compare", "bad.json", "bad.json", "--tolerance", "2"], &["such as 2%"]),
        (&["report", "none.toml"], &["cannot read none.toml"]),
    ] {
        let out = sim(folder.path(), arguments);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
    assert!(!folder.path().join("report.html").exists());
}
