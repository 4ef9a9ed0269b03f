//! What must never happen, looked at with every input and output of every machine.
//!
//! Rule: it sees only the border and the machine that was touched, so it costs little and knows nothing of the inside.
//! What must happen in the end (liveness) is asked by [`crate::world`] when the faults are over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, PEERS_PER_IMAGE_MAX, REQUESTS_PER_PEER_MAX};
use labmesh_proto::id::{Block, ConnId, Epoch, Geometry, ImageIndex, InfoHash, NodeId, PieceIndex, Time};
use labmesh_proto::io::{Command, Event, Input, Output};
use labmesh_proto::wire::peer::Message;

/// What a machine has shown of itself.
#[derive(Debug, Default)]
struct Seen {
    /// The highest epoch it obeyed; after a restart the highest of its disk, which may be one that it only prepared.
    epoch: Epoch,
    /// What its disk has taken: what an earlier life obeyed for less time than the disk took is nobody's loss.
    on_disk: Epoch,
    /// It says that it is master, and not of itself only.
    master: bool,
    images: Vec<Option<Image>>,
    /// The block that is being delivered.
    block: Option<Block>,
    /// Its connections, by number.
    lines: Vec<Option<Line>>,
}

/// One accepted connection of a machine.
#[derive(Debug)]
struct Line {
    image: ImageIndex,
    /// Requests that were neither answered nor taken back.
    asked: usize,
}

/// One image of a machine.
#[derive(Debug)]
struct Image {
    hash: InfoHash,
    geometry: Geometry,
    mode: Mode,
    verified: Option<Bitfield>,
    /// Where the blocks of a piece in memory begin.
    stored: BTreeMap<PieceIndex, Vec<u32>>,
    stored_bytes: Vec<u32>,
    /// Pieces of which a block was asked or stored, until they are verified or discarded: memory is kept for them.
    flying: BTreeSet<PieceIndex>,
    flying_bytes: u64,
}

/// All machines' conduct.
#[derive(Debug, Default)]
pub struct Checker {
    seen: Vec<Seen>,
    /// What each machine's disk has taken: pieces by machine and content, and whole copies.
    written: BTreeMap<(usize, InfoHash), Bitfield>,
    whole: BTreeSet<(usize, InfoHash)>,
    buffer_bytes: u64,
    ids: Vec<NodeId>,
    /// Pieces that were verified, on all machines together.
    pub verified: u64,
    two_since: Option<Time>,
    /// How long two machines that reach each other were both master, at the longest.
    pub two_masters: Duration,
}

impl Checker {
    /// No machine yet; each will have so many bytes for pieces in flight.
    pub fn new(buffer_bytes: u64) -> Self {
        Self { buffer_bytes, ..Self::default() }
    }

    /// That machine holds a whole copy from the start.
    pub fn is_whole(&mut self, machine: usize, content: InfoHash) {
        self.whole.insert((machine, content));
    }

    /// One machine more.
    pub fn add(&mut self, id: NodeId) {
        self.seen.push(Seen::default());
        self.ids.push(id);
    }

    /// The machine's program ended; its disk remains.
    pub fn ended(&mut self, machine: usize) {
        let on_disk = self.seen[machine].on_disk;
        self.seen[machine] = Seen { epoch: on_disk, on_disk, ..Seen::default() };
    }

