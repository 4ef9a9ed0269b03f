//! The border: everything that can happen to a node, and everything a node can ask for.
//!
//! # The contract
//! Every state machine of this crate, [`crate::node::Node`] and each part below it, has the same five verbs:
//!
//! * `handle_input(now, input)`: something happened;
//! * `handle_timeout(now)`: the deadline of `poll_timeout` has come;
//! * `poll_output() -> Option<Output>`: what it wants done, oldest first;
//! * `poll_timeout() -> Option<(Time, &'static str)>`: when it wants to be woken, and why;
//! * getters, which take `&self`.
//!
//! A driver obeys one rule: after any `handle_*`, drain `poll_output` to `None` and carry each output out (or queue
//! it) in that order, then arm one timer. `now` never goes back. Two drivers exist: `labmesh`'s `driver.rs` and
//! `labmesh-sim`'s `world.rs`.
//!
//! Payload never crosses: blocks are `{piece, offset, len}`, and reading, writing and hashing are outputs that inputs
//! answer. What the driver passes in from other nodes is already authenticated: `Control` messages by the connection
//! that they came over, heartbeats by their signature.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::announcer::{Answer, Request};
use crate::bitfield::Bitfield;
use crate::config::{Mode, RateLimit, RateLimits, SeedTime};
use crate::error::{CloseReason, DiskError};
use crate::id::{Block, ConnId, Epoch, ImageIndex, InfoHash, NodeId, PieceIndex, RequestId};
use crate::tracker::keeping::Kept;
use crate::wire::control::{self, Beat, RegisteredName};
use crate::wire::http_tracker::{Announce, Announced};
use crate::wire::lsd;
use crate::wire::metainfo::Metainfo;
use crate::wire::peer;
use crate::wire::tracker_client::TrackerUrl;

