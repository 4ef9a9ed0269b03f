//! Many runs at once: each is one thread's own, so that what it leads to does not depend on the others.
//!
//! Rule: results are told in the order of the jobs, whichever ended first; a run that panics is a run that failed.
//! Not here: printing (the binary), what a run leads to ([`crate::report`]).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::record::Recorder;
use crate::report::{Row, measure, progress};
use crate::scenario::Scenario;
use crate::world::World;

/// How often somebody hears how far the runs are.
const TICK: Duration = Duration::from_millis(100);
/// How far a run is, in so many parts.
const PARTS: u64 = 1 << 20;

/// A scenario and where it comes from.
#[derive(Debug)]
pub struct ScenarioFile {
    /// As it was named.
    pub path: PathBuf,
    /// The file's name without its ending.
    pub name: String,
    /// What it says.
    pub scenario: Scenario,
}

/// One seed of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The scenario.
    pub file: &'a ScenarioFile,
    /// The seed.
    pub seed: u64,
    /// Keep what a report shows.
    pub record: bool,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    /// Its measures.
    pub row: Row,
    /// The room, which may have been drawn, and what happened in it; if it was asked for.
    pub recording: Option<(Scenario, Recorder)>,
}

/// Who hears of the runs.
pub trait Listener {
    /// The next job in their order has ended.
    ///
    /// # Errors
    /// If it cannot be told on; then no further run begins.
    fn ended(&mut self, index: usize, outcome: Outcome) -> io::Result<()>;

    /// How far they all are, and which are running, each from 0 to 1.
    fn tick(&mut self, done: f64, running: &[(usize, f64)]);
}

/// The scenarios of files and folders, in the order of their names.
///
/// # Errors
/// If something cannot be read or is no scenario; with line and column.
pub fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<ScenarioFile>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(load_file(path)?);
            continue;
        }
        let cannot = || format!("cannot read the folder {}", path.display());
        let entries = std::fs::read_dir(path).with_context(cannot)?;
        let mut found =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().with_context(cannot)?;
        found.retain(|file| file.extension().is_some_and(|ending| ending == "toml"));
        ensure!(!found.is_empty(), "no scenario (*.toml) in the folder {}", path.display());
        found.sort();
        files.extend(found.iter().map(|file| load_file(file)).collect::<Result<Vec<_>, _>>()?);
    }
    let mut names = BTreeMap::new();
    for file in &files {
        if let Some(other) = names.insert(&file.name, &file.path) {
            bail!("{} and {} are both called {}", other.display(), file.path.display(), file.name);
        }
    }
    Ok(files)
}

