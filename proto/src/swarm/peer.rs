//! One connected peer, and the ledger of everybody who ever was.
//!
//! Rule: the four flags of BEP 3 mean what BEP 3 says; requests to a peer are bounded by time, not by count. Not here:
//! whom to ask (`download`), whom to serve (`upload`).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::bitfield::Bitfield;
use crate::config::{
    BLOCK_BYTES, FIRST_BYTES, HUGE_BLOCK_RATE, HUGE_BLOCK_RATE_OF_ONE, LARGE_BLOCK_BYTES, REQUESTS_PER_PEER_MAX,
    SUGGESTIONS_MAX,
};
use crate::id::{Block, ConnId, PeerId, PieceIndex, Time};
use crate::swarm::download::STALL;
use crate::swarm::pex::Exchange;
use crate::swarm::pieces::Sender;
use crate::swarm::rate::Rate;
use crate::wire::peer::{Extended, Handshake};

/// Requests on the way to one peer cover this much of its present rate: several round trips of a loaded switch.
const PIPELINE: Duration = Duration::from_millis(25);
/// And its share of this much of what all send together: a request waits behind blocks that go the same way, so who has
/// few peers would otherwise settle at a low rate with each.
const PIPELINE_TOGETHER: Duration = Duration::from_millis(30);
/// [`PIPELINE`] for clients that are not ours. Some look at their requests only now and then: Transmission 3.00 twice a
/// second, and then it answers all that it has, so less than two of its beats would hold it at a fixed rate.
const PIPELINE_FOREIGN: Duration = Duration::from_secs(1);
/// At least this much is asked of clients that are not ours: they take 16 KiB at a time and often serve slowly.
const PIPELINE_BYTES_MIN_FOREIGN: u64 = 512 * 1024;
/// At most this much is asked of anybody, so that one peer cannot hold all buffers.
const PIPELINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Clients that do not say `reqq` take at least this many (libtorrent's default is 250).
const REQQ_DEFAULT: usize = 200;

/// A block that was asked of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) block: Block,
    pub(super) at: Time,
    /// It was cancelled for this one, which is asked once the peer has refused it.
    pub(super) moves_to: Option<ConnId>,
}

/// One connection that both sides have opened.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) conn: ConnId,
    pub(super) addr: SocketAddr,
    /// Where it can be dialled: what we dialled, or what its extension handshake said.
    pub(super) listens: Option<SocketAddr>,
    pub(super) id: PeerId,
    /// As `id` says.
    ours: bool,
    pub(super) sender: Sender,
    pub(super) outgoing: bool,
    pub(super) fast: bool,
    pub(super) extended: bool,
    /// Its pieces; empty until it has told.
    pub(super) has: Bitfield,
    /// How many pieces it has that are not here.
    pub(super) useful: u32,

    pub(super) am_choking: bool,
    pub(super) am_interested: bool,
    pub(super) peer_choking: bool,
    pub(super) peer_interested: bool,

    /// The longest block that it serves.
    pub(super) block_most: u32,
    reqq: usize,
    /// It fetches in mode seeder.
    pub(super) seeder: bool,
    pub(super) exchange: Exchange,
    /// Requests on the way, oldest first.
    pub(super) asked: VecDeque<Asked>,
    pub(super) asked_bytes: u64,
    /// Requests that were taken back and may be answered all the same.
    pub(super) late: usize,
    /// Blocks that came unasked and were not late.
    pub(super) unrequested: usize,
    /// It had room for requests when nothing was left to ask: what it gets now is asked at once.
    pub(super) hungry: bool,
    /// The piece whose blocks it is asked for.
    pub(super) current: Option<PieceIndex>,
    /// Pieces that it would like to send (BEP 6), at most [`SUGGESTIONS_MAX`]; forgotten when it chokes.
    pub(super) suggested: VecDeque<PieceIndex>,
    /// Pieces that were suggested to it and of which nothing was sent to it yet.
    pub(super) promised: Vec<PieceIndex>,
    /// It let requests wait for too long and has sent nothing since.
    pub(super) snubbed: bool,
    pub(super) progress_at: Time,

    /// Its requests that wait here.
    pub(super) wanted: VecDeque<Block>,
    /// Bytes that the driver is sending it.
    pub(super) handed: u64,
    pub(super) handed_at: Time,
    /// It takes its data so slowly that others are served meanwhile.
    pub(super) slow: bool,
    /// Whose is the least is served first: the number of its last turn, and for our own what `begin_turn` adds.
    pub(super) turn: u64,
    pub(super) turn_bytes: u64,
    pub(super) unchoked_at: Time,

    pub(super) down: Rate,
    pub(super) up: Rate,
}

