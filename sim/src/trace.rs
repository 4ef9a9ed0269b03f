//! What happened, line by line: hashed to show that two runs are one, and read by people.
//!
//! Rule: everything that crosses the border of a node goes into the hash, whether or not anybody reads it; a line is
//! made only if somebody does. `docs/SIMULATION.md` has the legend. Not here: the words ([`crate::lines`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};

use clap::ValueEnum;
use labmesh_proto::id::{NodeId, Time};
use labmesh_proto::io::{Event, Input, Output};

use crate::lines::{Lines, name};
use crate::record::Recorder;

/// No machine, but all of them.
pub const ROOM: usize = usize::MAX;

/// What a line is about; what `--only` chooses by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// What went wrong with a machine, and that it was put right.
    Faults,
    /// Who is master, who came and went, what an image does.
    Events,
    /// Commands of a person and their answers.
    People,
    /// Discovery by mDNS.
    Mdns,
    /// Heartbeats.
    Beats,
    /// Control connections and messages.
    Control,
    /// Peer connections, messages and blocks.
    Peer,
    /// Cache, journal, files.
    Disk,
    /// Deadlines of a node.
    Timers,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Faults => "fault",
            Self::Events => "event",
            Self::People => "people",
            Self::Mdns => "mdns",
            Self::Beats => "beat",
            Self::Control => "control",
            Self::Peer => "peer",
            Self::Disk => "disk",
            Self::Timers => "timer",
        }
    }
}

/// Which lines are wanted; without a choice, all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of these machines, counted from 0; empty = of all.
    pub machines: BTreeSet<usize>,
    /// Of these kinds; empty = of all.
    pub kinds: BTreeSet<Kind>,
    /// Not before.
    pub from: Option<Time>,
    /// Not after.
    pub until: Option<Time>,
}

impl Filter {
    fn wants(&self, now: Time, machine: usize, kind: Kind) -> bool {
        (self.machines.is_empty() || self.machines.contains(&machine) || machine == ROOM)
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
            && self.from.is_none_or(|from| from <= now)
            && self.until.is_none_or(|until| now <= until)
    }
}

/// A run as one number; as lines and as a recording too, if asked for.
#[derive(Debug)]
pub struct Trace {
    hash: Digest,
    ids: BTreeMap<NodeId, usize>,
    /// Which machines were ever started.
    begun: Vec<bool>,
    show: Option<Box<Show>>,
    recorder: Option<Box<Recorder>>,
}

impl Trace {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self {
            hash: Digest(0xcbf2_9ce4_8422_2325),
            ids: BTreeMap::new(),
            begun: Vec::new(),
            show: None,
            recorder: None,
        }
    }

    /// One machine more.
    pub fn add(&mut self, id: NodeId) {
        self.ids.insert(id, self.ids.len());
        self.begun.push(false);
    }

    /// From now on writes the lines that `filter` wants.
    pub fn show(&mut self, filter: Filter, to: Box<dyn Write>) {
        let lines = Lines::new(self.ids.clone());
        let roles = vec!["off"; self.ids.len()];
        self.show = Some(Box::new(Show { filter, to, lines, roles, failed: None }));
    }

    /// Ends [`Self::show`].
    ///
    /// # Errors
    /// If some line could not be written.
    pub fn end_show(&mut self) -> io::Result<()> {
        let Some(mut show) = self.show.take() else { return Ok(()) };
        show.failed.take().map_or_else(|| show.to.flush(), Err)
    }

    /// Whether a line could not be written, so that nobody reads the rest.
    pub fn has_failed(&self) -> bool {
        self.show.as_ref().is_some_and(|show| show.failed.is_some())
    }

    /// From now on keeps what a report shows.
    pub fn record(&mut self) {
        self.recorder = Some(Box::new(Recorder::new(self.ids.len())));
    }

    /// Ends [`Self::record`].
    pub fn end_record(&mut self) -> Option<Recorder> {
        self.recorder.take().map(|recorder| *recorder)
    }

    /// The number of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    /// A machine is about to hear of something.
    pub fn input(&mut self, now: Time, machine: usize, input: &Input) {
        self.hash.head(now, machine, 1);
        input.hash(&mut self.hash);
        if let Some(recorder) = &mut self.recorder {
            recorder.input(now, machine, input);
        }
        if let Some(show) = &mut self.show {
            show.lines.learn(machine, input);
            let kind = Lines::kind_of_input(input);
            show.line(now, machine, '<', kind, |lines| lines.input(machine, input));
        }
    }

    /// A deadline of a machine has come.
    pub fn timer(&mut self, now: Time, machine: usize, why: &str) {
        self.hash.head(now, machine, 2);
        self.hash.text(format_args!("{why}"));
        if let Some(show) = &mut self.show {
            show.line(now, machine, '<', Kind::Timers, |_| why.to_owned());
        }
    }

    /// A machine wants something done.
    pub fn output(&mut self, now: Time, machine: usize, output: &Output) {
        self.hash.head(now, machine, 3);
        output.hash(&mut self.hash);
        if let Some(recorder) = &mut self.recorder {
            recorder.output(now, machine, output);
        }
        if let Some(show) = &mut self.show {
            if let Output::Event(event) = output {
                show.role(machine, event);
            }
            show.line(now, machine, '>', Lines::kind_of_output(output), |lines| lines.output(machine, output));
        }
    }

    /// Something happened to a machine, or to the [`ROOM`].
    pub fn note(&mut self, now: Time, machine: usize, what: fmt::Arguments<'_>) {
        self.happened(now, machine, Kind::Faults, what);
    }

    /// Its program started; the first time that is no mishap's end.
    pub fn started(&mut self, now: Time, machine: usize, term: u64) {
        if let Some(show) = &mut self.show {
            show.roles[machine] = "seeking";
        }
        let again = std::mem::replace(&mut self.begun[machine], true);
        let kind = if again { Kind::Faults } else { Kind::Events };
        self.happened(now, machine, kind, format_args!("started, term {term}"));
    }

    fn happened(&mut self, now: Time, machine: usize, kind: Kind, what: fmt::Arguments<'_>) {
        self.hash.head(now, machine, 4);
        self.hash.text(what);
        if let Some(recorder) = self.recorder.as_mut().filter(|_| kind == Kind::Faults) {
            recorder.note(now, machine, what.to_string());
        }
        if let Some(show) = &mut self.show {
            show.line(now, machine, '!', kind, |_| what.to_string());
        }
    }

    /// Its program ended.
    pub fn ended(&mut self, now: Time, machine: usize, how: fmt::Arguments<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.ended(now, machine);
        }
        self.note(now, machine, how);
        if let Some(show) = &mut self.show {
            show.roles[machine] = "off";
        }
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

