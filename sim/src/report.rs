//! What a run led to, as a row of a table and as JSON.
//!
//! Rule: the JSON of one seed is the same wherever and however often it is run. Not here: what became better or worse
//! ([`crate::compare`]).

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::expect;
use crate::scenario::Scenario;
use crate::table::{Column, Table};
use crate::world::World;

/// How often somebody may look at a world that runs.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// One run of one scenario; for scripts in JSON, without anything that differs between two runs of one seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// What must not have happened, or did not happen and must; empty for a good run.
    pub failures: Vec<String>,
    /// From `get` to the last whole copy, in seconds; `None` if some machine has none.
    pub makespan_s: Option<f64>,
    /// The same for the middle machine.
    pub median_s: Option<f64>,
    /// What the links allow at best, in seconds; 0 without an image.
    pub limit_s: f64,
    /// Copies that the first holder sent.
    pub source_copies: f64,
    /// Payload received over payload needed.
    pub received: f64,
    /// How long two masters that reached each other coexisted at most, in seconds.
    pub two_masters_s: f64,
    /// How many events.
    pub events: u64,
    /// The hash of everything that crossed a border, in hex.
    pub trace: String,
    /// How long the run took here; not part of the result.
    #[serde(skip)]
    pub took: Duration,
    /// The virtual moment at which it was given up because of what must not happen, in seconds.
    #[serde(skip)]
    pub ended_at_s: Option<f64>,
}

/// Runs a scenario once.
pub fn run(scenario: &Scenario, seed: u64) -> Row {
    measure(seed, &mut World::new(scenario, seed), |_| true)
}

/// Lets a world go to its end and says what came of it. `watch` is called every tenth of a virtual second; `false`
/// stops the world there, without a judgement of what is expected in the end.
pub fn measure(seed: u64, world: &mut World, mut watch: impl FnMut(&World) -> bool) -> Row {
    // A storm's room is drawn.
    let scenario = &world.scenario().clone();
    let begin = Instant::now();
    let mut result = Ok(());
    let mut goes_on = true;
    while result.is_ok() && goes_on && world.now() < world.ends_at() {
        result = world.run_until((world.now() + WATCH_EVERY).min(world.ends_at()));
        goes_on = watch(world);
    }
    let ended_at_s = result.is_err().then(|| world.now().as_secs_f64());
    if goes_on {
        result = result.and_then(|()| world.run());
    }
    let took = begin.elapsed();
    let mut row = row(scenario, seed, world);
    row.failures = match result {
        Err(what) => vec![what],
        Ok(()) if goes_on => expect::shortcomings(scenario, world),
        Ok(()) => Vec::new(),
    };
    Row { took, ended_at_s, ..row }
}

/// What can be measured of a world that has come to its end.
fn row(scenario: &Scenario, seed: u64, world: &World) -> Row {
    let mut times: Vec<_> = world.takers().into_iter().map(|(_, time)| time).collect();
    times.sort();
    let whole = times.iter().all(Option::is_some);
    let (sent, received) = world.traffic();
    let size = scenario.lab.image.0.max(1) as f64;
    let seconds = |time: Option<&Option<Duration>>| time.copied().flatten().map(|time| time.as_secs_f64());
    Row {
        scenario: String::new(),
        seed,
        failures: Vec::new(),
        makespan_s: seconds(times.last()).filter(|_| whole),
        median_s: seconds(times.get(times.len() / 2)),
        limit_s: expect::limit(scenario),
        source_copies: sent.first().map_or(0.0, |sent| *sent as f64 / size),
        received: received.iter().sum::<u64>() as f64 / (size * times.len().max(1) as f64),
        two_masters_s: world.checker.two_masters.as_secs_f64(),
        events: world.events(),
        trace: format!("{:016x}", world.trace.hash()),
        took: Duration::ZERO,
        ended_at_s: None,
    }
}

/// How far a run has come, from 0 to 1: by the bytes that arrived, or by the time if that is further.
pub fn progress(world: &World) -> f64 {
    let lab = &world.scenario().lab;
    let time = world.now().as_secs_f64() / world.ends_at().as_secs_f64();
    let needed = lab.image.0 as f64 * (lab.images * world.takers().len()) as f64;
    let arrived = world.traffic().1.iter().sum::<u64>() as f64;
    if needed > 0.0 { time.max(arrived / needed).min(1.0) } else { time }
}

impl Row {
    /// Makespan over limit; `None` if some machine has no copy, or without an image.
    pub fn ratio(&self) -> Option<f64> {
        self.makespan_s.filter(|_| self.limit_s > 0.0).map(|makespan| makespan / self.limit_s)
    }

    /// Millions of events a second of this machine's time.
    pub fn speed(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64().max(1e-9) / 1e6
    }

    /// The columns of a table of rows.
    pub fn table() -> Table {
        Table::new(&[
            Column::right("seed", 6, 9),
            Column::right("makespan", 9, 9),
            Column::right("/limit", 6, 9),
            Column::right("median", 9, 5),
            Column::right("source", 6, 8),
            Column::right("received", 8, 6),
            Column::right("two masters", 11, 3),
            Column::right("events", 9, 2),
            Column::right("M/s", 5, 4),
            Column::right("trace", 16, 1),
        ])
    }

    /// The cells of [`Self::table`].
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.seed.to_string(),
            seconds(self.makespan_s),
            ratio(self.ratio()),
            seconds(self.median_s),
            format!("{:.3}", self.source_copies),
            format!("{:.3}", self.received),
            format!("{:.0} ms", self.two_masters_s * 1e3),
            self.events.to_string(),
            format!("{:.2}", self.speed()),
            self.trace.clone(),
        ]
    }
}

/// For a cell.
pub fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.2} s"))
}

/// For a cell.
pub fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"))
}

/// Rows as the JSON that [`from_json`] reads: one line for each run, keys in order.
pub fn to_json(rows: &[Row]) -> String {
    let lines: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
    format!("{{\"runs\": [\n{}\n]}}\n", lines.join(",\n"))
}

/// What [`to_json`] wrote, perhaps an older version of it that knows no more keys.
///
/// # Errors
/// With line and column.
pub fn from_json(text: &str) -> Result<Vec<Row>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Document {
        runs: Vec<Row>,
    }
    serde_json::from_str::<Document>(text).map(|document| document.runs)
}

#[cfg(test)]
mod tests;