/// Everything that can happen to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    // ---- discovery
    /// mDNS or a `--join` address names a node; `node` is unknown for a bare address.
    Found {
        /// Who, if known.
        node: Option<NodeId>,
        /// Where its control plane listens.
        addr: SocketAddr,
    },

    /// This node's own address on the lab's network, when it becomes known or changes.
    Address(IpAddr),

    // ---- heartbeat
    /// A heartbeat datagram, unicast or the beacon; its signature was good.
    Beat {
        /// Where it came from; the master's address.
        from: SocketAddr,
        /// What it said.
        beat: Box<Beat>,
    },

    // ---- control
    /// A control connection stands, whoever began it.
    ControlUp {
        /// With whom.
        node: NodeId,
        /// The other side's address.
        addr: IpAddr,
    },
    /// The last control connection with that node ended.
    ControlDown {
        /// With whom.
        node: NodeId,
    },
    /// A dial failed.
    ControlUnreachable {
        /// The node that was meant, if known.
        node: Option<NodeId>,
        /// The address that was tried.
        addr: SocketAddr,
        /// The port was refused: the machine lives, the program does not.
        refused: bool,
    },
    /// A message, by request or by gossip.
    Control {
        /// Who said it.
        from: NodeId,
        /// What.
        message: Box<control::Message>,
    },
    /// The epoch of an [`Output::Persist`] is on disk.
    Persisted {
        /// The epoch that was written.
        epoch: Epoch,
    },

    // ---- tracker
    /// A client announced by HTTP or UDP; answered by [`Output::Announced`].
    Announce {
        /// Joins the answer.
        id: RequestId,
        /// What it said.
        announce: Announce,
    },
    /// The port of [`Output::Probe`] was looked at.
    Probed {
        /// Of this image's client.
        info_hash: InfoHash,
        /// Where.
        addr: SocketAddr,
        /// A BitTorrent client may be there.
        reachable: bool,
    },
    /// What an earlier life of this node put out by [`Output::SaveBook`]; said once, before anything else.
    Saved(Kept),

    /// What a tracker of others said to [`Output::AskTracker`], or in words why it said nothing. A UDP tracker may say
    /// more than one thing to one question.
    TrackerSaid {
        /// Which question.
        id: RequestId,
        /// The body of an HTTP answer with status 200, or a datagram.
        result: Result<Answer, String>,
    },

    /// Somebody in this LAN announced by local service discovery (BEP 14).
    LocalAnnounce {
        /// The datagram's source.
        from: IpAddr,
        /// What it said.
        announce: lsd::Announce,
    },

    // ---- data
    /// A peer connection stands: both handshakes are through, or the other side's has come and ours waits for
    /// [`Output::Accept`].
    PeerUp {
        /// The connection.
        conn: ConnId,
        /// The other side's address.
        addr: SocketAddr,
        /// What the other side opened with.
        handshake: peer::Handshake,
        /// We dialled.
        outgoing: bool,
    },
    /// A connection ended, by whichever side.
    PeerDown {
        /// The connection.
        conn: ConnId,
    },
    /// A dial failed, or the other side opened with something else.
    PeerUnreachable {
        /// For this image.
        image: ImageIndex,
        /// Where.
        addr: SocketAddr,
    },
    /// A web server that the torrent of [`Output::Open`] names (BEP 19) can be spoken to like a peer.
    WebSeed {
        /// For this image.
        image: ImageIndex,
        /// An address of this machine, behind which it is.
        addr: SocketAddr,
    },
    /// A message without payload.
    Peer {
        /// The connection.
        conn: ConnId,
        /// What.
        message: peer::Message,
    },
    /// A block has been received into a buffer of the driver. [`Output::Store`] keeps it; without one the driver
    /// drops it.
    Block {
        /// The connection.
        conn: ConnId,
        /// Which block, as the peer named it.
        range: peer::Range,
    },
    /// A block of [`Output::SendBlock`] was handed to the kernel whole.
    Sent {
        /// The connection.
        conn: ConnId,
        /// Which block.
        block: Block,
    },

    // ---- disk
    /// The file of [`Output::Open`] is there, with the pieces that its journal vouches for; or it is not.
    Opened {
        /// The image.
        image: ImageIndex,
        /// The pieces, or what went wrong.
        result: Result<Bitfield, DiskError>,
    },
    /// A piece of [`Output::Verify`] was hashed, and written if it was good.
    Verified {
        /// The image.
        image: ImageIndex,
        /// The piece.
        piece: PieceIndex,
        /// `Ok(true)`: good and written. `Ok(false)`: the hash is wrong, nothing was written.
        result: Result<bool, DiskError>,
    },
    /// The copy of [`Output::Finish`] is synced and has its name.
    Finished {
        /// The image.
        image: ImageIndex,
        /// Or what went wrong.
        result: Result<(), DiskError>,
    },
    /// A block could not be read for sending.
    ReadFailed {
        /// The image.
        image: ImageIndex,
        /// Why.
        error: DiskError,
    },

    // ---- cache
    /// The cache holds a whole, verified image with its sidecars; also after `add`.
    CacheHas {
        /// Relative path in the cache.
        name: String,
        /// Its torrent.
        metainfo: Arc<Metainfo>,
        /// `NAME.torrent.inactive` lies beside it.
        stopped: bool,
    },
    /// The cache holds part of an image; the transfer goes on.
    CachePart {
        /// Relative path in the cache.
        name: String,
        /// Its torrent.
        metainfo: Arc<Metainfo>,
        /// The mode it was last fetched in.
        mode: Mode,
        /// The seed time it was last fetched with.
        seed_time: Option<SeedTime>,
        /// Told to stay out.
        stopped: bool,
    },
    /// Image or torrent went away, or the content changed.
    CacheLost {
        /// Its info hash.
        info_hash: InfoHash,
    },
    /// The answer to [`Output::Delete`], or in words why nothing was deleted. Losses that follow were said before.
    Deleted {
        /// Joins the question.
        id: RequestId,
        /// What came of it.
        result: Result<(), String>,
    },
    /// Sidecars of a mode or a stop changed by hand.
    CacheStopped {
        /// Its info hash.
        info_hash: InfoHash,
        /// Stopped or started.
        stopped: bool,
    },

    // ---- people
    /// A command of the local socket; answered by [`Output::Reply`].
    Command {
        /// Joins the answer.
        id: RequestId,
        /// What.
        command: Command,
    },
    /// The program is asked to end: say goodbye.
    Shutdown,
    /// How fast payload may go from now on: at the start, and when the schedule says something else.
    Limits(RateLimits),
}

