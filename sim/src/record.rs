//! What a report shows of a run: who had how much when, what the links carried, how many copies of each piece were on
//! offer, who was master.
//!
//! Rule: it sees only what crosses the border of the nodes, as the checker does, and its memory does not grow with the
//! length of a run but by the pieces that arrive. Off by default. Not here: pictures ([`crate::html`]).

use std::collections::BTreeMap;
use std::time::Duration;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::id::{Geometry, ImageIndex, InfoHash, Time};
use labmesh_proto::io::{Event, Input, Output};

/// The first width of a bin, in nanoseconds.
const BIN_FIRST: u64 = 25_000_000;
/// Two minutes of first bins; beyond that their width doubles.
const BINS_MAX: usize = 4800;
/// More notes than anybody reads in a picture.
const NOTES_MAX: usize = 500;

/// How many copies the pieces have: the rarest, a tenth of them at most, the middle, nine tenths at most, the most.
pub type Copies = [u32; 5];

/// What happened in a short while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bin {
    /// Payload bytes that the first machine sent.
    pub source_sent: u64,
    /// Payload bytes that the first machine received.
    pub source_received: u64,
    /// Payload bytes that all machines sent.
    pub sent: u64,
    /// Payload bytes that all machines received.
    pub received: u64,
    /// At its end; `None` before anybody offered anything.
    pub copies: Option<Copies>,
}

/// A time during which a machine was master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Which machine.
    pub machine: usize,
    /// Since when.
    pub from: Time,
    /// Until when; `None` = it still is.
    pub until: Option<Time>,
    /// The term; `None` = master of itself alone.
    pub term: Option<u64>,
}

/// One machine's part.
#[derive(Debug, Default)]
struct Machine {
    open: Vec<Option<(usize, Bitfield)>>,
    held: BTreeMap<usize, u32>,
    curve: Vec<(Time, u32)>,
    reign: Option<usize>,
}

/// One image and its copies on offer.
#[derive(Debug)]
struct Book {
    hash: InfoHash,
    geometry: Geometry,
    copies: Vec<u32>,
    /// How many pieces have so many copies.
    having: Vec<u32>,
}

/// Everything that a report shows of a run.
#[derive(Debug)]
pub struct Recorder {
    machines: Vec<Machine>,
    books: Vec<Book>,
    width: u64,
    bins: Vec<Bin>,
    /// In the order of their beginning.
    pub reigns: Vec<Reign>,
    /// What happened to machines: when, to whom, what; the first [`NOTES_MAX`].
    pub notes: Vec<(Time, usize, String)>,
}

impl Recorder {
    /// So many machines, and nothing has happened.
    pub(crate) fn new(machines: usize) -> Self {
        let machines: Vec<_> = std::iter::repeat_with(Machine::default).take(machines).collect();
        let bins = vec![Bin::default()];
        Self { machines, books: Vec::new(), width: BIN_FIRST, bins, reigns: Vec::new(), notes: Vec::new() }
    }

    /// How long one bin is.
    pub fn bin_width(&self) -> Duration {
        Duration::from_nanos(self.width)
    }

    /// What happened in each while since the beginning; ends with the last that differs from nothing.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// How many pieces that machine had when, over all images that it was ever asked to have.
    pub fn curve(&self, machine: usize) -> &[(Time, u32)] {
        &self.machines[machine].curve
    }

    /// How many pieces that machine wants in all.
    pub fn wanted(&self, machine: usize) -> u32 {
        self.machines[machine].held.keys().map(|book| self.books[*book].geometry.pieces()).sum()
    }

    /// How many machines there are.
    pub fn machines(&self) -> usize {
        self.machines.len()
    }

    // ---- what is seen

