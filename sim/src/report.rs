//! What a run led to, as a row of a table and as JSON.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::expect;
use crate::scenario::Scenario;
use crate::world::World;

/// One run of one scenario.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its seed.
    pub seed: u64,
    /// What must not have happened, or did not happen and must; empty for a good run.
    pub failures: Vec<String>,
    /// From `get` to the last whole copy; `None` if some machine has none.
    pub makespan: Option<Duration>,
    /// The same for the middle machine.
    pub median: Option<Duration>,
    /// What the links allow at best, in seconds; 0 without an image.
    pub limit: f64,
    /// Copies that the first holder sent.
    pub source_copies: f64,
    /// Payload received over payload needed.
    pub received: f64,
    /// How long two masters that reached each other coexisted at most.
    pub two_masters: Duration,
    /// How many events.
    pub events: u64,
    /// The trace as a number.
    pub trace: u64,
    /// How long the run took here; not part of the result.
    pub took: Duration,
}

/// Runs a scenario once.
pub fn run(scenario: &Scenario, seed: u64) -> Row {
    measure(scenario, seed, &mut World::new(scenario, seed, false))
}

/// Lets a world go to its end and says what came of it.
pub fn measure(_scenario: &Scenario, seed: u64, world: &mut World) -> Row {
    // A storm's room is drawn.
    let scenario = &world.scenario().clone();
    let begin = Instant::now();
    let mut failures: Vec<String> = world.run().err().into_iter().collect();
    let took = begin.elapsed();
    let mut times = world.finish_times();
    times.sort();
    let whole = times.iter().all(Option::is_some);
    let makespan = times.last().copied().flatten().filter(|_| whole);
    let (sent, received) = world.traffic();
    let size = scenario.lab.image.0.max(1) as f64;
    let source_copies = sent.first().map_or(0.0, |sent| *sent as f64 / size);
    let received = received.iter().sum::<u64>() as f64 / (size * times.len().max(1) as f64);
    if failures.is_empty() {
        failures = expect::shortcomings(scenario, world);
    }
    Row {
        seed,
        failures,
        makespan,
        median: times.get(times.len() / 2).copied().flatten(),
        limit: expect::limit(scenario),
        source_copies,
        received,
        two_masters: world.checker.two_masters,
        events: world.events(),
        trace: world.trace.hash(),
        took,
    }
}

impl Row {
    /// The first line of a table of rows.
    pub const HEAD: &'static str =
        "  seed  makespan  /limit    median  source  received  two masters    events  events/s             trace";

    /// For scripts; without anything that differs between two runs.
    pub fn json(&self) -> Value {
        let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
        json!({
            "seed": self.seed, "failures": self.failures, "makespan_s": seconds(self.makespan),
            "median_s": seconds(self.median), "limit_s": self.limit, "source_copies": self.source_copies,
            "received": self.received, "two_masters_s": self.two_masters.as_secs_f64(), "events": self.events,
            "trace": format!("{:016x}", self.trace),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |d: Option<Duration>| d.map_or("-".to_owned(), |d| format!("{:.2}s", d.as_secs_f64()));
        let ratio = self.makespan.filter(|_| self.limit > 0.0).map(|m| m.as_secs_f64() / self.limit);
        let ratio = ratio.map_or("-".to_owned(), |r| format!("{r:.3}"));
        let speed = self.events as f64 / self.took.as_secs_f64().max(1e-9);
        write!(f, "{:6}  {:>8}  {ratio:>6}  {:>8}", self.seed, seconds(self.makespan), seconds(self.median))?;
        write!(f, "  {:6.3}  {:8.3}", self.source_copies, self.received)?;
        write!(f, "  {:>8.0} ms  {:8}  {speed:8.0}", self.two_masters.as_secs_f64() * 1e3, self.events)?;
        write!(f, "  {:016x}", self.trace)?;
        self.failures.iter().try_for_each(|failure| write!(f, "\n        FAILED: {failure}"))
    }
}
