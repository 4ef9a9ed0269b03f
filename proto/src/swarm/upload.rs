//! Whom to serve, and in which order.
//!
//! Rule: our own nodes are all unchoked, so that requests wait where the link is and nothing is refused that is on its
//! way; only a crowd takes turns. What nobody else has goes first, once; those that wait for other blocks get them in
//! turns of one whole piece. Whose turn began first is first, but who has less than others passes before them, so that
//! all end together. Who takes its data slowly does not count, so a slow node delays nobody but itself. Foreign clients
//! share a bounded number of slots and every second block. There is no tit for tat.
//!
//! The master serves nodes in mode seeder first, since they serve the others. A whole copy steers with BEP 6
//! `suggest`: it promises each piece that nobody has to one peer, so that every piece goes out once before any goes
//! out twice: in runs of the file, so that disks need not seek, which follow each other at random, so that several whole
//! copies send different ones; to who takes alone, from the beginning: then all copies suggest the same, and it asks the
//! first of them.
//! `docs/SIMULATION.md` has the experiments behind each number.

use std::time::Duration;

use rand_chacha::rand_core::Rng;

use super::Swarm;
use crate::bitfield::Bitfield;
use crate::config::{BLOCK_BYTES, Direction, FIRST_BYTES, LARGE_BLOCK_BYTES, REQUESTS_PER_PEER_MAX};
use crate::error::PeerMisbehaved;
use crate::id::{Block, ConnId, PieceIndex, Time};
use crate::io;
use crate::swarm::peer::Peer;
use crate::wire::peer::{Message, Range};

/// Our own nodes that are unchoked at once: more than anybody has neighbours, but for a crowd that uploads nothing.
const SLOTS: usize = 32;
/// In a crowd one of our own keeps its slot this long: many round trips of a loaded link, during which what it asked
/// for would be refused.
const TURN: Duration = Duration::from_secs(2);
/// Foreign clients that are unchoked at once.
const FOREIGN_SLOTS: usize = 4;
/// A foreign client keeps its slot this long; many need seconds to fill their pipeline (BEP 3: 10 s).
const FOREIGN_TURN: Duration = Duration::from_secs(10);
/// What the driver is given to send to one peer before it has sent it, at high rates: this much time of the present one. At
/// low rates it is one large block at a time, since the socket still holds the end of the last one when it asks for more.
/// With more, a peer that is served well would be fed again before the other got its block.
const HANDED_TIME_MS: u64 = 5;
/// The same for all peers together: twice that, and so many large blocks in any case. A peer that others serve too takes a
/// part of its link from us, so with one block at a time the link idles; each more delays all of them on their way to
/// those who wait for them. Where only two take, one after the other is fair, and TCP is not to one that begins beside
/// one that is well served.
const BLOCKS_TOGETHER: u64 = 6;
const TAKERS_LEAST: usize = 3;
/// After its turn the foremost peer waits so many rounds of turns beside the usual one, so that all end together and nobody
/// stands still for who comes late...
const LAG_ROUNDS: u64 = 4;
/// ...and who lags behind it by one in so many pieces of the image waits one less.
const LAG_PARTS: u64 = 32;
/// A whole copy suggests so many pieces in the order of the file before it goes on somewhere else: disks like that, here
/// and where the pieces are written, and two copies that happen upon the same place part again.
const RUN: u32 = 64;
/// A peer that has not taken what was handed to it for this long, or for this many times as long as the whole link
/// needs for everything that is handed out, is slow.
const SLOW: Duration = Duration::from_millis(250);
const SLOW_FACTOR: u32 = 5;
/// A peer that asks for nothing for this long lost its turn.
const UNUSED: Duration = Duration::from_millis(300);

/// The books of what this node gives.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// Bytes that the driver is sending to peers that are not slow.
    handed: u64,
    turn: u64,
    /// The last block went to a foreign client.
    foreign_last: bool,
    /// How often each piece was begun to be sent; empty until one was.
    sent: Vec<u8>,
    /// Pieces that this whole copy has suggested to nobody yet.
    fresh: Option<Bitfield>,
    /// The piece behind the one that it suggested last to one of several, unless it is to go on somewhere else.
    following: Option<PieceIndex>,
}

