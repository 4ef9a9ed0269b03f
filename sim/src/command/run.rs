//! `labmesh-sim run`: many seeds of many scenarios, as a table or as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use labmesh_sim::jobs::{Job, Listener, Outcome, ScenarioFile, load, replay_command, run_all};
use labmesh_sim::report::{Row, ratio, seconds, to_json};
use labmesh_sim::table::{Column, Table};

use super::Seeds;
use crate::progress::{Bar, peak_memory, width};

/// Run scenarios and print a table.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Scenario files, or folders of them.
    #[arg(required = true, value_name = "SCENARIO|DIR")]
    scenarios: Vec<PathBuf>,
    /// So many seeds from 1 on, or a range such as 100-199, instead of each scenario's own.
    #[arg(long, value_name = "N|A-B")]
    seeds: Option<Seeds>,
    /// JSON on standard output when all is done, a line for each run; what `compare` and `report` read.
    #[arg(long)]
    json: bool,
    /// How many runs at once; one for each processor if it is not said.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Begin no further run after this time, such as 30min. Then scenarios take turns, seed by seed, and only what
    /// failed is printed before the summary.
    #[arg(long = "for", value_name = "TIME", value_parser = super::moment)]
    at_most: Option<Duration>,
    /// Only scenarios whose faults are drawn from the seed.
    #[arg(long)]
    random: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let mut files = load(&arguments.scenarios)?;
    if arguments.random {
        files.retain(|file| file.scenario.storm || file.scenario.faults.is_random());
        ensure!(!files.is_empty(), "none of these scenarios draws its faults from the seed");
    }
    let turns = |file| super::seeds(arguments.seeds, file).into_iter().enumerate();
    let mut jobs: Vec<(usize, Job<'_>)> = files
        .iter()
        .flat_map(|file| turns(file).map(move |(turn, seed)| (turn, Job { file, seed, record: false })))
        .collect();
    if arguments.at_most.is_some() {
        jobs.sort_by_key(|(turn, _)| *turn);
    }
    let jobs: Vec<Job<'_>> = jobs.into_iter().map(|(_, job)| job).collect();
    ensure!(!jobs.is_empty(), "expected at least one seed: `seeds` of the scenario is empty");
    let (begin, threads) = (Instant::now(), super::threads(arguments.jobs));
    let deadline = arguments.at_most.map(|most| begin + most);
    let mut listener = Printer {
        jobs: &jobs,
        json: arguments.json,
        rowwise: !arguments.json && arguments.at_most.is_none(),
        bar: Bar::new(),
        table: Row::table().fit(width()),
        rows: Vec::new(),
    };
    let ended = run_all(&jobs, threads, deadline, &mut listener)?;
    let Printer { bar, rows, .. } = listener;
    bar.clear();
    if arguments.json {
        io::stdout().write_all(to_json(&rows).as_bytes())?;
    } else if files.len() > 1 {
        summarize(&rows)?;
    }
    let last = last_line(&rows, begin.elapsed(), threads.min(jobs.len()));
    people(arguments.json, &last)?;
    if ended < jobs.len() {
        people(arguments.json, &format!("{} runs did not begin: the time was over", jobs.len() - ended))?;
    }
    Ok(rows.iter().all(|row| row.failures.is_empty()))
}

/// Prints rows as they come.
struct Printer<'a> {
    jobs: &'a [Job<'a>],
    json: bool,
    /// Every row, under the heading of its scenario.
    rowwise: bool,
    bar: Bar,
    table: Table,
    rows: Vec<Row>,
}

