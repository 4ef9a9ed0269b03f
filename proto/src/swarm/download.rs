//! What to ask of whom, and what becomes of what comes.
//!
//! Rule: a peer is asked for the blocks of one piece in order. The next piece of a peer is, in this order: a begun one
//! that nobody works on, the one it suggested, the rarest missing one; then it helps with begun ones; then, in the end
//! game, it is asked for blocks that others were asked for. A block that does not come in a small multiple of its
//! expected time is asked of somebody else. A piece that waits in one peer's line may change to the line of another that
//! gets it too ([`Swarm::offered`]). No piece is begun without room in the piece buffer.
//!
//! Who fetches alone begins the first missing piece instead of the rarest: the disk here, and those of the whole
//! copies, then go through the file once.

use std::time::Duration;

use rand_chacha::rand_core::Rng;

use super::Swarm;
use crate::config::{BLOCK_BYTES, Direction};
use crate::error::{CloseReason, DiskError, PeerMisbehaved};
use crate::id::{Block, PieceIndex, Time};
use crate::io;
use crate::swarm::mode::Life;
use crate::swarm::peer::Peer;
use crate::swarm::pieces::{Partial, State};
use crate::wire::peer::{Message, Range};

/// A peer that sends nothing of what it was asked for this long, or four times what it should take, is stalled.
pub(super) const STALL: Duration = Duration::from_secs(2);
const STALL_FACTOR: u32 = 4;
const STALL_MAX: Duration = Duration::from_secs(20);
/// The peers are told of pieces together when those are so many bytes, or at the next review.
const TOLD_BYTES: u64 = 1024 * 1024;
/// The first and last pieces are told of at once, however: nobody has anything to do, and somebody waits for them.
const AT_ONCE: u32 = 8;
/// So many serve us where the tracker does not connect everybody with everybody.
const LARGE_ROOM: u64 = 14;
/// Blocks that nobody asked for, beyond those that crossed a cancel, before the peer is dropped.
const UNREQUESTED_MAX: usize = 16;

/// Peers that we are interested in and that serve us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serving {
    all: u64,
    /// Those of them that have every piece.
    whole: u64,
}

impl Swarm {
    /// Asks a peer for as much as its pipeline takes.
    pub(super) fn fill(&mut self, now: Time, p: usize) {
        if !matches!(self.life, Life::Fetching { .. }) {
            return;
        }
        self.peers[p].hungry = true;
        let peer = &self.peers[p];
        if peer.peer_choking || !peer.am_interested {
            return;
        }
        let sources = self.sources_beside(p);
        let together = self.down.per_second(now);
        while self.peers[p].room(now, sources, together) > 0 {
            if !self.may(Direction::Down) {
                return;
            }
            let Some(block) = self.next_block(now, p, together) else { return };
            self.may_ask.spend(block.len);
            let peer = &mut self.peers[p];
            peer.ask(now, block);
            let range = Range { piece: block.piece.get(), offset: block.offset, len: block.len };
            self.tell(p, Message::Request(range));
        }
        self.peers[p].hungry = false;
    }

    /// Among how many that serve us what is asked of all is shared. In a large room a whole copy has more neighbours than
    /// others have, and serves each of them less: who is one of them would be the last, so the others share as if it were
    /// not there. In a small room everybody has the same neighbours.
    fn sources_beside(&mut self, p: usize) -> u64 {
        let Serving { all, whole } = *self.serving.get_or_insert_with(|| {
            let serving = self.peers.iter().filter(|q| !q.peer_choking && q.am_interested);
            let whole = serving.clone().filter(|q| q.has.is_full()).count() as u64;
            Serving { all: serving.count() as u64, whole }
        });
        if all < LARGE_ROOM || self.peers[p].has.is_full() || whole == all { all } else { all - whole }
    }

    /// Asks every peer that has room: something changed for all of them.
    pub(super) fn fill_all(&mut self, now: Time) {
        for p in 0..self.peers.len() {
            self.fill(now, p);
        }
    }

    /// Whether a peer that had nothing more for us may be asked for something once it has this piece.
    pub(super) fn is_left_to_ask(&self, piece: PieceIndex) -> bool {
        self.picker.contains(piece)
            || self.picker.is_empty()
            || self.out_of_buffers()
            || self.pieces.partial(piece).is_some_and(Partial::has_free)
    }

    fn next_block(&mut self, now: Time, p: usize, together: u64) -> Option<Block> {
        let len = self.peers[p].block_len(now, together).min(self.may_ask.block_most);
        if let Some(piece) = self.peers[p].current {
            if let Some(block) = self.pieces.ask_next(piece, len) {
                return Some(block);
            }
            self.peers[p].current = None;
        }
        if let Some(piece) = self.next_piece(p) {
            self.peers[p].current = Some(piece);
            return self.pieces.ask_next(piece, len);
        }
        if self.picker.is_empty() || self.out_of_buffers() { self.end_game(now, p) } else { None }
    }