/// What a person asks of a running node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Fetch an image.
    Get {
        /// `NAME`, `NAME@HASHPREFIX` or an info hash.
        image: String,
        /// Or the configured one.
        mode: Option<Mode>,
        /// Or the mode's.
        seed_time: Option<SeedTime>,
        /// Set other content of that name aside.
        replace: bool,
    },
    /// Fetch the image of a `.torrent` that the person brought.
    GetTorrent {
        /// Parsed.
        metainfo: Arc<Metainfo>,
        /// As for [`Command::Get`].
        mode: Option<Mode>,
        /// As for [`Command::Get`].
        seed_time: Option<SeedTime>,
        /// As for [`Command::Get`].
        replace: bool,
    },
    /// Change the mode of a running transfer.
    Mode {
        /// As for [`Command::Get`].
        image: String,
        /// The new mode.
        mode: Mode,
        /// The new seed time.
        seed_time: Option<SeedTime>,
    },
    /// Leave the swarm and stay out over restarts.
    Stop(String),
    /// Undo `Stop`.
    Start(String),
    /// Delete image and sidecars here.
    Remove(String),
    /// The torrent of an image of the catalogue, from here or from a holder.
    Torrent(InfoHash),
    /// Name a torrent of an open tracker that no cache holds.
    Register(RegisteredName),
    /// Become master now.
    ClaimMaster,
    /// Stop being master.
    ReleaseMaster,
    /// Change how fast payload may go, until the schedule or a person says something else; answered by
    /// [`Reply::Limits`].
    Limit {
        /// To peers; `None` = as it is.
        upload: Option<RateLimit>,
        /// From peers; `None` = as it is.
        download: Option<RateLimit>,
    },
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// Under way; watch the transfer of this info hash.
    Started(InfoHash),
    /// Done.
    Done,
    /// The transfer of this info hash is as was asked for.
    Changed(InfoHash),
    /// The image is here and verified already.
    AlreadyHere(InfoHash),
    /// The answer to [`Command::Torrent`].
    Torrent(Arc<Metainfo>),
    /// It cannot be done.
    Refused(Refusal),
    /// The limits in force now.
    Limits(RateLimits),
}

/// Why a command cannot be done, in words for the person.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Nobody offers it.
    #[error("no such image: {0} (try: labmesh ls)")]
    NoSuchImage(String),
    /// One name, several contents.
    #[error("{name} has several contents; say which: {}", .choices.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// `NAME@HASHPREFIX` of each.
        choices: Vec<String>,
    },
    /// Other content has that name here.
    #[error("{name} is here with other content: here {here}, wanted {wanted} (--replace sets the old one aside)")]
    OtherContent {
        /// The name.
        name: String,
        /// The info hash here.
        here: InfoHash,
        /// The info hash wanted.
        wanted: InfoHash,
    },
    /// Not in this cache.
    #[error("{0} is not in the cache of this node")]
    NotHere(String),
    /// Its files are about to go.
    #[error("{0} is being deleted on this node; say it again in a moment")]
    BeingDeleted(String),
    /// Its files are still there.
    #[error("{name} is not deleted: {reason}")]
    NotDeleted {
        /// The image.
        name: String,
        /// What the cache says.
        reason: String,
    },
    /// Nobody could say what the image is made of.
    #[error("nobody present could give the torrent of {0}")]
    NoTorrent(String),
    /// The tables are full.
    #[error("this node has {0} images, more are refused")]
    TooMany(usize),
    /// Names are for open trackers.
    #[error("this tracker is for the images of the catalogue (--open-tracker opens it)")]
    ClosedTracker,
    /// The table of names is full.
    #[error("{0} torrents have a name here, more are refused")]
    TooManyNames(usize),
    /// Weight 0 nodes never are master.
    #[error("this node has weight 0 and never is master")]
    NeverMaster,
    /// Nobody would follow.
    #[error("no other node can be master now: this one is alone, or all others have weight 0")]
    NoSuccessor,
    /// Not the master, so there is nothing to release.
    #[error("this node is not the master")]
    NotMaster,
}