impl Swarm {
    /// A request of a peer.
    pub(super) fn requested(&mut self, now: Time, p: usize, range: Range) -> Result<(), PeerMisbehaved> {
        let Range { piece, offset, len } = range;
        if len > self.block_bytes.max(BLOCK_BYTES) {
            return Err(PeerMisbehaved::RequestTooLong(len));
        }
        let block =
            self.geometry.block(piece, offset, len).ok_or(PeerMisbehaved::NoSuchBlock { piece, offset, len })?;
        let peer = &mut self.peers[p];
        if peer.am_choking || !self.pieces.here().has(block.piece) {
            self.reject(p, range);
            return Ok(());
        }
        if peer.wanted.len() >= REQUESTS_PER_PEER_MAX {
            return Err(PeerMisbehaved::TooManyRequests(REQUESTS_PER_PEER_MAX));
        }
        peer.wanted.push_back(block);
        self.serve(now);
        Ok(())
    }

    /// A peer does not want that block any more.
    pub(super) fn cancelled(&mut self, p: usize, range: Range) {
        let same = |b: &Block| (b.piece.get(), b.offset, b.len) == (range.piece, range.offset, range.len);
        let peer = &mut self.peers[p];
        let before = peer.wanted.len();
        peer.wanted.retain(|b| !same(b));
        if peer.wanted.len() < before {
            // BEP 6: every request gets an answer.
            self.reject(p, range);
        }
    }

    /// The driver has sent a block.
    pub(super) fn sent(&mut self, now: Time, conn: ConnId, block: &Block) {
        let Some(p) = self.peer_of(conn) else { return };
        let len = u64::from(block.len);
        let peer = &mut self.peers[p];
        peer.handed = peer.handed.saturating_sub(len);
        if !peer.slow {
            self.upload.handed = self.upload.handed.saturating_sub(len);
        } else if peer.handed == 0 {
            peer.slow = false;
        }
        peer.handed_at = now;
        peer.turn_bytes += len;
        peer.up.add(now, len);
        self.up.add(now, len);
        self.ledger.account(peer.sender).uploaded += len;
        if let Some(woken) = &mut self.woken {
            *woken = now;
        }
        self.end_turn(p, block);
        self.serve(now);
    }

    /// A peer that got a whole piece goes to the end of the line.
    fn end_turn(&mut self, p: usize, sent: &Block) {
        let peer = &self.peers[p];
        let mid_piece = peer.wanted.front().is_some_and(|next| next.piece == sent.piece);
        if peer.is_ours() && !mid_piece && peer.turn_bytes >= u64::from(self.geometry.piece_length()) {
            self.begin_turn(p);
        }
    }

    fn begin_turn(&mut self, p: usize) {
        self.upload.turn += 1;
        let takers = self.peers.iter().filter(|q| q.is_ours() && q.peer_interested);
        let (count, foremost) = takers.fold((0, 0), |(n, most), q| (n + 1, q.has.count().max(most)));
        let lag = u64::from(foremost.saturating_sub(self.peers[p].has.count()));
        let sooner = (count * lag * LAG_PARTS / u64::from(self.geometry.pieces())).min(count * LAG_ROUNDS);
        self.peers[p].turn = self.upload.turn + count * LAG_ROUNDS - sooner;
        self.peers[p].turn_bytes = 0;
    }

    /// Forgets what was handed to a peer that is gone.
    pub(super) fn stop_serving(&mut self, p: usize) {
        let peer = &mut self.peers[p];
        if !peer.slow {
            self.upload.handed = self.upload.handed.saturating_sub(peer.handed);
        }
        peer.handed = 0;
        peer.wanted.clear();
        self.take_promises_back(p);
    }

    /// Hands blocks to the driver.
    pub(super) fn serve(&mut self, now: Time) {
        if !self.life.uploads() {
            return;
        }
        let rate = self.up.per_second(now);
        while self.upload.handed < self.handed_together(rate) {
            let Some(p) = self.next_to_serve(rate) else { break };
            if self.upload.handed >= self.handed_beside(rate, p) || !self.may(Direction::Up) {
                break;
            }
            self.hand(now, p);
        }
    }