    fn next_piece(&mut self, p: usize) -> Option<PieceIndex> {
        let sender = self.peers[p].sender;
        let orphan = self.begun_for(p, |q| q.owner.is_none()).next().map(|q| q.piece);
        if let Some(piece) = orphan {
            self.pieces.adopt(piece, sender);
            return Some(piece);
        }
        if !self.out_of_buffers()
            && let Some(piece) = self.missing_piece(p)
        {
            self.picker.remove(piece);
            self.pieces.begin(piece, sender);
            return Some(piece);
        }
        // Nothing is left to begin: help with what others began.
        self.begun_for(p, |_| true).next().map(|q| q.piece)
    }

    /// The missing piece that the peer is to send.
    fn missing_piece(&mut self, p: usize) -> Option<PieceIndex> {
        self.suggested(p).or_else(|| {
            let has = &self.peers[p].has;
            if self.takers_exceed(0) { self.picker.rarest(has) } else { self.picker.first(has) }
        })
    }

    /// Begun pieces of which the peer could send a block that nobody was asked for.
    fn begun_for(&self, p: usize, which: impl Fn(&Partial) -> bool) -> impl Iterator<Item = &Partial> {
        let Peer { has, sender, .. } = &self.peers[p];
        let could = |q: &&Partial| has.has(q.piece) && q.admits(*sender);
        self.pieces.with_free().filter(move |q| which(q)).filter(could)
    }

    fn suggested(&mut self, p: usize) -> Option<PieceIndex> {
        let peer = &mut self.peers[p];
        while let Some(piece) = peer.suggested.pop_front() {
            if self.picker.contains(piece) && peer.has.has(piece) {
                return Some(piece);
            }
        }
        None
    }

    fn out_of_buffers(&self) -> bool {
        self.pieces.in_flight_bytes() + u64::from(self.geometry.piece_length()) > self.buffer_bytes
            && !self.pieces.partials().is_empty()
    }

    /// A block that was asked of another peer and waits the longest, to be asked of this one as well; of a third one only
    /// if one of the two is silent.
    fn end_game(&mut self, now: Time, p: usize) -> Option<Block> {
        let me = &self.peers[p];
        let mut best: Option<(Time, Block)> = None;
        for other in self.peers.iter().filter(|o| o.conn != me.conn) {
            // The youngest request of a peer comes last: help with that end first.
            for asked in other.asked.iter().rev() {
                let block = asked.block;
                let open = self.pieces.state(block.piece) == State::Begun
                    && self.pieces.is_waiting(&block)
                    && me.has.has(block.piece)
                    && self.pieces.partial(block.piece).is_some_and(|q| q.admits(me.sender))
                    && !me.asked.iter().any(|a| overlap(&a.block, &block));
                let works = |o: &&Peer| o.asked.iter().any(|a| overlap(&a.block, &block) && !o.is_silent(now, a.at));
                let twice = || self.peers.iter().filter(works).count() > 1;
                if open && best.is_none_or(|(at, _)| asked.at < at) && !twice() {
                    best = Some((asked.at, block));
                }
            }
        }
        let (_, block) = best?;
        self.end_game = true;
        let len = block.len.min(me.block_most);
        self.geometry.block(block.piece.get(), block.offset, len)
    }

    /// A block came into a buffer of the driver.
    pub(super) fn block(&mut self, now: Time, p: usize, range: Range) -> Result<(), PeerMisbehaved> {
        let Range { piece, offset, len } = range;
        let block =
            self.geometry.block(piece, offset, len).ok_or(PeerMisbehaved::NoSuchBlock { piece, offset, len })?;
        let peer = &mut self.peers[p];
        if peer.unask(&block).is_none() {
            if peer.late > 0 {
                peer.late -= 1;
            } else if peer.unrequested < UNREQUESTED_MAX {
                peer.unrequested += 1;
            } else {
                return Err(PeerMisbehaved::Unrequested);
            }
            // Late, but perhaps still of use; if not it is dropped below.
            if !offset.is_multiple_of(BLOCK_BYTES) || self.pieces.state(block.piece) != State::Begun {
                self.wasted += u64::from(len);
                return Ok(());
            }
        }
        let peer = &mut self.peers[p];
        peer.progress_at = now;
        peer.snubbed = false;
        peer.down.add(now, u64::from(len));
        let sender = peer.sender;
        self.down.add(now, u64::from(len));
        self.ledger.account(sender).downloaded += u64::from(len);
        if self.pieces.store(&block, sender) {
            self.progress_at = now;
            self.ask_border(io::Output::Store { image: self.image, block });
            if self.end_game {
                self.cancel_elsewhere(p, &block);
            }
            if self.pieces.complete(block.piece) {
                self.ask_border(io::Output::Verify { image: self.image, piece: block.piece });
            }
        } else {
            self.wasted += u64::from(len);
            self.free(&block);
        }
        self.fill(now, p);
        Ok(())
    }