    /// Masters other than of themselves alone.
    pub fn masters(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.seen.len()).filter(|m| self.seen[*m].master)
    }

    /// Keeps the time during which `contested`: two masters that reach each other.
    pub fn contest(&mut self, now: Time, contested: bool) {
        match (self.two_since, contested) {
            (None, true) => self.two_since = Some(now),
            (Some(since), false) => {
                self.two_masters = self.two_masters.max(now.since(since));
                self.two_since = None;
            }
            _ => {}
        }
    }

    /// Something is about to happen to a machine.
    ///
    /// # Errors
    /// With what the disk must not say.
    pub fn input(&mut self, machine: usize, input: &Input) -> Result<(), String> {
        // Most inputs, about which there is nothing to check.
        if matches!(input, Input::Sent { .. } | Input::Peer { message: Message::Have(_) | Message::Request(_), .. }) {
            return Ok(());
        }
        let seen = &mut self.seen[machine];
        seen.block = None;
        match input {
            Input::Persisted { epoch } => seen.on_disk = seen.on_disk.max(*epoch),
            Input::Opened { image, result: Ok(pieces) } => {
                let Some(image) = seen.image(*image) else { return Ok(()) };
                self.verified += u64::from(pieces.count());
                image.verified = Some(pieces.clone());
                let key = (machine, image.hash);
                let on_disk = |piece| self.written.get(&key).is_some_and(|written| written.has(piece));
                if !self.whole.contains(&key) && !pieces.iter(image.geometry).all(on_disk) {
                    return Err("has a journal that is ahead of its disk".to_owned());
                }
            }
            Input::Verified { image, piece, result } => {
                let Some(image) = seen.image(*image) else { return Ok(()) };
                image.lands(*piece);
                if let (Some(verified), Ok(true)) = (image.verified.as_mut(), result) {
                    self.verified += u64::from(verified.set(*piece));
                    let none = || Bitfield::empty(image.geometry.pieces());
                    self.written.entry((machine, image.hash)).or_insert_with(none).set(*piece);
                }
            }
            Input::Finished { image, result: Ok(()) } => {
                if let Some(image) = seen.image(*image) {
                    self.whole.insert((machine, image.hash));
                }
            }
            Input::Block { conn, .. } | Input::Peer { conn, message: Message::Reject(_) } => {
                if let Some(line) = seen.line(*conn) {
                    line.asked = line.asked.saturating_sub(1);
                }
            }
            Input::PeerDown { conn } => {
                if let Some(line) = seen.lines.get_mut(conn.0 as usize) {
                    *line = None;
                }
            }
            Input::Command { command: Command::Mode { mode, .. }, .. } => {
                seen.images.iter_mut().flatten().for_each(|image| image.mode = *mode);
            }
            _ => {}
        }
        Ok(())
    }

    /// A block is being delivered; `Store` may keep this one and no other.
    pub fn delivering(&mut self, machine: usize, block: Block) {
        self.seen[machine].block = Some(block);
    }

    /// A machine wants something done.
    ///
    /// # Errors
    /// With what it must not do.
    pub fn output(&mut self, machine: usize, output: &Output) -> Result<(), String> {
        let id = self.ids[machine];
        let seen = &mut self.seen[machine];
        match output {
            Output::Event(Event::BecameMaster { term }) => {
                seen.master = true;
                let epoch = Epoch { term: *term, node: id };
                if epoch > seen.on_disk {
                    return Err(format!("claims {epoch:?} before it is on disk, which has {:?}", seen.on_disk));
                }
                seen.obey(epoch)
            }
            Output::Event(Event::Following { node, term }) => {
                seen.master = false;
                seen.obey(Epoch { term: *term, node: *node })
            }
            Output::Event(Event::BecameSolo | Event::LostMaster { .. }) => {
                seen.master = false;
                Ok(())
            }
            Output::Beat { beat, .. } | Output::Beacon(beat) if !beat.solo && beat.epoch < seen.epoch => {
                Err(format!("speaks as master of {:?} after it has obeyed {:?}", beat.epoch, seen.epoch))
            }
            Output::Open { image, metainfo, mode, complete, .. } => {
                let (index, hash) = (image.0 as usize, metainfo.info_hash());
                if *complete && !self.whole.contains(&(machine, hash)) {
                    return Err(format!("opens image {index} as a whole copy, which it is not"));
                }
                let length = seen.images.len().max(index + 1);
                seen.images.resize_with(length, || None);
                // Again is right after an error only; the file's state is asked for anew then.
                seen.images[index] = Some(Image::new(hash, metainfo.geometry(), *mode));
                Ok(())
            }
            Output::Accept { conn, image, .. } => seen.accept(*conn, *image),
            Output::Close { conn, .. } => {
                if let Some(line) = seen.lines.get_mut(conn.0 as usize) {
                    *line = None;
                }
                Ok(())
            }
            Output::Peer { conn, message: Message::Request(range) } => {
                let most = self.buffer_bytes;
                seen.asks(*conn, range.piece, most)
            }
            Output::Peer { conn, message: Message::Cancel(_) } => {
                if let Some(line) = seen.line(*conn) {
                    line.asked = line.asked.saturating_sub(1);
                }
                Ok(())
            }
            Output::CloseImage { image } => {
                let closed = seen.images.get_mut(image.0 as usize).and_then(Option::take);
                closed.map(|_| ()).ok_or_else(|| format!("closes image {}, which is not open", image.0))
            }
            Output::Store { image, block } => seen.store(*image, *block),
            Output::Verify { image, piece } => seen.open(*image)?.verify(*piece),
            Output::Discard { image, piece } => {
                let image = seen.open(*image)?;
                image.discard(*piece);
                image.lands(*piece);
                Ok(())
            }
            Output::Have { image, piece, .. } => seen.open(*image)?.vouches(*piece, "announces"),
            Output::SendBlock { image, block, conn } => seen.open(*image)?.sends(*block, *conn),
            Output::Finish { image } => seen.open(*image)?.finishes(),
            _ => Ok(()),
        }
    }
}

