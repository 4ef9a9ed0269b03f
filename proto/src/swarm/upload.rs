//! Whom to serve, and in which order.
//!
//! Rule: our own nodes take turns of one whole piece. A few are unchoked at once, and the one whose turn began first is
//! served first; the next has its requests ready behind it, so the link never waits for a round trip. Who takes its
//! data slowly does not count, so a slow node delays nobody but itself. Foreign clients share a bounded number of
//! slots and every second block. There is no tit for tat.
//!
//! The master serves nodes in mode seeder first, since they serve the others. A whole copy steers with BEP 6 `suggest`: pieces that it has never sent go out first.

use std::time::Duration;

use rand_chacha::rand_core::Rng;

use super::Swarm;
use crate::config::{REQUEST_BYTES_MAX, REQUESTS_PER_PEER_MAX};
use crate::error::PeerMisbehaved;
use crate::id::{Block, ConnId, PieceIndex, Time};
use crate::io;
use crate::wire::peer::{Message, Range};

/// Our own nodes that are unchoked at once: one is served, one has its requests ready.
const SLOTS: usize = 2;
/// The most when those have nothing to ask for, or take their data slowly.
const SLOTS_MAX: usize = 8;
/// Foreign clients that are unchoked at once.
const FOREIGN_SLOTS: usize = 4;
/// A foreign client keeps its slot this long; many need seconds to fill their pipeline (BEP 3: 10 s).
const FOREIGN_TURN: Duration = Duration::from_secs(10);
/// Bytes that the driver is given to send at once: one large block, since its socket still holds the end of the last
/// one when it asks for more. More, and a peer that is served well would be fed again before the other got its block.
const HANDED_BYTES: u64 = 256 * 1024;
/// The same at high rates: this much time of the present rate.
const HANDED_TIME_MS: u64 = 5;
/// A peer that has not taken what was handed to it for this long, or for this many times as long as the whole link needs
/// for everything that is handed out, is slow.
const SLOW: Duration = Duration::from_millis(250);
const SLOW_FACTOR: u32 = 5;
/// How long an unchoked peer may take to send its first request before another is offered the link as well.
const ANSWER: Duration = Duration::from_millis(20);
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
    /// How often each piece was begun to be sent; only counted by whole copies.
    sent: Vec<u8>,
    /// Pieces in a random order, and how far it is used up: what to suggest next.
    fresh: Vec<PieceIndex>,
}

