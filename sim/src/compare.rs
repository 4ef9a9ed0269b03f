//! What became better or worse between two sets of runs.
//!
//! Rule: only what both sets ran is compared, seed by seed; less is better in every measure. A run whose trace is the
//! same did exactly the same. Not here: what a run led to ([`crate::report`]).

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::report::{Row, ratio};
use crate::table::{Column, Table};

/// By how much a measure may differ: 0.02 is 2 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance(pub f64);

/// It is no share such as 2 %.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a share from 0% to 100% such as 2%, not {0:?}")]
pub struct BadTolerance(String);

impl FromStr for Tolerance {
    type Err = BadTolerance;
    fn from_str(text: &str) -> Result<Self, BadTolerance> {
        let bad = || BadTolerance(text.to_owned());
        let percent: f64 = text.strip_suffix('%').ok_or_else(bad)?.trim().parse().map_err(|_| bad())?;
        if (0.0..=100.0).contains(&percent) { Ok(Self(percent / 100.0)) } else { Err(bad()) }
    }
}

/// How one run changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The same trace.
    Identical,
    /// Within the tolerance.
    Alike,
    /// Something is less, nothing is more.
    Better,
    /// Something is more.
    Worse,
}

/// One run in both sets.
#[derive(Clone, Debug)]
pub struct Pair<'a> {
    /// Before.
    pub old: &'a Row,
    /// After.
    pub new: &'a Row,
    /// In all.
    pub change: Change,
    /// Which measures changed beyond the tolerance, by how much.
    pub words: Vec<String>,
}

/// Two sets of runs, side by side.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// What both ran.
    pub pairs: Vec<Pair<'a>>,
    /// Scenarios with the seeds that only the first ran.
    pub only_old: BTreeMap<&'a str, Vec<u64>>,
    /// Scenarios with the seeds that only the second ran.
    pub only_new: BTreeMap<&'a str, Vec<u64>>,
}

/// Compares two sets of runs.
pub fn compare<'a>(old: &'a [Row], new: &'a [Row], tolerance: Tolerance) -> Comparison<'a> {
    let (before, after) = (by_key(old), by_key(new));
    let only = |these: &BTreeMap<(&'a str, u64), &Row>, those: &BTreeMap<_, _>| {
        let mut found: BTreeMap<&'a str, Vec<u64>> = BTreeMap::new();
        for (scenario, seed) in these.keys().filter(|key| !those.contains_key(*key)) {
            found.entry(scenario).or_default().push(*seed);
        }
        found
    };
    let both = before.iter().filter_map(|(key, old)| Some((*old, *after.get(key)?)));
    Comparison {
        pairs: both.map(|(old, new)| Pair::new(old, new, tolerance)).collect(),
        only_old: only(&before, &after),
        only_new: only(&after, &before),
    }
}

fn by_key(rows: &[Row]) -> BTreeMap<(&str, u64), &Row> {
    rows.iter().map(|row| ((row.scenario.as_str(), row.seed), row)).collect()
}

impl Comparison<'_> {
    /// How many runs changed like that.
    pub fn count(&self, change: Change) -> usize {
        self.pairs.iter().filter(|pair| pair.change == change).count()
    }
}

impl<'a> Pair<'a> {
    fn new(old: &'a Row, new: &'a Row, tolerance: Tolerance) -> Self {
        if old.trace == new.trace && old.failures == new.failures && old.limit_s == new.limit_s {
            return Self { old, new, change: Change::Identical, words: Vec::new() };
        }
        let (mut change, mut words) = (Change::Alike, Vec::new());
        let mut judge = |verdict: Option<(Change, String)>| {
            if let Some((verdict, word)) = verdict {
                change = change.max(verdict);
                words.push(word);
            }
        };
        judge(match (old.failures.is_empty(), new.failures.is_empty()) {
            (true, false) => Some((Change::Worse, "fails now".to_owned())),
            (false, true) => Some((Change::Better, "does not fail any more".to_owned())),
            _ => None,
        });
        judge(drift("makespan", old.makespan_s, new.makespan_s, tolerance));
        // The same news again, unless the limit itself changed.
        if (old.limit_s / new.limit_s.max(f64::MIN_POSITIVE) - 1.0).abs() > tolerance.0 && new.limit_s > 0.0 {
            judge(drift("/limit", old.ratio(), new.ratio(), tolerance));
        }
        judge(drift("source", Some(old.source_copies), Some(new.source_copies), tolerance));
        judge(drift("received", Some(old.received), Some(new.received), tolerance));
        Self { old, new, change, words }
    }

    /// The columns of a table of pairs.
    pub fn table() -> Table {
        Table::new(&[
            Column::left("scenario", 18, 9),
            Column::right("seed", 4, 9),
            Column::left("  makespan, s", 15, 4),
            Column::left("  /limit", 14, 7),
            Column::left("  source", 14, 3),
            Column::left("  received", 14, 2),
            Column::left("change", 9, 9),
        ])
    }