/// Somebody reads along.
struct Show {
    filter: Filter,
    to: Box<dyn Write>,
    lines: Lines,
    roles: Vec<&'static str>,
    failed: Option<io::Error>,
}

impl fmt::Debug for Show {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Show").field("filter", &self.filter).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Show {
    fn line(&mut self, now: Time, machine: usize, way: char, kind: Kind, what: impl FnOnce(&Lines) -> String) {
        if self.failed.is_some() || !self.filter.wants(now, machine, kind) {
            return;
        }
        let (at, what, kind) = (now.as_secs_f64(), what(&self.lines), kind.word());
        let name = if machine == ROOM { "room".to_owned() } else { name(machine) };
        let role = self.roles.get(machine).unwrap_or(&"");
        let written = writeln!(self.to, "{at:10.6} {name:5} {role:8} {way} {kind:7} {what}");
        self.failed = written.err();
    }

    fn role(&mut self, machine: usize, event: &Event) {
        self.roles[machine] = match event {
            Event::BecameMaster { .. } => "master",
            Event::BecameSolo => "solo",
            Event::Following { .. } => "follower",
            Event::LostMaster { .. } => "seeking",
            _ => return,
        };
    }
}

/// 64 bits for no adversary, the same on every machine and in every profile. Inputs and outputs say by `derive(Hash)`
/// what they are, so that no new field escapes.
#[derive(Debug)]
struct Digest(u64);

impl Digest {
    fn head(&mut self, now: Time, machine: usize, what: u64) {
        self.write_u64(now.0);
        self.write_u64((machine as u64).wrapping_shl(8) | what);
    }

    fn text(&mut self, text: fmt::Arguments<'_>) {
        // A hash takes every text.
        let _ = self.write_fmt(text);
    }
}

impl fmt::Write for Digest {
    /// FNV-1a, since it does not see how a text is cut into calls.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    // The default of each goes by bytes, whose order is the machine's.
    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Where a test reads what was written.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_hash_is_that_of_everything_in_its_order() {
        let hash = |lines: &[&str]| {
            let mut trace = Trace::new();
            lines.iter().for_each(|line| trace.note(Time(1), 0, format_args!("{line}")));
            trace.hash()
        };
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert!(hash(&["a", "b"]) != hash(&["b", "a"]) && hash(&["a"]) != hash(&["a", "a"]));
    }

    #[test]
    fn a_line_says_when_who_as_what_and_what() {
        let (mut trace, page) = (Trace::new(), Page::default());
        [[1; 32], [2; 32]].into_iter().for_each(|id| trace.add(NodeId(id)));
        let only = Filter { machines: BTreeSet::from([1]), until: Some(Time(2_000_000_000)), ..Filter::default() };
        trace.show(only, Box::new(page.clone()));
        trace.started(Time(1_000), 0, 0);
        trace.started(Time(1_000), 1, 4);
        let event = Event::Following { node: NodeId([1; 32]), term: 5 };
        trace.output(Time(1_500_000_000), 1, &Output::Event(event));
        trace.ended(Time(3_000_000_000), 1, format_args!("killed"));
        trace.end_show().unwrap();
        let expected = "  0.000001 pc002 seeking  ! event   started, term 4\n\
                        \x20 1.500000 pc002 follower > event   follows pc001, term 5\n";
        assert_eq!(String::from_utf8(page.0.lock().unwrap().clone()).unwrap(), expected);
    }
}