    fn cancel_elsewhere(&mut self, p: usize, block: &Block) {
        for other in (0..self.peers.len()).filter(|o| *o != p) {
            while let Some(twin) = self.peers[other].asked.iter().map(|a| a.block).find(|b| overlap(b, block)) {
                self.take_back(other, &twin);
                self.free(&twin);
            }
        }
    }

    /// Cancels a request; its answer may have crossed.
    fn take_back(&mut self, p: usize, block: &Block) {
        let peer = &mut self.peers[p];
        peer.unask(block);
        peer.late += 1;
        let range = Range { piece: block.piece.get(), offset: block.offset, len: block.len };
        self.tell(p, Message::Cancel(range));
    }

    /// The cells of a block that is asked of one peer less: free, unless another still is asked for them.
    fn free(&mut self, block: &Block) {
        if self.pieces.state(block.piece) != State::Begun {
            return;
        }
        self.pieces.release(block);
        if self.end_game {
            let twins: Vec<Block> = self.peers.iter().flat_map(|o| o.asked.iter().map(|a| a.block)).collect();
            twins.iter().filter(|b| overlap(b, block)).for_each(|b| self.pieces.hold(b));
        }
        if self.pieces.abandon_if_empty(block.piece) {
            self.ask_border(io::Output::Discard { image: self.image, piece: block.piece });
            self.picker.insert(block.piece);
            for peer in &mut self.peers {
                peer.current = peer.current.filter(|c| *c != block.piece);
            }
        }
    }

    /// Takes back everything that was asked of a peer: it choked us, stalled, or is gone.
    pub(super) fn unask_all(&mut self, p: usize) {
        let asked = std::mem::take(&mut self.peers[p].asked);
        self.peers[p].asked_bytes = 0;
        let sender = self.peers[p].sender;
        if let Some(current) = self.peers[p].current.take() {
            self.pieces.disown(current, sender);
        }
        for Block { piece, .. } in asked.iter().map(|a| a.block) {
            self.pieces.disown(piece, sender);
        }
        for asked in &asked {
            self.may_ask.give_back(asked.block.len);
            self.free(&asked.block);
        }
    }

    /// A peer that we wait for nothing from has a piece of which another one was asked and has sent nothing yet. At the
    /// n-th who has it the request leaves that line with a chance of 1 in n, so that the lines of all who have a piece
    /// become alike. Else the first would send it to everybody, since everybody asked it when it was the only one, and
    /// those to whom it has sent it would be asked by nobody.
    #[inline]
    pub(super) fn offered(&mut self, p: usize, piece: PieceIndex) {
        let peer = &self.peers[p];
        let serves = peer.is_ours() && !peer.peer_choking && peer.am_interested && !peer.snubbed;
        if peer.asked.is_empty() && serves {
            self.move_request(p, piece);
        }
    }

    #[cold]
    fn move_request(&mut self, p: usize, piece: PieceIndex) {
        let peer = &self.peers[p];
        let open = |q: &&Partial| q.senders.is_empty() && !q.exclusive;
        let Some(partial) = self.pieces.partial(piece).filter(open) else { return };
        let asked = |o: &Peer| partial.owner == Some(o.sender) && o.is_ours() && o.fast;
        let Some(other) = self.peers.iter().position(asked) else { return };
        let to = peer.conn;
        // One at a time: it may have no room for more.
        if self.peers.iter().flat_map(|o| &o.asked).any(|asked| asked.moves_to == Some(to)) {
            return;
        }
        let holders = u64::from(self.picker.availability(piece)).max(1);
        if !self.rng.next_u64().is_multiple_of(holders) {
            return;
        }
        let line = self.peers[other].asked.iter_mut().filter(|a| a.block.piece == piece && a.moves_to.is_none());
        let cancelled = line.map(|asked| {
            asked.moves_to = Some(to);
            asked.block
        });
        for Block { piece, offset, len } in cancelled.collect::<Vec<_>>() {
            self.tell(other, Message::Cancel(Range { piece: piece.get(), offset, len }));
        }
    }