impl Seen {
    fn image(&mut self, image: ImageIndex) -> Option<&mut Image> {
        self.images.get_mut(image.0 as usize)?.as_mut()
    }

    fn open(&mut self, image: ImageIndex) -> Result<&mut Image, String> {
        self.image(image).ok_or_else(|| format!("works on image {}, which is not open", image.0))
    }

    fn line(&mut self, conn: ConnId) -> Option<&mut Line> {
        self.lines.get_mut(conn.0 as usize)?.as_mut()
    }

    fn accept(&mut self, conn: ConnId, image: ImageIndex) -> Result<(), String> {
        let length = self.lines.len().max(conn.0 as usize + 1);
        self.lines.resize_with(length, || None);
        self.lines[conn.0 as usize] = Some(Line { image, asked: 0 });
        let lines = self.lines.iter().flatten().filter(|line| line.image == image).count();
        if lines > PEERS_PER_IMAGE_MAX { Err(format!("has {lines} connections for one image")) } else { Ok(()) }
    }

    /// A request: bounded per peer, and there is memory for its piece.
    fn asks(&mut self, conn: ConnId, piece: u32, buffer_bytes: u64) -> Result<(), String> {
        let line = self.line(conn).ok_or_else(|| format!("asks on connection {}, which it does not have", conn.0))?;
        line.asked += 1;
        let (asked, image) = (line.asked, line.image);
        if asked > REQUESTS_PER_PEER_MAX {
            return Err(format!("has {asked} requests waiting at one peer"));
        }
        let image = self.open(image)?;
        let piece = image.geometry.piece(piece).ok_or_else(|| format!("asks for piece {piece}, which is none"))?;
        if image.has(piece) {
            return Err(format!("asks for {piece:?}, which it has"));
        }
        if image.flying.insert(piece) {
            image.flying_bytes += u64::from(image.geometry.piece_len(piece));
        }
        // One piece is always in flight, however small the memory is.
        let flying = image.flying_bytes;
        if flying > buffer_bytes.max(u64::from(image.geometry.piece_length())) {
            return Err(format!("has {flying} bytes of pieces in flight, and memory for {buffer_bytes}"));
        }
        Ok(())
    }

    fn obey(&mut self, epoch: Epoch) -> Result<(), String> {
        if epoch < self.epoch {
            return Err(format!("obeys {epoch:?} after {:?}", self.epoch));
        }
        self.epoch = epoch;
        Ok(())
    }

    fn store(&mut self, image: ImageIndex, block: Block) -> Result<(), String> {
        if self.block.take() != Some(block) {
            return Err(format!("keeps {block:?}, which is not being delivered"));
        }
        let image = self.open(image)?;
        let stored = image.stored.entry(block.piece).or_default();
        if stored.contains(&block.offset) {
            return Err(format!("counts {block:?} twice"));
        }
        stored.push(block.offset);
        image.stored_bytes[block.piece.index()] += block.len;
        Ok(())
    }
}

impl Image {
    fn new(hash: InfoHash, geometry: Geometry, mode: Mode) -> Self {
        let stored_bytes = vec![0; geometry.pieces() as usize];
        let (stored, flying) = (BTreeMap::new(), BTreeSet::new());
        Self { hash, geometry, mode, verified: None, stored, stored_bytes, flying, flying_bytes: 0 }
    }

    /// The memory of that piece is free again.
    fn lands(&mut self, piece: PieceIndex) {
        if self.flying.remove(&piece) {
            self.flying_bytes -= u64::from(self.geometry.piece_len(piece));
        }
    }

    fn has(&self, piece: PieceIndex) -> bool {
        self.verified.as_ref().is_some_and(|v| v.has(piece))
    }