    /// Chokes everybody whose turn is over or who may not be served any more; called a few times a second.
    pub(super) fn review_slots(&mut self, now: Time) {
        let together = self.handed_together(self.up.per_second(now));
        let patience = SLOW.max(self.up.time_for(now, together, SLOW * SLOW_FACTOR) * SLOW_FACTOR);
        for p in 0..self.peers.len() {
            let peer = &mut self.peers[p];
            if peer.handed > 0 && !peer.slow && now.since(peer.handed_at) > patience {
                peer.slow = true;
                self.upload.handed = self.upload.handed.saturating_sub(peer.handed);
            }
            if peer.am_choking {
                continue;
            }
            let unused =
                peer.wanted.is_empty() && peer.handed == 0 && now.since(peer.handed_at.max(peer.unchoked_at)) > UNUSED;
            let ours = peer.is_ours();
            let turn = if ours { TURN } else { FOREIGN_TURN };
            let over = (ours && unused) || now.since(peer.unchoked_at) > turn;
            let end = !self.life.uploads() || !peer.peer_interested || (over && self.next_in_line(ours).is_some());
            if end {
                self.choke(p);
            }
        }
        self.fill_slots(now);
    }

    /// Chokes a peer and refuses what it waits for.
    pub(super) fn choke(&mut self, p: usize) {
        self.peers[p].am_choking = true;
        self.tell(p, Message::Choke);
        self.take_promises_back(p);
        for block in std::mem::take(&mut self.peers[p].wanted) {
            self.reject(p, Range { piece: block.piece.get(), offset: block.offset, len: block.len });
        }
    }

    /// How much one peer is handed at a time at the present rate.
    fn handed_most(&self, rate: u64) -> u64 {
        (self.large_block() / 2).max(rate / 1000 * HANDED_TIME_MS)
    }

    fn large_block(&self) -> u64 {
        self.geometry.piece_length().min(LARGE_BLOCK_BYTES).into()
    }

    /// How much may be on its way to others when this peer is handed more. Beside a seeder, who comes first, no more than
    /// what keeps the link busy until it asks again.
    fn handed_beside(&self, rate: u64, p: usize) -> u64 {
        let seeder_waits = || self.peers.iter().any(|q| q.seeder && q.peer_interested);
        if self.is_behind_seeders(p) && seeder_waits() {
            2 * self.handed_most(rate)
        } else {
            self.handed_together(rate)
        }
    }

    /// How much all peers together are handed at a time.
    fn handed_together(&self, rate: u64) -> u64 {
        let one_by_one = 2 * self.handed_most(rate);
        let takers = self.peers.iter().filter(|q| q.handed > 0 || !q.wanted.is_empty());
        if takers.take(TAKERS_LEAST).count() < TAKERS_LEAST {
            return one_by_one;
        }
        one_by_one.max(BLOCKS_TOGETHER * self.large_block())
    }