impl Peer {
    pub(super) fn new(
        now: Time,
        conn: ConnId,
        addr: SocketAddr,
        handshake: &Handshake,
        outgoing: bool,
        pieces: u32,
        sender: Sender,
    ) -> Self {
        Self {
            conn,
            addr,
            listens: outgoing.then_some(addr),
            id: handshake.peer_id,
            ours: handshake.peer_id.is_labmesh(),
            sender,
            outgoing,
            fast: handshake.fast,
            extended: handshake.extended,
            has: Bitfield::empty(pieces),
            useful: 0,
            am_choking: true,
            am_interested: false,
            peer_choking: true,
            peer_interested: false,
            block_most: BLOCK_BYTES,
            reqq: REQQ_DEFAULT,
            seeder: false,
            exchange: Exchange::default(),
            asked: VecDeque::new(),
            asked_bytes: 0,
            late: 0,
            unrequested: 0,
            hungry: true,
            current: None,
            suggested: VecDeque::new(),
            promised: Vec::new(),
            snubbed: false,
            progress_at: now,
            wanted: VecDeque::new(),
            handed: 0,
            handed_at: now,
            slow: false,
            turn: 0,
            turn_bytes: 0,
            unchoked_at: now,
            down: Rate::default(),
            up: Rate::default(),
        }
    }

    /// Whether it is one of our own nodes.
    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Takes what the extension handshake offers (BEP 10).
    pub(super) fn extend(&mut self, extended: &Extended, block_bytes: u32) {
        if let Some(block) = extended.block {
            let whole_cells = block.min(block_bytes) / BLOCK_BYTES * BLOCK_BYTES;
            self.block_most = whole_cells.max(BLOCK_BYTES);
        }
        if let Some(port) = extended.port
            && !self.outgoing
        {
            self.listens = Some(SocketAddr::new(self.addr.ip(), port));
        }
        self.seeder = extended.seeder;
        self.exchange.wants = extended.pex;
        if let Some(reqq) = extended.reqq {
            self.reqq = (reqq as usize).clamp(1, REQUESTS_PER_PEER_MAX);
        }
    }

    /// Notes a piece that it would like to send; the oldest of too many is forgotten.
    pub(super) fn suggest(&mut self, piece: PieceIndex) {
        if self.suggested.len() >= SUGGESTIONS_MAX {
            self.suggested.pop_front();
        }
        self.suggested.push_back(piece);
    }

    /// The block that it is asked for now. `together` bytes a second come from all.
    pub(super) fn block_len(&self, now: Time, together: u64) -> u32 {
        let fast = together >= HUGE_BLOCK_RATE && self.down.per_second(now) >= HUGE_BLOCK_RATE_OF_ONE;
        if fast { self.block_most } else { self.block_most.min(LARGE_BLOCK_BYTES) }
    }

    /// Bytes that may still be asked of it now. `sources` peers send to us, `together` bytes a second.
    pub(super) fn room(&self, now: Time, sources: u64, together: u64) -> u64 {
        // Transmission 3.00 refuses the last of the 512 that it offers, and tells so ten seconds later.
        let most = if self.is_ours() { self.reqq } else { (self.reqq - 1).max(1) };
        if self.asked.len() >= most {
            return 0;
        }
        let block = u64::from(self.block_len(now, together));
        let ahead = |rate: u64, span: Duration| rate / 1000 * span.as_millis() as u64;
        let (least, span) = if self.is_ours() {
            let share = ahead(together, PIPELINE_TOGETHER).max(FIRST_BYTES) / sources.max(1);
            (share.clamp(block, PIPELINE_BYTES_MAX), PIPELINE)
        } else {
            (PIPELINE_BYTES_MIN_FOREIGN, PIPELINE_FOREIGN)
        };
        let target =
            if self.snubbed { block } else { ahead(self.down.per_second(now), span).clamp(least, PIPELINE_BYTES_MAX) };
        target.saturating_sub(self.asked_bytes)
    }

