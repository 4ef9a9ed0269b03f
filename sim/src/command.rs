//! The commands, a file each, and what several of them take.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use labmesh_sim::jobs::ScenarioFile;

pub(crate) mod compare;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod run;

/// Of each scenario at once: years of runs, and not yet much memory.
const SEEDS_MAX: u64 = 1_000_000;

/// `20` is 1 to 20, `100-199` is what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seeds {
    first: u64,
    last: u64,
}

impl FromStr for Seeds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |_| format!("expected a number of seeds such as 20, or a range such as 100-199, not {text:?}");
        let (first, last): (u64, u64) = match text.split_once('-') {
            Some((first, last)) => (first.parse().map_err(bad)?, last.parse().map_err(bad)?),
            None => (1, text.parse().map_err(bad)?),
        };
        match last.checked_sub(first) {
            None => Err("expected at least one seed".to_owned()),
            Some(more) if more >= SEEDS_MAX => Err(format!("expected at most {SEEDS_MAX} seeds")),
            Some(_) => Ok(Self { first, last }),
        }
    }
}

/// These seeds, or the scenario's own.
pub(crate) fn seeds(asked: Option<Seeds>, file: &ScenarioFile) -> Vec<u64> {
    asked.map_or_else(|| file.scenario.seeds.clone(), |Seeds { first, last }| (first..=last).collect())
}

/// So many threads, or one for each processor.
pub(crate) fn threads(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

/// `5s`, `5.25s`, `5.25` or `1min 5s`.
pub(crate) fn moment(text: &str) -> Result<Duration, String> {
    let bad = || format!("expected a time such as 5s, 5.25s or 1min, not {text:?}");
    match text.strip_suffix('s').unwrap_or(text).parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| bad()),
        Err(_) => humantime::parse_duration(text).map_err(|_| bad()),
    }
}

/// `pc003` or `3`, counted from 1; the result from 0.
pub(crate) fn machine(text: &str) -> Result<usize, String> {
    let number: Option<usize> = text.strip_prefix("pc").unwrap_or(text).parse().ok();
    number.and_then(|n| n.checked_sub(1)).ok_or_else(|| format!("expected a machine such as pc003, not {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_read_or_refused() {
        assert_eq!("20".parse(), Ok(Seeds { first: 1, last: 20 }));
        assert_eq!("100-199".parse(), Ok(Seeds { first: 100, last: 199 }));
        for bad in ["0", "9-3", "x", "-1", "1-", "", "1-1000001", "99999999999999999999"] {
            assert!(bad.parse::<Seeds>().is_err(), "{bad}");
        }
        assert_eq!(moment("5.25s"), Ok(Duration::from_millis(5250)));
        assert_eq!(moment("1min 5s"), Ok(Duration::from_secs(65)));
        assert!(["soon", "-1s", "nan", "1e99"].iter().all(|bad| moment(bad).is_err()));
        assert_eq!((machine("pc003"), machine("3")), (Ok(2), Ok(2)));
        assert!(["pc000", "pcx", "", "-1"].iter().all(|bad| machine(bad).is_err()));
    }
}