impl Listener for Printer<'_> {
    fn ended(&mut self, index: usize, outcome: Outcome) -> io::Result<()> {
        let (job, row) = (&self.jobs[index], outcome.row);
        let mut text = String::new();
        if self.rowwise {
            let first = index == 0 || self.jobs[index - 1].file.name != job.file.name;
            if first {
                text += &heading(job.file, index > 0, &self.table);
            }
            text += &self.table.line(&row.cells());
        }
        text += &failures(&row, job, !text.is_empty());
        self.rows.push(row);
        if text.is_empty() { Ok(()) } else { self.bar.hidden_while(|| people(self.json, &text)) }
    }

    fn tick(&mut self, done: f64, running: &[(usize, f64)]) {
        let ended = self.rows.len();
        let running = running.iter().map(|(index, far)| {
            let Job { file, seed, .. } = &self.jobs[*index];
            format!("{}:{seed} {:.0} %", file.name, far * 100.0)
        });
        let running = running.collect::<Vec<_>>().join(", ");
        self.bar.set(done, &format!("{ended} of {} runs, {running}", self.jobs.len()));
    }
}

fn heading(file: &ScenarioFile, gap: bool, table: &Table) -> String {
    let gap = if gap { "\n" } else { "" };
    format!("{gap}{}: {}\n{}\n", file.path.display(), file.scenario.about, table.head())
}

/// What was wrong, and how to see it again; `below` the row itself.
fn failures(row: &Row, job: &Job<'_>, below: bool) -> String {
    if row.failures.is_empty() {
        return String::new();
    }
    let (gap, name) = (if below { "\n" } else { "" }, &job.file.name);
    let failed: String = row.failures.iter().map(|what| format!("FAILED {name} seed {}: {what}\n", row.seed)).collect();
    format!("{gap}{failed}  replay: {}", replay_command(&job.file.path, row.seed, row.ended_at_s))
}

/// To standard output, or to standard error if that is for a script.
fn people(json: bool, text: &str) -> io::Result<()> {
    if json { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") }
}

/// A line for each scenario.
fn summarize(rows: &[Row]) -> io::Result<()> {
    let table = Table::new(&[
        Column::left("scenario", 20, 9),
        Column::right("runs", 4, 3),
        Column::right("failed", 6, 8),
        Column::right("makespan", 9, 5),
        Column::right("limit", 9, 2),
        Column::right("/limit", 6, 7),
        Column::right("worst", 6, 6),
        Column::right("source", 6, 4),
    ])
    .fit(width());
    let mut scenarios: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    rows.iter().for_each(|row| scenarios.entry(&row.scenario).or_default().push(row));
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "\nThe middle seed of each, the worst of all, and the most copies that a source sent:\n{}",
        table.head()
    )?;
    for (name, mut rows) in scenarios {
        // By what is printed; endless is last.
        let rank = |row: &Row| row.ratio().or(row.makespan_s).unwrap_or(f64::MAX);
        rows.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        let (middle, worst) = (rows[rows.len() / 2], rows[rows.len() - 1]);
        let failed = rows.iter().filter(|row| !row.failures.is_empty()).count();
        let source = rows.iter().map(|row| row.source_copies).fold(0.0, f64::max);
        let limit = (middle.limit_s > 0.0).then_some(middle.limit_s);
        let cells = [
            name.to_owned(),
            rows.len().to_string(),
            if failed > 0 { failed.to_string() } else { "-".to_owned() },
            seconds(middle.makespan_s),
            seconds(limit),
            ratio(middle.ratio()),
            ratio(worst.ratio()),
            format!("{source:.3}"),
        ];
        writeln!(out, "{}", table.line(&cells))?;
    }
    writeln!(out)
}

fn last_line(rows: &[Row], took: Duration, threads: usize) -> String {
    let failed = rows.iter().filter(|row| !row.failures.is_empty()).count();
    let events = rows.iter().map(|row| row.events).sum::<u64>() as f64 / 1e6;
    let (seconds, passed) = (took.as_secs_f64(), rows.len() - failed);
    let memory = peak_memory().map_or(String::new(), |bytes| format!("; peak memory {} MiB", bytes >> 20));
    format!(
        "{passed} runs passed, {failed} failed; {events:.2} million events in {seconds:.1} s on {threads} threads: \
         {:.2} million a second{memory}",
        events / seconds.max(1e-9)
    )
}