    /// Whether it has sent nothing for [`STALL`] since it was asked then.
    pub(super) fn is_silent(&self, now: Time, asked: Time) -> bool {
        now.since(self.progress_at.max(asked)) > STALL
    }

    /// Notes a request.
    pub(super) fn ask(&mut self, now: Time, block: Block) {
        if self.asked.is_empty() {
            self.progress_at = now;
        }
        self.asked_bytes += u64::from(block.len);
        self.asked.push_back(Asked { block, at: now, moves_to: None });
    }

    /// The request is answered, refused or taken back; what it was, if there was one.
    pub(super) fn unask(&mut self, block: &Block) -> Option<Asked> {
        let at = self.asked.iter().position(|a| a.block == *block)?;
        let asked = self.asked.remove(at);
        self.asked_bytes -= u64::from(block.len);
        asked
    }
}

/// What one client has done in this swarm, kept when its connection ends.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) ip: IpAddr,
    pub(super) id: PeerId,
    pub(super) addr: SocketAddr,
    pub(super) downloaded: u64,
    pub(super) uploaded: u64,
    /// Pieces that failed and that it alone had sent.
    pub(super) strikes: u8,
    connected: bool,
}

/// Clients remembered in one swarm; the quietest stranger makes room.
const ACCOUNTS_MAX: usize = 1024;
/// Bad pieces after which a client is refused for the swarm.
const STRIKES: u8 = 2;

/// Everybody who ever was connected.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    accounts: Vec<Account>,
}

impl Ledger {
    /// The account of a client that connects; `None`: it is refused, or the ledger is full of others.
    pub(super) fn open(&mut self, addr: SocketAddr, id: PeerId) -> Option<Sender> {
        let known = self.accounts.iter().position(|a| a.ip == addr.ip() && a.id == id);
        let index = match known {
            Some(i) => i,
            None if self.accounts.len() < ACCOUNTS_MAX => self.accounts.len(),
            None => self.quietest()?,
        };
        let fresh = Account { ip: addr.ip(), id, addr, downloaded: 0, uploaded: 0, strikes: 0, connected: true };
        if index == self.accounts.len() {
            self.accounts.push(fresh);
        } else if known.is_none() {
            self.accounts[index] = fresh;
        }
        let account = &mut self.accounts[index];
        account.connected = true;
        account.addr = addr;
        Some(index as Sender)
    }

    fn quietest(&self) -> Option<usize> {
        let strangers = self.accounts.iter().enumerate().filter(|(_, a)| !a.connected && a.strikes == 0);
        strangers.min_by_key(|(_, a)| a.downloaded + a.uploaded).map(|(i, _)| i)
    }

    pub(super) fn close(&mut self, sender: Sender) {
        self.accounts[usize::from(sender)].connected = false;
    }

    pub(super) fn account(&mut self, sender: Sender) -> &mut Account {
        &mut self.accounts[usize::from(sender)]
    }

    /// Counts a bad piece against a client that alone had sent it; whether it is refused now.
    pub(super) fn strike(&mut self, sender: Sender) -> bool {
        let account = self.account(sender);
        account.strikes = account.strikes.saturating_add(1);
        account.strikes >= STRIKES
    }

    /// A client that was struck out stays out under any name: with it all clients of its address, but for other nodes of
    /// ours and clients of this machine (web servers look like such), which may share one. Names cost nothing, so a
    /// second one that is struck out closes the address to all.
    pub(super) fn is_refused(&self, addr: SocketAddr, id: PeerId) -> bool {
        let shares = id.is_labmesh() || addr.ip().is_loopback();
        let mut struck = self.accounts.iter().filter(|a| a.strikes >= STRIKES && a.ip == addr.ip());
        match struck.next() {
            Some(first) if shares && first.id != id => struck.any(|a| a.id == id || !addr.ip().is_loopback()),
            first => first.is_some(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter()
    }
}