    fn unchoked(&self, ours: bool) -> impl Iterator<Item = usize> + '_ {
        (0..self.peers.len()).filter(move |p| !self.peers[*p].am_choking && self.peers[*p].is_ours() == ours)
    }

    /// The interested, choked peer that waits for its turn the longest; at the master those in mode seeder first.
    fn next_in_line(&self, ours: bool) -> Option<usize> {
        (0..self.peers.len())
            .filter(|p| {
                let peer = &self.peers[*p];
                peer.am_choking && peer.peer_interested && peer.is_ours() == ours
            })
            .min_by_key(|p| (self.is_behind_seeders(*p), self.peers[*p].turn))
    }

    fn is_behind_seeders(&self, p: usize) -> bool {
        self.master && !self.peers[p].seeder
    }

    /// Unchokes who is interested, as far as there are slots, and serves: somebody came, went, or changed his mind.
    pub(super) fn fill_slots(&mut self, now: Time) {
        if !self.life.uploads() {
            return;
        }
        for (ours, slots) in [(true, SLOTS), (false, FOREIGN_SLOTS)] {
            while self.unchoked(ours).count() < slots {
                let Some(p) = self.next_in_line(ours) else { break };
                self.unchoke(now, p);
            }
        }
        self.serve(now);
    }

    fn unchoke(&mut self, now: Time, p: usize) {
        self.begin_turn(p);
        self.peers[p].am_choking = false;
        self.peers[p].unchoked_at = now;
        self.suggest(p);
        self.tell(p, Message::Unchoke);
    }

    /// Of the peers that wait for a block and can take one: foreign clients in alternation, then what nobody has, then
    /// the least [`Peer::turn`].
    fn next_to_serve(&self, rate: u64) -> Option<usize> {
        let most = self.handed_most(rate);
        let mut best = None;
        for (p, peer) in self.peers.iter().enumerate() {
            let Some(front) = peer.wanted.front().filter(|_| !peer.am_choking) else { continue };
            if peer.handed >= if peer.slow { 1 } else { most } {
                continue;
            }
            let behind = peer.is_ours() != self.upload.foreign_last;
            let rank = (behind, peer.slow, self.is_behind_seeders(p), !self.is_first(front), peer.turn);
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, p));
            }
        }
        best.map(|(_, p)| p)
    }

    /// Whether nobody is known to have that piece but whole copies, and nobody got it from here: what nobody has goes
    /// first, and is there twice as soon.
    fn is_first(&self, block: &Block) -> bool {
        self.sent_times(block.piece) <= u8::from(block.offset > 0) && !self.picker.is_spread(block.piece)
    }

    fn sent_times(&self, piece: PieceIndex) -> u8 {
        self.upload.sent.get(piece.index()).copied().unwrap_or(0)
    }

    fn hand(&mut self, now: Time, p: usize) {
        let ours = self.peers[p].is_ours();
        let peer = &mut self.peers[p];
        let Some(block) = peer.wanted.pop_front() else { return };
        self.may_send.spend(block.len);
        if peer.handed == 0 {
            peer.handed_at = now;
        }
        peer.handed += u64::from(block.len);
        if !peer.slow {
            self.upload.handed += u64::from(block.len);
        }
        if !ours {
            // Foreign clients take turns block by block.
            self.upload.turn += 1;
            peer.turn = self.upload.turn;
        }
        self.upload.foreign_last = !ours;
        let conn = peer.conn;
        if block.offset == 0 {
            self.begun_to_send(p, block.piece);
        }
        self.ask_border(io::Output::SendBlock { conn, image: self.image, block });
    }

    fn reject(&mut self, p: usize, range: Range) {
        if self.peers[p].fast {
            self.tell(p, Message::Reject(range));
        }
    }

    /// Counts a piece that goes out; a whole copy steers the same peer to the next that never did.
    fn begun_to_send(&mut self, p: usize, piece: PieceIndex) {
        self.upload.sent.resize(self.geometry.pieces() as usize, 0);
        let sent = &mut self.upload.sent[piece.index()];
        *sent = sent.saturating_add(1);
        self.peers[p].promised.retain(|promised| *promised != piece);
        self.suggest(p);
    }

    /// Promises a peer as many pieces that nobody has as it may ask for at first, each to one peer only.
    fn suggest(&mut self, p: usize) {
        let peer = &self.peers[p];
        if !self.pieces.here().is_full() || !peer.fast || !peer.is_ours() || peer.has.is_full() {
            return;
        }
        let alone = !self.takers_exceed(1);
        let Peer { has, promised, .. } = &mut self.peers[p];
        // It got them elsewhere.
        promised.retain(|piece| !has.has(*piece));
        let ahead = FIRST_BYTES.div_ceil(u64::from(self.geometry.piece_length())) as usize + 1;
        while self.peers[p].promised.len() < ahead {
            let Some(piece) = self.next_fresh(alone) else { break };
            if self.sent_times(piece) > 0 || self.picker.is_spread(piece) {
                continue;
            }
            self.peers[p].promised.push(piece);
            self.tell(p, Message::Suggest(piece.get()));
        }
    }

    /// What to suggest next: the lowest to who is alone, to others the rest of a run, then a run somewhere else.
    fn next_fresh(&mut self, alone: bool) -> Option<PieceIndex> {
        let Self { geometry, picker, rng, upload, .. } = self;
        let Upload { fresh, following, .. } = upload;
        let fresh = fresh.get_or_insert_with(|| {
            let mut fresh = Bitfield::empty(geometry.pieces());
            for piece in geometry.all().filter(|piece| !picker.is_spread(*piece)) {
                fresh.set(piece);
            }
            fresh
        });
        let from = match following {
            _ if alone => 0,
            Some(next) => next.get(),
            None => (rng.next_u64() % u64::from(geometry.pieces())) as u32 / RUN * RUN,
        };
        let piece = geometry.piece(fresh.first_from(from).or_else(|| fresh.first_from(0))?)?;
        fresh.clear(piece);
        if !alone {
            *following = geometry.piece(piece.get() + 1).filter(|next| !next.get().is_multiple_of(RUN));
        }
        Some(piece)
    }

    /// What was promised and not sent may be promised to others.
    fn take_promises_back(&mut self, p: usize) {
        if let Some(fresh) = &mut self.upload.fresh {
            for piece in self.peers[p].promised.drain(..) {
                fresh.set(piece);
            }
        }
    }
}