    /// The cells of [`Self::table`].
    pub fn cells(&self) -> Vec<String> {
        let (old, new) = (self.old, self.new);
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let thousandths = |value: f64| ratio(Some(value));
        let word = match self.change {
            Change::Identical => "same".to_owned(),
            Change::Alike => "~".to_owned(),
            Change::Better => format!("better: {}", self.words.join(", ")),
            Change::Worse => format!("WORSE: {}", self.words.join(", ")),
        };
        vec![
            new.scenario.clone(),
            new.seed.to_string(),
            arrow(number(old.makespan_s), number(new.makespan_s)),
            arrow(ratio(old.ratio()), ratio(new.ratio())),
            arrow(thousandths(old.source_copies), thousandths(new.source_copies)),
            arrow(thousandths(old.received), thousandths(new.received)),
            word,
        ]
    }
}

/// Two values, or one that stayed.
fn arrow(old: String, new: String) -> String {
    if old == new { format!("{new:>6}") } else { format!("{old:>6} > {new}") }
}

/// Whether a measure of which less is better changed by more than the tolerance; `None` is endless.
fn drift(name: &str, old: Option<f64>, new: Option<f64>, tolerance: Tolerance) -> Option<(Change, String)> {
    let (old, new) = match (old, new) {
        (None, None) => return None,
        (Some(_), None) => return Some((Change::Worse, format!("no {name} any more"))),
        (None, Some(_)) => return Some((Change::Better, format!("a {name} at last"))),
        (Some(old), Some(new)) => (old, new),
    };
    let change = if new > old * (1.0 + tolerance.0) {
        Change::Worse
    } else if new < old * (1.0 - tolerance.0) {
        Change::Better
    } else {
        return None;
    };
    let by = if old > 0.0 { format!("{:+.1} %", (new / old - 1.0) * 100.0) } else { format!("from 0 to {new:.3}") };
    Some((change, format!("{name} {by}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: &str, seed: u64, makespan: Option<f64>, source: f64) -> Row {
        let text = format!(
            "{{\"runs\": [{{\"scenario\": \"{scenario}\", \"seed\": {seed}, \"failures\": [], \"limit_s\": 4.0, \
             \"source_copies\": {source}, \"received\": 1.0, \"two_masters_s\": 0.0, \"events\": 1, \
             \"trace\": \"{makespan:?}{source}\"}}]}}"
        );
        Row { makespan_s: makespan, ..crate::report::from_json(&text).unwrap().remove(0) }
    }

    #[track_caller]
    fn change(old: Row, new: Row) -> (Change, String) {
        let (old, new) = ([old], [new]);
        let comparison = compare(&old, &new, Tolerance(0.02));
        (comparison.pairs[0].change, comparison.pairs[0].words.join(", "))
    }

    #[test]
    fn a_change_beyond_the_tolerance_is_better_or_worse() {
        let old = row("x", 1, Some(5.0), 1.0);
        assert_eq!(change(old.clone(), old.clone()), (Change::Identical, String::new()));
        assert_eq!(change(old.clone(), row("x", 1, Some(5.09), 1.01)), (Change::Alike, String::new()));
        assert_eq!(change(old.clone(), row("x", 1, Some(4.5), 1.0)), (Change::Better, "makespan -10.0 %".to_owned()));
        let mixed = change(old.clone(), row("x", 1, Some(4.5), 1.5));
        assert_eq!(mixed, (Change::Worse, "makespan -10.0 %, source +50.0 %".to_owned()));
        assert_eq!(change(old.clone(), row("x", 1, None, 1.0)), (Change::Worse, "no makespan any more".to_owned()));
        let failing = Row { failures: vec!["bad".to_owned()], ..row("x", 1, Some(5.0), 1.0) };
        assert_eq!(change(old.clone(), failing.clone()), (Change::Worse, "fails now".to_owned()));
        assert_eq!(change(failing, old).0, Change::Better);
    }

    #[test]
    fn sets_that_differ_are_named() {
        let old = [row("a", 1, None, 1.0), row("a", 2, None, 1.0), row("b", 1, None, 1.0)];
        let new = [row("a", 2, None, 1.0), row("a", 3, None, 1.0), row("c", 1, None, 1.0)];
        let comparison = compare(&old, &new, Tolerance(0.02));
        assert_eq!(comparison.only_old, BTreeMap::from([("a", vec![1]), ("b", vec![1])]));
        assert_eq!(comparison.only_new, BTreeMap::from([("a", vec![3]), ("c", vec![1])]));
        assert_eq!((comparison.pairs.len(), comparison.count(Change::Identical)), (1, 1));
    }

    #[test]
    fn a_tolerance_is_a_percentage() {
        assert_eq!("2%".parse(), Ok(Tolerance(0.02)));
        assert_eq!(" 0 %".trim().parse(), Ok(Tolerance(0.0)));
        for bad in ["2", "x%", "-1%", "101%", "nan%", ""] {
            assert!(bad.parse::<Tolerance>().is_err(), "{bad}");
        }
    }
}
