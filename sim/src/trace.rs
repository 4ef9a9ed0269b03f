//! What happened, line by line: read by people, and hashed to show that two runs are one.
//!
//! A line: seconds, machine, `<` for what came in or `>` for what went out, what. `docs/SIMULATION.md` has the legend.

use std::fmt::{self, Write};

use labmesh_proto::id::Time;
use labmesh_proto::io::{Input, Output};

/// Every line of a run, as one number; printed too if asked for.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    lines: Option<Vec<String>>,
}

/// FNV-1a, 64 bits: no adversary, and the same everywhere.
#[derive(Debug)]
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Trace {
    /// Nothing has happened; `keep` keeps the lines for people.
    pub fn new(keep: bool) -> Self {
        Self { hash: Fnv(0xcbf2_9ce4_8422_2325), lines: keep.then(Vec::new) }
    }

    /// A line.
    pub fn note(&mut self, now: Time, machine: usize, what: fmt::Arguments<'_>) {
        // A hash takes every text.
        let _ = writeln!(self.hash, "{} {machine} {what}", now.0);
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:10.6} pc{:03} {what}", now.as_secs_f64(), machine + 1));
        }
    }

    /// The number of all lines so far.
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    /// The lines since the last call.
    pub fn take(&mut self) -> Vec<String> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// An input in one line, without the bytes of a torrent.
pub struct In<'a>(pub &'a Input);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Input::CacheHas { name, stopped, .. } => write!(f, "< CacheHas {name} stopped {stopped}"),
            Input::CachePart { name, mode, .. } => write!(f, "< CachePart {name} {mode}"),
            input => write!(f, "< {input:?}"),
        }
    }
}

/// An output in one line, without the bytes of a torrent.
pub struct Out<'a>(pub &'a Output);

impl fmt::Display for Out<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Output::Open { image, name, complete, mode, .. } => {
                write!(f, "> Open {} {name} complete {complete} {mode}", image.0)
            }
            output => write!(f, "> {output:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_lines_in_their_order() {
        let hash = |lines: &[&str]| {
            let mut trace = Trace::new(false);
            lines.iter().for_each(|line| trace.note(Time(1), 0, format_args!("{line}")));
            trace.hash()
        };
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert!(hash(&["a", "b"]) != hash(&["b", "a"]) && hash(&["a"]) != hash(&["a", "a"]));
    }
}