/// Everything a node can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    // ---- discovery
    /// Browse for other nodes, or stop.
    Browse(bool),
    /// Register this node's service, or withdraw it. `Some(epoch)` is the hint of who is master.
    Advertise(bool),
    /// Hold the mesh's host name (`labmesh.local`), or let it go.
    HostName(bool),

    // ---- heartbeat
    /// Sign and send to each.
    Beat {
        /// Control addresses of the followers.
        to: Vec<SocketAddr>,
        /// Its signature is filled in by the driver.
        beat: Box<Beat>,
    },
    /// Sign and multicast.
    Beacon(Box<Beat>),

    // ---- control
    /// Open a control connection.
    Dial {
        /// Who is expected there, if known.
        node: Option<NodeId>,
        /// Where.
        addr: SocketAddr,
    },
    /// Close the control connections with that node.
    Hangup(NodeId),
    /// Say it to one node; dropped if there is no connection.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Box<control::Message>,
    },
    /// Say it to everybody; a [`Beat`] of our own is signed by the driver.
    Gossip(Box<control::Message>),
    /// Put the highest epoch on disk, then say [`Input::Persisted`].
    Persist {
        /// The epoch; higher than every one before.
        epoch: Epoch,
    },

    // ---- tracker
    /// The answer to [`Input::Announce`]; the error is the `failure reason`.
    Announced {
        /// Whose question.
        id: RequestId,
        /// The answer.
        result: Result<Announced, &'static str>,
    },
    /// Look whether a BitTorrent client answers at an address that it has announced for itself; answered by
    /// [`Input::Probed`].
    Probe {
        /// The image that it should know.
        info_hash: InfoHash,
        /// Where.
        addr: SocketAddr,
    },
    /// Put the tracker's book on disk, for [`Input::Saved`] of the next start.
    SaveBook(Kept),

    /// Ask a tracker of others, from the address that peers reach this node at; answered by [`Input::TrackerSaid`].
    /// The same `id` again is a repetition, or the next datagram of one exchange, from the same port.
    AskTracker {
        /// Joins the answer.
        id: RequestId,
        /// Whom.
        tracker: TrackerUrl,
        /// What.
        request: Request,
    },
    /// Nobody waits for that tracker any more.
    TrackerDone(RequestId),
    /// Multicast to the clients of this LAN (BEP 14).
    AnnounceLocally(lsd::Announce),

    // ---- data
    /// Open a peer connection.
    DialPeer {
        /// For this image.
        image: ImageIndex,
        /// Where.
        addr: SocketAddr,
        /// What we open with.
        handshake: peer::Handshake,
    },
    /// Answer the handshake of an incoming connection, which is now one of that image's (outgoing ones too).
    Accept {
        /// The connection.
        conn: ConnId,
        /// The image.
        image: ImageIndex,
        /// What we answer with; sent only on incoming connections.
        handshake: peer::Handshake,
    },
    /// Close a connection; its `PeerDown` still comes.
    Close {
        /// The connection.
        conn: ConnId,
        /// Why, for the log.
        reason: CloseReason,
    },
    /// Send a message.
    Peer {
        /// The connection.
        conn: ConnId,
        /// What.
        message: peer::Message,
    },
    /// Tell these connections of the image that we have this piece; whom it is no news to need not know.
    Have {
        /// The image.
        image: ImageIndex,
        /// The piece.
        piece: PieceIndex,
        /// Whom to tell.
        to: Vec<ConnId>,
    },
    /// Send a block from the file, then say [`Input::Sent`].
    SendBlock {
        /// The connection.
        conn: ConnId,
        /// The image.
        image: ImageIndex,
        /// Which block.
        block: Block,
    },
    /// Keep the block of the present [`Input::Block`] as part of its piece.
    Store {
        /// The image.
        image: ImageIndex,
        /// Which block.
        block: Block,
    },

    // ---- disk
    /// Open the image's file: reserve its space, or read the journal of what is there.
    Open {
        /// The image.
        image: ImageIndex,
        /// Relative path in the cache.
        name: String,
        /// Its torrent.
        metainfo: Arc<Metainfo>,
        /// The cache vouches for a whole copy: nothing is written.
        complete: bool,
        /// Remembered beside the partial copy.
        mode: Mode,
        /// Remembered beside the partial copy.
        seed_time: Option<SeedTime>,
    },
    /// Hash a piece whose blocks are all stored; write it if it is good; then say [`Input::Verified`].
    Verify {
        /// The image.
        image: ImageIndex,
        /// The piece.
        piece: PieceIndex,
    },
    /// Forget the stored blocks of a piece.
    Discard {
        /// The image.
        image: ImageIndex,
        /// The piece.
        piece: PieceIndex,
    },
    /// The person changed mode or seed time of a partial copy: remember these beside it.
    Remember {
        /// The image.
        image: ImageIndex,
        /// From now on.
        mode: Mode,
        /// From now on.
        seed_time: Option<SeedTime>,
    },
    /// Every piece is written: sync, rename, write the sidecars; then say [`Input::Finished`].
    Finish {
        /// The image.
        image: ImageIndex,
    },
    /// Close the image's file; the index may be used again.
    CloseImage {
        /// The image.
        image: ImageIndex,
    },
    /// Set aside the image of that name as `NAME.ant` before another content takes the name.
    SetAside {
        /// Relative path in the cache.
        name: String,
    },
    /// Delete image, partial copy and sidecars, then say [`Input::Deleted`].
    Delete {
        /// Joins the answer.
        id: RequestId,
        /// Relative path in the cache.
        name: String,
    },
    /// Write or remove `NAME.torrent.inactive`.
    MarkStopped {
        /// Relative path in the cache.
        name: String,
        /// Stopped or started.
        stopped: bool,
    },

    // ---- people
    /// The answer to a command.
    Reply {
        /// Whose.
        id: RequestId,
        /// What.
        reply: Reply,
    },
    /// Something a person may want to know: one line in the log, one line of `get --json`.
    Event(Event),
    /// The goodbye is said; the driver may end once its queues are empty.
    Farewell,
}

/// What a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// This node is master now.
    BecameMaster {
        /// The term.
        term: u64,
    },
    /// This node serves itself, since it reaches nobody.
    BecameSolo,
    /// This node follows that master now.
    Following {
        /// The master.
        node: NodeId,
        /// Its term.
        term: u64,
    },
    /// The master is gone.
    LostMaster {
        /// The master that was.
        node: NodeId,
    },
    /// A node joined, or came back.
    MemberUp {
        /// Who.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// A node is gone.
    MemberDown {
        /// Who.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// A node speaks another protocol version and is refused.
    Incompatible {
        /// Who.
        node: NodeId,
        /// Its version.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// An image changed what it is doing.
    Transfer {
        /// Relative path in the cache.
        name: String,
        /// Its info hash.
        info_hash: InfoHash,
        /// What it does now.
        state: control::TransferState,
        /// For people: what is missing, or what went wrong.
        detail: Option<String>,
    },
    /// A peer was refused.
    PeerRefused {
        /// Where it is.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Payload may go this fast from now on.
    Limits(RateLimits),
}
