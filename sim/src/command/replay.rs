//! `labmesh-sim replay`: one seed again, with its trace.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use labmesh_proto::id::Time;
use labmesh_sim::jobs::load_file;
use labmesh_sim::report::{Row, measure, progress};
use labmesh_sim::trace::{Filter, Kind};
use labmesh_sim::world::World;

use crate::progress::{Bar, width};

/// Run one seed of a scenario again.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The scenario file.
    scenario: PathBuf,
    /// Its seed.
    #[arg(long)]
    seed: u64,
    /// Print what happens: time, machine, role, `<` in or `>` out or `!` mishap, about what, what.
    #[arg(long)]
    trace: bool,
    /// Trace only these machines, such as pc003 or pc001,pc002.
    #[arg(long, value_name = "PC", requires = "trace", value_delimiter = ',', value_parser = super::machine)]
    node: Vec<usize>,
    /// Trace only lines about this.
    #[arg(long, value_name = "WHAT", requires = "trace", value_delimiter = ',')]
    only: Vec<Kind>,
    /// Trace nothing before this moment, such as 5.25s.
    #[arg(long, value_name = "TIME", requires = "trace", value_parser = super::moment)]
    from: Option<Duration>,
    /// End the run at this moment; what is expected of it is then not judged.
    #[arg(long, value_name = "TIME", value_parser = super::moment)]
    until: Option<Duration>,
}

pub(crate) fn replay(arguments: &Arguments) -> anyhow::Result<bool> {
    let file = load_file(&arguments.scenario)?;
    let mut world = World::new(&file.scenario, arguments.seed);
    // A storm's room is drawn from the seed.
    let machines = world.scenario().machines();
    if let Some(strange) = arguments.node.iter().find(|machine| **machine >= machines) {
        ensure!(false, "there is no pc{:03}: {} has pc001 to pc{machines:03}", strange + 1, file.name);
    }
    let until = arguments.until.map_or(world.ends_at(), |until| (Time(0) + until).min(world.ends_at()));
    if arguments.trace {
        let filter = Filter {
            machines: BTreeSet::from_iter(arguments.node.iter().copied()),
            kinds: BTreeSet::from_iter(arguments.only.iter().copied()),
            from: arguments.from.map(|from| Time(0) + from),
            until: Some(until),
        };
        world.trace.show(filter, Box::new(BufWriter::new(io::stdout())));
    }
    let bar = Bar::new();
    let barred = !arguments.trace || !io::stdout().is_terminal();
    let mut cut = false;
    let mut row = measure(arguments.seed, &mut world, |world| {
        if barred {
            bar.set(progress(world), &format!("{:.1} s", world.now().as_secs_f64()));
        }
        cut = world.now() >= until && until < world.ends_at();
        !cut && !world.trace.has_failed()
    });
    bar.clear();
    world.trace.end_show()?;
    row.scenario.clone_from(&file.name);
    let table = Row::table().fit(width());
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n{}", table.head(), table.line(&row.cells()))?;
    for what in &row.failures {
        writeln!(out, "FAILED {} seed {}: {what}", row.scenario, row.seed)?;
    }
    if cut && row.failures.is_empty() {
        writeln!(
            out,
            "ended at {:.3} s as asked: what is expected of the whole run was not judged",
            until.as_secs_f64()
        )?;
    }
    Ok(row.failures.is_empty())
}
