//! `labmesh-sim report`: a page with pictures.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use labmesh_sim::html::{self, Picture};
use labmesh_sim::jobs::{Job, Listener, Outcome, ScenarioFile, load, run_all};

use super::{Seeds, compare};
use crate::progress::Bar;

/// Write one HTML file with the table of the runs and pictures of the first seed of each scenario.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A scenario, a folder of them, or a result of `run --json`, which gives a table without pictures of runs.
    #[arg(value_name = "SCENARIO|DIR|RUN.json", default_value = "sim/scenarios")]
    what: PathBuf,
    /// Where to.
    #[arg(short, long, value_name = "FILE.html", default_value = "report.html")]
    output: PathBuf,
    /// So many seeds from 1 on, or a range such as 100-199, instead of each scenario's own.
    #[arg(long, value_name = "N|A-B")]
    seeds: Option<Seeds>,
    /// How many runs at once; one for each processor if it is not said.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
}

pub(crate) fn report(arguments: &Arguments) -> anyhow::Result<bool> {
    let (path, output) = (&arguments.what, &arguments.output);
    let cannot = || format!("cannot write {}", output.display());
    let create = || std::fs::File::create(output).with_context(cannot);
    let (mut file, page) = if path.extension().is_some_and(|ending| ending == "json") {
        ensure!(arguments.seeds.is_none(), "{} has its seeds; --seeds is for scenarios", path.display());
        let page = html::page(&compare::read(path)?, &[]);
        (create()?, page)
    } else {
        let files = load(std::slice::from_ref(path))?;
        // Before the runs, which may be long.
        (create()?, draw(arguments, &files)?)
    };
    file.write_all(page.as_bytes()).with_context(cannot)?;
    writeln!(io::stdout(), "wrote {} ({} KiB)", output.display(), page.len().div_ceil(1024))?;
    Ok(true)
}

fn draw(arguments: &Arguments, files: &[ScenarioFile]) -> anyhow::Result<String> {
    let mut jobs = Vec::new();
    for file in files {
        let seeds = super::seeds(arguments.seeds, file).into_iter().enumerate();
        jobs.extend(seeds.map(|(number, seed)| Job { file, seed, record: number == 0 }));
    }
    ensure!(!jobs.is_empty(), "expected at least one seed: `seeds` of the scenario is empty");
    let mut listener = Collector { total: jobs.len(), bar: Bar::new(), outcomes: Vec::new() };
    run_all(&jobs, super::threads(arguments.jobs), None, &mut listener)?;
    listener.bar.clear();
    let rows: Vec<_> = listener.outcomes.iter().map(|outcome| outcome.row.clone()).collect();
    let pictures: Vec<Picture<'_>> = listener
        .outcomes
        .iter()
        .filter_map(|outcome| {
            let (scenario, recording) = outcome.recording.as_ref()?;
            Some(Picture { scenario, row: &outcome.row, recording })
        })
        .collect();
    Ok(html::page(&rows, &pictures))
}

struct Collector {
    total: usize,
    bar: Bar,
    outcomes: Vec<Outcome>,
}

impl Listener for Collector {
    fn ended(&mut self, _: usize, outcome: Outcome) -> io::Result<()> {
        self.outcomes.push(outcome);
        Ok(())
    }

    fn tick(&mut self, done: f64, _: &[(usize, f64)]) {
        self.bar.set(done, &format!("{} of {} runs", self.outcomes.len(), self.total));
    }
}
