//! `labmesh-sim`: runs scenarios and replays seeds.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use labmesh_sim::report::{Row, measure, run};
use labmesh_sim::scenario::Scenario;
use labmesh_sim::world::World;

/// Whole rooms of the real protocol code in virtual time.
#[derive(Parser)]
#[command(version)]
enum Arguments {
    /// Run scenarios and print a table.
    Run {
        /// A scenario file, or a folder of them.
        scenario: PathBuf,
        /// So many seeds, from 1, instead of the scenario's own.
        #[arg(long)]
        seeds: Option<u64>,
        /// A JSON line for each run.
        #[arg(long)]
        json: bool,
    },
    /// Run one seed of a scenario again.
    Replay {
        /// The scenario file.
        scenario: PathBuf,
        /// Its seed.
        #[arg(long)]
        seed: u64,
        /// Print every input and output.
        #[arg(long)]
        trace: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let good = match Arguments::parse() {
        Arguments::Run { scenario, seeds, json } => run_all(&scenario, seeds, json)?,
        Arguments::Replay { scenario, seed, trace } => replay(&scenario, seed, trace)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_all(path: &Path, seeds: Option<u64>, json: bool) -> anyhow::Result<bool> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
        files.sort();
    }
    let (mut good, mut bad) = (0, 0);
    for file in &files {
        let scenario = load(file)?;
        if !json {
            println!("{}: {}\n{}", file.display(), scenario.about, Row::HEAD);
        }
        let seeds = seeds.map_or_else(|| scenario.seeds.clone(), |count| (1..=count).collect());
        for seed in seeds {
            let row = run(&scenario, seed);
            if json {
                println!("{}", row.json());
            } else {
                println!("{row}");
            }
            if row.failures.is_empty() {
                good += 1;
            } else {
                bad += 1;
                println!("replay with: labmesh-sim replay {} --seed {seed} --trace", file.display());
            }
        }
    }
    if !json {
        println!("{good} runs passed, {bad} failed");
    }
    Ok(bad == 0)
}

fn replay(file: &Path, seed: u64, trace: bool) -> anyhow::Result<bool> {
    let scenario = load(file)?;
    let mut world = World::new(&scenario, seed, trace);
    let row = measure(&scenario, seed, &mut world);
    world.trace.take().iter().for_each(|line| println!("{line}"));
    println!("{}\n{row}", Row::HEAD);
    Ok(row.failures.is_empty())
}

fn load(file: &Path) -> anyhow::Result<Scenario> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Scenario::parse(&text).with_context(|| format!("in {}", file.display()))
}