    fn verify(&mut self, piece: PieceIndex) -> Result<(), String> {
        let (stored, needed) = (self.stored_bytes[piece.index()], self.geometry.piece_len(piece));
        self.discard(piece);
        if stored == needed { Ok(()) } else { Err(format!("verifies {piece:?} with {stored} of {needed} bytes")) }
    }

    fn discard(&mut self, piece: PieceIndex) {
        self.stored_bytes[piece.index()] = 0;
        self.stored.remove(&piece);
    }

    fn vouches(&self, piece: PieceIndex, verb: &str) -> Result<(), String> {
        if self.has(piece) { Ok(()) } else { Err(format!("{verb} {piece:?}, which it has not verified")) }
    }

    fn sends(&self, block: Block, conn: ConnId) -> Result<(), String> {
        if self.mode == Mode::Leecher && !self.verified.as_ref().is_some_and(Bitfield::is_full) {
            return Err(format!("sends {block:?} on connection {} as a leecher that is not complete", conn.0));
        }
        self.vouches(block.piece, "sends")
    }

    fn finishes(&self) -> Result<(), String> {
        let missing = self.geometry.all().find(|piece| !self.has(*piece));
        missing.map_or(Ok(()), |piece| Err(format!("finishes without {piece:?}")))
    }
}

#[cfg(test)]
mod tests {
    use labmesh_proto::config::SeedTime;

    use super::*;
    use crate::world::metainfo;

    fn checker() -> (Checker, Geometry) {
        let mut checker = Checker::new(64 << 20);
        checker.add(NodeId([7; 32]));
        let metainfo = metainfo(0, 1_000_000, None);
        let geometry = metainfo.geometry();
        let (image, name, seed_time) = (ImageIndex(0), "x.img".to_owned(), Some(SeedTime::Forever));
        checker
            .output(0, &Output::Open { image, name, metainfo, complete: false, mode: Mode::Leecher, seed_time })
            .unwrap();
        checker.input(0, &Input::Opened { image, result: Ok(Bitfield::empty(geometry.pieces())) }).unwrap();
        (checker, geometry)
    }

    #[test]
    fn pieces_are_counted_only_when_they_were_stored_and_hashed() {
        let (mut checker, geometry) = checker();
        let image = ImageIndex(0);
        let piece = geometry.piece(3).unwrap();
        let block = geometry.block(3, 0, geometry.piece_len(piece)).unwrap();
        assert!(checker.output(0, &Output::Verify { image, piece }).is_err());
        assert!(checker.output(0, &Output::Store { image, block }).is_err());
        checker.delivering(0, block);
        assert_eq!(checker.output(0, &Output::Store { image, block }), Ok(()));
        assert!(checker.output(0, &Output::Store { image, block }).is_err());
        assert_eq!(checker.output(0, &Output::Verify { image, piece }), Ok(()));
        assert!(checker.output(0, &Output::Have { image, piece, to: Vec::new() }).is_err());
        checker.input(0, &Input::Verified { image, piece, result: Ok(true) }).unwrap();
        assert_eq!(checker.output(0, &Output::Have { image, piece, to: Vec::new() }), Ok(()));
        assert!(checker.output(0, &Output::SendBlock { image, block, conn: ConnId(0) }).is_err(), "a leecher");
        assert!(checker.output(0, &Output::Finish { image }).is_err());
    }

    #[test]
    fn a_lower_epoch_is_never_obeyed() {
        let (mut checker, _) = checker();
        let follow = |term, byte| Output::Event(Event::Following { node: NodeId([byte; 32]), term });
        assert_eq!(checker.output(0, &follow(5, 1)), Ok(()));
        assert_eq!(checker.output(0, &follow(5, 2)), Ok(()));
        assert!(checker.output(0, &follow(5, 1)).is_err());
        checker.input(0, &Input::Persisted { epoch: Epoch { term: 5, node: NodeId([2; 32]) } }).unwrap();
        checker.ended(0);
        assert!(checker.output(0, &follow(5, 1)).is_err(), "not after a restart either");
        assert_eq!(checker.output(0, &follow(5, 2)), Ok(()));
    }

    #[test]
    fn an_epoch_is_on_disk_before_it_is_claimed() {
        let (mut checker, _) = checker();
        let claim = Output::Event(Event::BecameMaster { term: 6 });
        assert!(checker.output(0, &claim).is_err());
        checker.input(0, &Input::Persisted { epoch: Epoch { term: 6, node: NodeId([7; 32]) } }).unwrap();
        assert_eq!(checker.output(0, &claim), Ok(()));
    }
}