impl Swarm {
    /// A request of a peer.
    pub(super) fn requested(&mut self, now: Time, p: usize, range: Range) -> Result<(), PeerMisbehaved> {
        let Range { piece, offset, len } = range;
        if len > REQUEST_BYTES_MAX {
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
        if offset == 0 {
            self.begun_to_send(p, block.piece);
        }
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

    /// A peer that got a whole piece makes room for the next in line, or else for the others that are unchoked.
    fn end_turn(&mut self, p: usize, sent: &Block) {
        let peer = &self.peers[p];
        let mid_piece = peer.wanted.front().is_some_and(|next| next.piece == sent.piece);
        if peer.am_choking || !peer.is_ours() || mid_piece || peer.turn_bytes < u64::from(self.geometry.piece_length())
        {
            return;
        }
        if self.next_in_line(true).is_some() {
            self.choke(p);
        } else {
            self.begin_turn(p);
        }
    }

    fn begin_turn(&mut self, p: usize) {
        self.upload.turn += 1;
        self.peers[p].turn = self.upload.turn;
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
    }

    /// Hands blocks to the driver, and unchokes while there is room.
    pub(super) fn serve(&mut self, now: Time) {
        if !self.life.uploads() {
            return;
        }
        self.fill_slots(now, SLOTS);
        while self.upload.handed < self.handed_most(now) {
            let Some(p) = self.next_to_serve(now) else {
                // Nobody can take anything: offer to one more, unless somebody was just offered and has to answer yet.
                let slots = self.unchoked(true).count();
                let answering = self.unchoked(true).any(|p| {
                    let peer = &self.peers[p];
                    peer.wanted.is_empty() && now.since(peer.unchoked_at.max(peer.handed_at)) < ANSWER
                });
                if answering || slots >= SLOTS_MAX || !self.fill_slots(now, slots + 1) {
                    break;
                }
                continue;
            };
            self.hand(now, p);
        }
    }

    /// Chokes everybody whose turn is over or who may not be served any more; called a few times a second.
    pub(super) fn review_slots(&mut self, now: Time) {
        let patience = SLOW.max(self.up.time_for(now, self.handed_most(now), SLOW * SLOW_FACTOR) * SLOW_FACTOR);
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
            let over = if ours { unused } else { now.since(peer.unchoked_at) > FOREIGN_TURN };
            let end = !self.life.uploads() || !peer.peer_interested || (over && self.next_in_line(ours).is_some());
            if end {
                self.choke(p);
            }
        }
        self.serve(now);
    }

    /// Chokes a peer and refuses what it waits for.
    pub(super) fn choke(&mut self, p: usize) {
        self.peers[p].am_choking = true;
        self.tell(p, Message::Choke);
        for block in std::mem::take(&mut self.peers[p].wanted) {
            self.reject(p, Range { piece: block.piece.get(), offset: block.offset, len: block.len });
        }
    }

    fn handed_most(&self, now: Time) -> u64 {
        HANDED_BYTES.max(2 * self.up.per_second(now) / 1000 * HANDED_TIME_MS)
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
            .min_by_key(|p| (self.master && !self.peers[*p].seeder, self.peers[*p].turn))
    }

    /// Unchokes up to `slots` of our own nodes, and foreign clients up to their share; whether anybody was.
    fn fill_slots(&mut self, now: Time, slots: usize) -> bool {
        let mut any = false;
        for (ours, slots) in [(true, slots), (false, FOREIGN_SLOTS)] {
            while self.unchoked(ours).filter(|p| !self.peers[*p].slow).count() < slots
                && self.unchoked(ours).count() < SLOTS_MAX
            {
                let Some(p) = self.next_in_line(ours) else { break };
                self.unchoke(now, p);
                any |= ours;
            }
        }
        any
    }

    fn unchoke(&mut self, now: Time, p: usize) {
        self.begin_turn(p);
        self.peers[p].am_choking = false;
        self.peers[p].unchoked_at = now;
        self.suggest(p);
        self.tell(p, Message::Unchoke);
    }

    /// Of the peers that wait for a block and can take one: foreign clients in alternation, then the oldest turn.
    fn next_to_serve(&self, now: Time) -> Option<usize> {
        let most = HANDED_BYTES.max(self.up.per_second(now) / 1000 * HANDED_TIME_MS);
        let ready = |p: &usize| {
            let peer = &self.peers[*p];
            let most = if peer.slow { 1 } else { most };
            !peer.wanted.is_empty() && peer.handed < most
        };
        let best = |ours| self.unchoked(ours).filter(ready).min_by_key(|p| (self.peers[*p].slow, self.peers[*p].turn));
        let (first, second) = if self.upload.foreign_last { (true, false) } else { (false, true) };
        best(first).or_else(|| best(second))
    }

    fn hand(&mut self, now: Time, p: usize) {
        let ours = self.peers[p].is_ours();
        let peer = &mut self.peers[p];
        let Some(block) = peer.wanted.pop_front() else { return };
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
        self.ask_border(io::Output::SendBlock { conn, image: self.image, block });
    }

    fn reject(&mut self, p: usize, range: Range) {
        if self.peers[p].fast {
            self.tell(p, Message::Reject(range));
        }
    }

    /// Counts a piece that goes out, and steers the same peer to one that never did.
    fn begun_to_send(&mut self, p: usize, piece: PieceIndex) {
        if !self.pieces.here().is_full() {
            return;
        }
        self.order_fresh();
        let sent = &mut self.upload.sent[piece.index()];
        *sent = sent.saturating_add(1);
        self.suggest(p);
    }

    fn suggest(&mut self, p: usize) {
        let peer = &self.peers[p];
        if !self.pieces.here().is_full() || !peer.fast || !peer.is_ours() || peer.has.is_full() {
            return;
        }
        self.order_fresh();
        while self.upload.fresh.last().is_some_and(|f| self.upload.sent[f.index()] > 0) {
            self.upload.fresh.pop();
        }
        let has = &self.peers[p].has;
        let looked_at = self.upload.fresh.len().saturating_sub(32);
        let pick = (looked_at..self.upload.fresh.len()).rev().find(|i| {
            let f = self.upload.fresh[*i];
            self.upload.sent[f.index()] == 0 && !has.has(f)
        });
        if let Some(i) = pick {
            let piece = self.upload.fresh.remove(i);
            // Promised to this peer; if it takes another, rarity finds the piece all the same.
            self.tell(p, Message::Suggest(piece.get()));
        }
    }

    fn order_fresh(&mut self) {
        if self.upload.sent.is_empty() {
            self.upload.sent = vec![0; self.geometry.pieces() as usize];
            let mut all: Vec<PieceIndex> = self.geometry.all().collect();
            for i in (1..all.len()).rev() {
                all.swap(i, self.rng.next_u64() as usize % (i + 1));
            }
            self.upload.fresh = all;
        }
    }
}