/// One scenario.
///
/// # Errors
/// As for [`load`].
pub fn load_file(path: &Path) -> anyhow::Result<ScenarioFile> {
    ensure!(!path.is_dir(), "expected a scenario file, but {} is a folder", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let scenario = Scenario::parse(&text).with_context(|| format!("{} is no scenario", path.display()))?;
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(ScenarioFile { path: path.to_owned(), name, scenario })
}

/// Runs everything on so many threads; begins nothing after `deadline`. How many were run.
///
/// # Errors
/// The listener's.
pub fn run_all(
    jobs: &[Job<'_>],
    threads: usize,
    deadline: Option<Instant>,
    listener: &mut impl Listener,
) -> io::Result<usize> {
    keep_panics_quiet();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let parts: Vec<AtomicU64> = jobs.iter().map(|_| AtomicU64::new(0)).collect();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            let (tell, next, stop, parts) = (tell.clone(), &next, &stop, &parts);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let outcome =
                        run_one(job, &|far| parts[index].store((far * PARTS as f64) as u64, Ordering::Relaxed));
                    if tell.send((index, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        let (mut early, mut ended) = (BTreeMap::new(), 0);
        loop {
            match told.recv_timeout(TICK) {
                Ok((index, outcome)) => {
                    parts[index].store(PARTS, Ordering::Relaxed);
                    early.insert(index, outcome);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(ended),
            }
            while let Some(outcome) = early.remove(&ended) {
                if let Err(error) = listener.ended(ended, outcome) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                ended += 1;
            }
            let far: Vec<f64> = parts.iter().map(|part| part.load(Ordering::Relaxed) as f64 / PARTS as f64).collect();
            let running: Vec<_> = far.iter().copied().enumerate().filter(|(_, far)| *far > 0.0 && *far < 1.0).collect();
            listener.tick(far.iter().sum::<f64>() / far.len() as f64, &running);
        }
    })
}

/// One run, with the panic in its failures if there was one.
fn run_one(job: &Job<'_>, far: &dyn Fn(f64)) -> Outcome {
    let scenario = &job.file.scenario;
    let mut world = World::new(scenario, job.seed);
    if job.record {
        world.trace.record();
    }
    IN_A_RUN.set(true);
    let measured = panic::catch_unwind(AssertUnwindSafe(|| {
        measure(job.seed, &mut world, |world| {
            // Only an end is the whole.
            far(progress(world).clamp(0.0, 0.999));
            true
        })
    }));
    IN_A_RUN.set(false);
    let row = measured.unwrap_or_else(|_| {
        let failures = vec![format!("{:.6} s: {}", world.now().as_secs_f64(), LAST_PANIC.take())];
        Row { seed: job.seed, failures, ended_at_s: Some(world.now().as_secs_f64()), ..Row::default() }
    });
    let recording = world.trace.end_record().map(|recorder| (world.scenario().clone(), recorder));
    Outcome { row: Row { scenario: job.file.name.clone(), ..row }, recording }
}

thread_local! {
    static IN_A_RUN: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic inside a run is told with its seed and not at once.
fn keep_panics_quiet() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if IN_A_RUN.get() {
            LAST_PANIC.set(info.to_string().replace('\n', " "));
        } else {
            before(info);
        }
    }));
}

/// The command that runs one seed again, from any folder; with the last second before `ended_at_s`.
pub fn replay_command(file: &Path, seed: u64, ended_at_s: Option<f64>) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "labmesh-sim".into());
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let from = ended_at_s.map_or(String::new(), |at| format!(" --from {:.3}s", (at - 1.0).max(0.0)));
    format!("{} replay {} --seed {seed} --trace{from}", quoted(&program), quoted(&file))
}

/// As a shell reads it back.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ended(Vec<(usize, Row)>);

    impl Listener for Ended {
        fn ended(&mut self, index: usize, outcome: Outcome) -> io::Result<()> {
            self.0.push((index, outcome.row));
            Ok(())
        }
        fn tick(&mut self, done: f64, _: &[(usize, f64)]) {
            assert!((0.0..=1.0).contains(&done));
        }
    }

    fn file(name: &str) -> ScenarioFile {
        let text = "about = \"a test\"\n[lab]\nmachines = 4\nlink = \"1Gbit/s\"\nends_at = \"4s\"";
        ScenarioFile { path: name.into(), name: name.to_owned(), scenario: Scenario::parse(text).unwrap() }
    }

    #[test]
    fn many_threads_lead_to_what_one_leads_to() {
        let file = file("x");
        let jobs: Vec<_> = (1..=9).map(|seed| Job { file: &file, seed, record: seed == 3 }).collect();
        let run = |threads| {
            let mut ended = Ended(Vec::new());
            assert_eq!(run_all(&jobs, threads, None, &mut ended).unwrap(), 9);
            let bare = |row: Row| Row { took: Duration::ZERO, ..row };
            ended.0.into_iter().map(|(index, row)| (index, bare(row))).collect::<Vec<_>>()
        };
        let (one, four) = (run(1), run(4));
        assert_eq!(one, four);
        assert!(one.iter().enumerate().all(|(n, (index, row))| n == *index && row.seed == n as u64 + 1));
        let mut none = Ended(Vec::new());
        assert_eq!(run_all(&jobs, 2, Some(Instant::now()), &mut none).unwrap(), 0, "after its time nothing begins");
    }

    #[test]
    fn a_path_is_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-c_d.toml")), "/a/b-c_d.toml");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