    pub(crate) fn input(&mut self, now: Time, machine: usize, input: &Input) {
        match input {
            Input::Sent { block, .. } => {
                let bytes = u64::from(block.len);
                let bin = self.bin(now);
                bin.sent += bytes;
                bin.source_sent += if machine == 0 { bytes } else { 0 };
            }
            Input::Block { range, .. } => {
                let bytes = u64::from(range.len);
                let bin = self.bin(now);
                bin.received += bytes;
                bin.source_received += if machine == 0 { bytes } else { 0 };
            }
            Input::Opened { image, result: Ok(pieces) } => self.offer(now, machine, *image, pieces),
            Input::Verified { image, piece, result: Ok(true) } => {
                self.bin(now);
                let Some(Some((book, held))) = self.machines[machine].open.get_mut(image.0 as usize) else { return };
                if held.set(*piece) {
                    let book = *book;
                    self.books[book].change(piece.index(), true);
                    let held = self.machines[machine].held.get(&book).map_or(1, |held| held + 1);
                    self.machines[machine].holds(now, book, held);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn output(&mut self, now: Time, machine: usize, output: &Output) {
        match output {
            Output::Open { image, metainfo, .. } => {
                let (hash, geometry) = (metainfo.info_hash(), metainfo.geometry());
                let book = self.books.iter().position(|book| book.hash == hash).unwrap_or_else(|| {
                    let pieces = geometry.pieces();
                    let (copies, having) = (vec![0; pieces as usize], vec![pieces]);
                    self.books.push(Book { hash, geometry, copies, having });
                    self.books.len() - 1
                });
                let machine = &mut self.machines[machine];
                let index = image.0 as usize;
                machine.open.resize_with(machine.open.len().max(index + 1), || None);
                machine.open[index] = Some((book, Bitfield::empty(geometry.pieces())));
            }
            Output::CloseImage { image } => self.withdraw(now, machine, *image),
            Output::Event(Event::BecameMaster { term }) => self.reign(now, machine, Some(Some(*term))),
            Output::Event(Event::BecameSolo) => self.reign(now, machine, Some(None)),
            Output::Event(Event::Following { .. } | Event::LostMaster { .. }) => self.reign(now, machine, None),
            _ => {}
        }
    }

    pub(crate) fn note(&mut self, now: Time, machine: usize, what: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push((now, machine, what));
        }
    }

    /// Its program ended: it offers nothing, and is nobody's master.
    pub(crate) fn ended(&mut self, now: Time, machine: usize) {
        for image in 0..self.machines[machine].open.len() {
            self.withdraw(now, machine, ImageIndex(image as u32));
        }
        self.reign(now, machine, None);
    }

    fn offer(&mut self, now: Time, machine: usize, image: ImageIndex, pieces: &Bitfield) {
        self.bin(now);
        let Some(Some((book, held))) = self.machines[machine].open.get_mut(image.0 as usize) else { return };
        let book = *book;
        for piece in pieces.iter(self.books[book].geometry) {
            if held.set(piece) {
                self.books[book].change(piece.index(), true);
            }
        }
        self.machines[machine].holds(now, book, pieces.count());
    }

    fn withdraw(&mut self, now: Time, machine: usize, image: ImageIndex) {
        self.bin(now);
        let open = self.machines[machine].open.get_mut(image.0 as usize).and_then(Option::take);
        if let Some((book, held)) = open {
            let book = &mut self.books[book];
            held.iter(book.geometry).for_each(|piece| book.change(piece.index(), false));
        }
    }

    /// Ends the machine's reign; `Some` begins another, of that term or of itself alone.
    fn reign(&mut self, now: Time, machine: usize, next: Option<Option<u64>>) {
        if let Some(reign) = self.machines[machine].reign.take() {
            self.reigns[reign].until = Some(now);
        }
        if let Some(term) = next {
            self.machines[machine].reign = Some(self.reigns.len());
            self.reigns.push(Reign { machine, from: now, until: None, term });
        }
    }

    /// The bin of this moment. The ones that are left behind keep the copies that there are now.
    fn bin(&mut self, now: Time) -> &mut Bin {
        while now.0 / self.width >= BINS_MAX as u64 {
            self.bins = self.bins.chunks(2).map(Bin::merge).collect();
            self.width *= 2;
        }
        let index = (now.0 / self.width) as usize;
        if index >= self.bins.len() {
            let copies = self.copies();
            if let Some(last) = self.bins.last_mut() {
                last.copies = copies;
            }
            self.bins.resize(index + 1, Bin { copies, ..Bin::default() });
        }
        &mut self.bins[index]
    }

    fn copies(&self) -> Option<Copies> {
        let mut having: BTreeMap<u32, u64> = BTreeMap::new();
        for book in &self.books {
            for (copies, pieces) in book.having.iter().enumerate().filter(|(_, pieces)| **pieces > 0) {
                *having.entry(copies as u32).or_default() += u64::from(*pieces);
            }
        }
        let last = having.values().sum::<u64>().checked_sub(1)?;
        let at = |rank: u64| {
            let mut left = rank;
            let found = having.iter().find(|(_, pieces)| {
                let here = left < **pieces;
                left = left.saturating_sub(**pieces);
                here
            });
            found.map_or(0, |(copies, _)| *copies)
        };
        Some([0, last / 10, last / 2, last - last / 10, last].map(at))
    }
}

impl Machine {
    fn holds(&mut self, now: Time, book: usize, pieces: u32) {
        self.held.insert(book, pieces);
        self.curve.push((now, self.held.values().sum()));
    }
}

impl Book {
    fn change(&mut self, piece: usize, more: bool) {
        let copies = self.copies[piece];
        let changed = if more { copies + 1 } else { copies.saturating_sub(1) };
        self.copies[piece] = changed;
        self.having[copies as usize] -= 1;
        self.having.resize(self.having.len().max(changed as usize + 1), 0);
        self.having[changed as usize] += 1;
    }
}

impl Bin {
    fn merge(bins: &[Self]) -> Self {
        let sum = |field: fn(&Self) -> u64| bins.iter().map(field).sum();
        Self {
            source_sent: sum(|bin| bin.source_sent),
            source_received: sum(|bin| bin.source_received),
            sent: sum(|bin| bin.sent),
            received: sum(|bin| bin.received),
            copies: bins.last().and_then(|bin| bin.copies),
        }
    }
}

#[cfg(test)]
mod tests {
    use labmesh_proto::config::Mode;

    use super::*;
    use crate::world::metainfo;

    const SECOND: u64 = 1_000_000_000;

    /// Two machines; the first offers everything, the second nothing yet.
    fn recorder() -> (Recorder, Geometry) {
        let mut recorder = Recorder::new(2);
        let torrent = metainfo(0, 64 << 20, None);
        let geometry = torrent.geometry();
        for machine in 0..2 {
            let (image, name, metainfo) = (ImageIndex(0), "x.img".to_owned(), torrent.clone());
            let open = Output::Open { image, name, metainfo, complete: false, mode: Mode::Peer, seed_time: None };
            recorder.output(Time(0), machine, &open);
            let pieces = geometry.pieces();
            let held = if machine == 0 { Bitfield::full(pieces) } else { Bitfield::empty(pieces) };
            recorder.input(Time(0), machine, &Input::Opened { image, result: Ok(held) });
        }
        (recorder, geometry)
    }

    #[test]
    fn copies_are_those_on_offer() {
        let (mut recorder, geometry) = recorder();
        assert_eq!(recorder.copies(), Some([1, 1, 1, 1, 1]));
        for piece in geometry.all().take(geometry.pieces() as usize / 2) {
            let verified = Input::Verified { image: ImageIndex(0), piece, result: Ok(true) };
            recorder.input(Time(SECOND), 1, &verified);
        }
        assert_eq!(recorder.copies(), Some([1, 1, 1, 2, 2]));
        recorder.ended(Time(2 * SECOND), 0);
        assert_eq!(recorder.copies(), Some([0, 0, 0, 1, 1]));
        assert_eq!(
            (recorder.wanted(1), recorder.curve(1).last()),
            (geometry.pieces(), Some(&(Time(SECOND), geometry.pieces() / 2)))
        );
    }

    #[test]
    fn bins_double_their_width_and_lose_no_byte() {
        let (mut recorder, _) = recorder();
        for second in 0..1000 {
            recorder.bin(Time(second * SECOND)).sent += 7;
        }
        assert!(recorder.bins().len() <= BINS_MAX && recorder.bin_width() > Duration::from_nanos(BIN_FIRST));
        assert_eq!(recorder.bins().iter().map(|bin| bin.sent).sum::<u64>(), 7000);
    }

    #[test]
    fn a_reign_ends_when_its_machine_follows_or_ends() {
        let (mut recorder, _) = recorder();
        let event = |event| Output::Event(event);
        recorder.output(Time(1), 0, &event(Event::BecameSolo));
        recorder.output(Time(2), 0, &event(Event::BecameMaster { term: 3 }));
        recorder.ended(Time(5), 0);
        recorder.output(Time(6), 1, &event(Event::BecameMaster { term: 4 }));
        let reigns: Vec<_> =
            recorder.reigns.iter().map(|r| (r.machine, r.from.0, r.until.map(|t| t.0), r.term)).collect();
        assert_eq!(reigns, [(0, 1, Some(2), None), (0, 2, Some(5), Some(3)), (1, 6, None, Some(4))]);
    }
}