    /// BEP 6: that request will not be answered.
    pub(super) fn rejected(&mut self, now: Time, p: usize, range: Range) {
        let Some(block) = self.geometry.block(range.piece, range.offset, range.len) else { return };
        let asked = self.peers[p].unask(&block);
        if asked.is_some() {
            self.may_ask.give_back(block.len);
            self.free(&block);
        } else if self.peers[p].late > 0 {
            self.may_ask.give_back(block.len);
            self.peers[p].late -= 1;
        }
        if self.peers[p].current == Some(block.piece) {
            self.peers[p].current = None;
            self.pieces.disown(block.piece, self.peers[p].sender);
        }
        if let Some(to) = asked.and_then(|asked| asked.moves_to).and_then(|conn| self.peer_of(conn)) {
            self.fill(now, to);
        }
        self.fill_all(now);
    }

    /// Whether the peer's requests are overdue; if so they are asked of others.
    pub(super) fn review_requests(&mut self, now: Time) {
        for p in 0..self.peers.len() {
            let peer = &self.peers[p];
            let Some(oldest) = peer.asked.front() else { continue };
            // Our own nodes serve in turns, so a pause says little; others are judged by how fast they were before it.
            let then = if peer.is_ours() { now } else { peer.progress_at };
            let expected = peer.down.time_for(then, peer.asked_bytes, STALL_MAX / STALL_FACTOR) * STALL_FACTOR;
            let patience = if peer.down.total() == 0 { STALL } else { expected.max(STALL) };
            if now.since(peer.progress_at.max(oldest.at)) > patience {
                let overdue: Vec<Block> = peer.asked.iter().map(|a| a.block).collect();
                for block in &overdue {
                    self.take_back(p, block);
                    self.free(block);
                }
                self.unask_all(p);
                self.peers[p].snubbed = true;
                self.peers[p].progress_at = now;
            }
        }
        self.fill_all(now);
    }

    /// A piece was hashed.
    pub(super) fn verified(&mut self, now: Time, piece: PieceIndex, result: Result<bool, DiskError>) {
        if self.pieces.state(piece) != State::Verifying {
            return;
        }
        // With room for another piece, or with that one once more, there is more to ask than before.
        let more_to_ask = self.out_of_buffers() || matches!(result, Ok(false));
        match result {
            Ok(true) => self.good_piece(piece),
            Ok(false) => self.bad_piece(now, piece),
            Err(error) => return self.fail(now, error),
        }
        if self.pieces.here().is_full() {
            self.ask_border(io::Output::Finish { image: self.image });
        } else if more_to_ask {
            self.fill_all(now);
        }
    }

    fn good_piece(&mut self, piece: PieceIndex) {
        self.pieces.good(piece);
        for p in 0..self.peers.len() {
            let peer = &mut self.peers[p];
            if peer.has.has(piece) {
                peer.useful -= 1;
                self.review_interest(p);
            }
        }
        self.untold.push(piece);
        let bytes = self.untold.len() as u64 * u64::from(self.geometry.piece_length());
        let here = self.pieces.here();
        let is_end = here.count().min(here.pieces() - here.count()) < AT_ONCE;
        if is_end || !self.picker.is_spread(piece) || bytes >= TOLD_BYTES {
            self.tell_untold();
        }
    }

    /// Tells the peers of the pieces that came since the last time. What nobody else has is told at once, of others
    /// some are told together, since to be woken costs a node more than to read what it is told.
    pub(super) fn tell_untold(&mut self) {
        for n in 0..self.untold.len() {
            let piece = self.untold[n];
            let mut to = Vec::with_capacity(self.peers.len());
            // Half of all these messages would tell one of two neighbours what it had first. Whole copies steer by them,
            // and foreign clients may count on them.
            let news = |peer: &&Peer| !peer.has.has(piece) || peer.has.is_full() || !peer.is_ours();
            to.extend(self.peers.iter().filter(news).map(|peer| peer.conn));
            self.ask_border(io::Output::Have { image: self.image, piece, to });
        }
        self.untold.clear();
    }

    fn bad_piece(&mut self, now: Time, piece: PieceIndex) {
        let senders = self.pieces.bad(piece);
        self.picker.insert(piece);
        self.wasted += u64::from(self.geometry.piece_len(piece));
        for peer in &mut self.peers {
            peer.current = peer.current.filter(|c| *c != piece);
        }
        let [only] = senders[..] else { return };
        if !self.ledger.strike(only) {
            return;
        }
        if let Some(p) = self.peers.iter().position(|peer| peer.sender == only) {
            self.close(now, p, CloseReason::Misbehaved(PeerMisbehaved::BadData(piece)));
        }
        // Its other names.
        while let Some(p) = self.peers.iter().position(|peer| self.ledger.is_refused(peer.addr, peer.id)) {
            self.close(now, p, CloseReason::Refused);
        }
    }
}

fn overlap(a: &Block, b: &Block) -> bool {
    a.piece == b.piece && a.offset < b.offset + b.len && b.offset < a.offset + a.len
}
