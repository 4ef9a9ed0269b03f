//! `labmesh-sim compare`: what became better or worse.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use labmesh_sim::compare::{Change, Pair, Tolerance};
use labmesh_sim::report::{Row, from_json};

use crate::progress::width;

/// Compare two results of `run --json`; exit code 1 if something became worse.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Before.
    old: PathBuf,
    /// After.
    new: PathBuf,
    /// What is no difference.
    #[arg(long, value_name = "PERCENT", default_value = "2%")]
    tolerance: Tolerance,
    /// Exit code 1 too if one of them ran what the other did not.
    #[arg(long)]
    same_runs: bool,
    /// Exit code 1 unless both ran the same with the same traces: nothing at all has changed.
    #[arg(long)]
    identical: bool,
}

pub(crate) fn compare(arguments: &Arguments) -> anyhow::Result<bool> {
    let (old, new) = (read(&arguments.old)?, read(&arguments.new)?);
    let found = labmesh_sim::compare::compare(&old, &new, arguments.tolerance);
    let (before, after) = (arguments.old.display(), arguments.new.display());
    ensure!(!found.pairs.is_empty(), "nothing to compare: {before} and {after} have no scenario and seed in common");
    let table = Pair::table().fit(width());
    let mut out = io::stdout().lock();
    writeln!(out, "{}", table.head())?;
    for pair in &found.pairs {
        writeln!(out, "{}", table.line(&pair.cells()))?;
    }
    writeln!(out)?;
    sets(&mut out, &arguments.old, &found.only_old)?;
    sets(&mut out, &arguments.new, &found.only_new)?;
    let [same, alike, better, worse] =
        [Change::Identical, Change::Alike, Change::Better, Change::Worse].map(|change| found.count(change));
    let percent = arguments.tolerance.0 * 100.0;
    writeln!(
        out,
        "{same} runs are the same, {alike} differ by less than {percent} %, {better} are better, {worse} are WORSE"
    )?;
    let same_runs = found.only_old.is_empty() && found.only_new.is_empty();
    Ok(worse == 0
        && (same_runs || !arguments.same_runs)
        && (!arguments.identical || same_runs && same == found.pairs.len()))
}

/// What only one of them ran.
fn sets(out: &mut impl Write, file: &Path, only: &BTreeMap<&str, Vec<u64>>) -> io::Result<()> {
    for (scenario, seeds) in only {
        let shown: Vec<String> = seeds.iter().take(8).map(u64::to_string).collect();
        let more =
            if seeds.len() > shown.len() { format!(" and {} more", seeds.len() - shown.len()) } else { String::new() };
        writeln!(out, "only in {}: {scenario}, seeds {}{more}", file.display(), shown.join(", "))?;
    }
    Ok(())
}

pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let expected = || format!("expected what `labmesh-sim run --json` writes in {}", path.display());
    let rows = from_json(&text).with_context(expected)?;
    ensure!(!rows.is_empty(), "{} has no runs", path.display());
    Ok(rows)
}
