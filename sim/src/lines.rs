//! The words of a trace: each input and output as one short line.
//!
//! Rule: machines are called by their names (`pc003`), connections by the other end and their slot (`pc003#7`), lists
//! by their length. Not here: which lines are wanted ([`crate::trace`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use labmesh_proto::config::{RateLimit, RateLimits};
use labmesh_proto::id::{Block, ConnId, Epoch, ImageIndex, InfoHash, NodeId, PieceIndex};
use labmesh_proto::io::{Command, Event, Input, Output, Reply};
use labmesh_proto::tracker::keeping::Kept;
use labmesh_proto::wire::control::{Beat, Message, NodeAnnounce};
use labmesh_proto::wire::peer::{self, Range};

use crate::trace::Kind;
use crate::world::machine_at;

/// Who is called what.
#[derive(Debug)]
pub(crate) struct Lines {
    ids: BTreeMap<NodeId, usize>,
    /// By machine and slot: the machine at the other end.
    peers: BTreeMap<(usize, ConnId), String>,
}

impl Lines {
    pub(crate) fn new(ids: BTreeMap<NodeId, usize>) -> Self {
        Self { ids, peers: BTreeMap::new() }
    }

    /// Keeps who is behind a slot.
    pub(crate) fn learn(&mut self, machine: usize, input: &Input) {
        if let Input::PeerUp { conn, addr, .. } = input {
            self.peers.insert((machine, *conn), place(*addr));
        }
    }

    pub(crate) fn kind_of_input(input: &Input) -> Kind {
        match input {
            Input::Found { .. } | Input::Address(_) => Kind::Mdns,
            Input::Beat { .. } => Kind::Beats,
            Input::ControlUp { .. }
            | Input::ControlDown { .. }
            | Input::ControlUnreachable { .. }
            | Input::Control { .. } => Kind::Control,
            Input::Announce { .. }
            | Input::Probed { .. }
            | Input::Saved(_)
            | Input::TrackerSaid { .. }
            | Input::LocalAnnounce { .. }
            | Input::Command { .. }
            | Input::Shutdown
            | Input::Limits(_) => Kind::People,
            Input::PeerUp { .. }
            | Input::PeerDown { .. }
            | Input::PeerUnreachable { .. }
            | Input::WebSeed { .. }
            | Input::Peer { .. }
            | Input::Block { .. }
            | Input::Sent { .. } => Kind::Peer,
            Input::Persisted { .. }
            | Input::Opened { .. }
            | Input::Verified { .. }
            | Input::Finished { .. }
            | Input::ReadFailed { .. }
            | Input::CacheHas { .. }
            | Input::CachePart { .. }
            | Input::CacheLost { .. }
            | Input::Deleted { .. }
            | Input::CacheStopped { .. } => Kind::Disk,
        }
    }

    pub(crate) fn kind_of_output(output: &Output) -> Kind {
        match output {
            Output::Browse(_) | Output::Advertise(_) | Output::HostName(_) => Kind::Mdns,
            Output::Beat { .. } | Output::Beacon(_) => Kind::Beats,
            Output::Dial { .. } | Output::Hangup(_) | Output::Send { .. } | Output::Gossip(_) => Kind::Control,
            Output::Announced { .. }
            | Output::Probe { .. }
            | Output::SaveBook(_)
            | Output::AskTracker { .. }
            | Output::TrackerDone(_)
            | Output::AnnounceLocally(_)
            | Output::Reply { .. }
            | Output::Farewell => Kind::People,
            Output::DialPeer { .. }
            | Output::Accept { .. }
            | Output::Close { .. }
            | Output::Peer { .. }
            | Output::Have { .. }
            | Output::SendBlock { .. }
            | Output::Store { .. } => Kind::Peer,
            Output::Persist { .. }
            | Output::Open { .. }
            | Output::Verify { .. }
            | Output::Discard { .. }
            | Output::Remember { .. }
            | Output::Finish { .. }
            | Output::CloseImage { .. }
            | Output::SetAside { .. }
            | Output::Delete { .. }
            | Output::MarkStopped { .. } => Kind::Disk,
            Output::Event(_) => Kind::Events,
        }
    }

    pub(crate) fn input(&self, machine: usize, input: &Input) -> String {
        let conn = |conn: &ConnId| self.conn(machine, *conn);
        match input {
            Input::Found { addr, .. } => format!("found {}", place(*addr)),
            Input::Address(addr) => format!("own address {addr}"),
            Input::Beat { from, beat } => format!("from {}: {}", place(*from), self.beat(beat)),
            Input::ControlUp { node, .. } => format!("connected with {}", self.node(*node)),
            Input::ControlDown { node } => format!("disconnected from {}", self.node(*node)),
            Input::ControlUnreachable { addr, refused, .. } => {
                format!("cannot reach {}: {}", place(*addr), if *refused { "refused" } else { "no answer" })
            }
            Input::Control { from, message } => format!("{}: {}", self.node(*from), self.message(message)),
            Input::Persisted { epoch } => format!("term {} of {} is on disk", epoch.term, self.node(epoch.node)),
            Input::TrackerSaid { id, result } => {
                format!("answer {}: {}", id.0, if result.is_ok() { "came" } else { "none" })
            }
            Input::LocalAnnounce { from, announce } => {
                format!("local announce of {} swarms from {from}", announce.info_hashes.len())
            }
            Input::Announce { id, announce } => format!("announce {} of {}", id.0, hash(announce.info_hash)),
            Input::Probed { addr, reachable, .. } => {
                format!("{addr} {}", if *reachable { "is a client" } else { "cannot be reached" })
            }
            Input::Saved(kept) => format!("{} kept", book(kept)),
            Input::PeerUp { conn: slot, outgoing, .. } => {
                format!("{} up, {}", conn(slot), if *outgoing { "dialled from here" } else { "dialled from there" })
            }
            Input::PeerDown { conn: slot } => format!("{} down", conn(slot)),
            Input::PeerUnreachable { image, addr } => format!("cannot reach {} for {}", place(*addr), number(*image)),
            Input::WebSeed { image, addr } => format!("a web seed of {} at {}", number(*image), place(*addr)),
            Input::Peer { conn: slot, message } => format!("{} {}", conn(slot), wire(message)),
            Input::Block { conn: slot, range } => format!("{} block {}", conn(slot), span(*range)),
            Input::Sent { conn: slot, block: sent } => format!("{} sent {}", conn(slot), block(*sent)),
            Input::Opened { image, result: Ok(pieces) } => {
                format!("{} open, {} of {} pieces", number(*image), pieces.count(), pieces.pieces())
            }
            Input::Opened { image, result: Err(error) } => format!("{} cannot be opened: {error}", number(*image)),
            Input::Verified { image, piece, result } => match result {
                Ok(true) => format!("{} good and written", place_of(*image, *piece)),
                Ok(false) => format!("{} has a wrong hash", place_of(*image, *piece)),
                Err(error) => format!("{} not written: {error}", place_of(*image, *piece)),
            },
            Input::Finished { image, result: Ok(()) } => format!("{} finished", number(*image)),
            Input::Finished { image, result: Err(error) } => format!("{} not finished: {error}", number(*image)),
            Input::ReadFailed { image, error } => format!("{} cannot be read: {error}", number(*image)),
            Input::CacheHas { name, stopped, .. } => format!("cache has {name}{}", stop(*stopped)),
            Input::CachePart { name, mode, stopped, .. } => {
                format!("cache has part of {name}, {mode}{}", stop(*stopped))
            }
            Input::CacheLost { info_hash } => format!("cache lost {}", hash(*info_hash)),
            Input::Deleted { id, result: Ok(()) } => format!("deleted for {}", id.0),
            Input::Deleted { id, result: Err(reason) } => format!("not deleted for {}: {reason}", id.0),
            Input::CacheStopped { info_hash, stopped } => {
                format!("{} {}", hash(*info_hash), if *stopped { "stopped" } else { "started" })
            }
            Input::Command { id, command: what } => format!("asks {}: {}", id.0, command(what)),
            Input::Shutdown => "shut down".to_owned(),
            Input::Limits(limits) => limited(limits),
        }
    }

    pub(crate) fn output(&self, machine: usize, output: &Output) -> String {
        let conn = |conn: &ConnId| self.conn(machine, *conn);
        match output {
            Output::Browse(on) => format!("browse {}", switch(*on)),
            Output::Advertise(on) => format!("advertise {}", switch(*on)),
            Output::HostName(on) => format!("host name {}", switch(*on)),
            Output::Beat { to, beat } => format!("to {} machines: {}", to.len(), self.beat(beat)),
            Output::Beacon(beat) => format!("beacon: {}", self.beat(beat)),
            Output::Dial { addr, .. } => format!("dial {}", place(*addr)),
            Output::Hangup(node) => format!("hang up on {}", self.node(*node)),
            Output::Send { to, message } => format!("{}: {}", self.node(*to), self.message(message)),
            Output::Gossip(message) => format!("everybody: {}", self.message(message)),
            Output::Persist { epoch } => format!("write term {} of {}", epoch.term, self.node(epoch.node)),
            Output::Announced { id, result: Ok(answer) } => format!("announce {}: {} peers", id.0, answer.peers.len()),
            Output::Announced { id, result: Err(reason) } => format!("announce {} refused: {reason}", id.0),
            Output::Probe { addr, .. } => format!("look for a client at {addr}"),
            Output::SaveBook(kept) => format!("keep {}", book(kept)),
            Output::AskTracker { tracker, .. } => format!("asks {tracker}"),
            Output::TrackerDone(id) => format!("question {} is over", id.0),
            Output::AnnounceLocally(announce) => format!("announces {} swarms locally", announce.info_hashes.len()),
            Output::DialPeer { image, addr, .. } => format!("dial {} for {}", place(*addr), number(*image)),
            Output::Accept { conn: slot, image, .. } => format!("{} accepted for {}", conn(slot), number(*image)),
            Output::Close { conn: slot, reason } => format!("{} close: {reason}", conn(slot)),
            Output::Peer { conn: slot, message } => format!("{} {}", conn(slot), wire(message)),
            Output::Have { image, piece, to } => format!("{} peers: have {}", to.len(), place_of(*image, *piece)),
            Output::SendBlock { conn: slot, block: sent, .. } => format!("{} send {}", conn(slot), block(*sent)),
            Output::Store { block: kept, .. } => format!("keep {}", block(*kept)),
            Output::Open { image, name, complete, mode, .. } => {
                format!("open {} {name}, {mode}{}", number(*image), if *complete { ", whole" } else { "" })
            }
            Output::Verify { image, piece } => format!("verify {}", place_of(*image, *piece)),
            Output::Discard { image, piece } => format!("discard {}", place_of(*image, *piece)),
            Output::Remember { image, mode, .. } => format!("remember {}: {mode}", number(*image)),
            Output::Finish { image } => format!("finish {}", number(*image)),
            Output::CloseImage { image } => format!("close {}", number(*image)),
            Output::SetAside { name } => format!("set {name} aside"),
            Output::Delete { id, name } => format!("delete {name} for {}", id.0),
            Output::MarkStopped { name, stopped } => {
                format!("mark {name} {}", if *stopped { "stopped" } else { "started" })
            }
            Output::Reply { id, reply: what } => format!("answers {}: {}", id.0, reply(what)),
            Output::Event(event) => self.event(event),
            Output::Farewell => "farewell".to_owned(),
        }
    }

    fn node(&self, id: NodeId) -> String {
        self.ids.get(&id).map_or_else(|| format!("{id:?}"), |machine| name(*machine))
    }

    fn conn(&self, machine: usize, conn: ConnId) -> String {
        let peer = self.peers.get(&(machine, conn)).map_or("?", String::as_str);
        format!("{peer}#{}", conn.0)
    }

    fn epoch(&self, epoch: Epoch) -> String {
        format!("{} term {}", self.node(epoch.node), epoch.term)
    }

    fn beat(&self, beat: &Beat) -> String {
        let Beat { epoch, seq, members, solo, roster, catalogue, .. } = beat;
        let solo = if *solo { " solo" } else { "" };
        format!("beat {seq} of {}{solo}, {members} members, roster {roster}, catalogue {catalogue}", self.epoch(*epoch))
    }

    fn message(&self, message: &Message) -> String {
        match message {
            Message::Beat(beat) => self.beat(beat),
            Message::Ask(epoch) => format!("ask whether {} is gone", self.epoch(*epoch)),
            Message::Answer(None) => "answer: not heard here either".to_owned(),
            Message::Answer(Some(beat)) => format!("answer: heard {}", self.beat(beat)),
            Message::Claim { epoch, members } => format!("claim {}, {members} members", self.epoch(*epoch)),
            Message::Goodbye { epoch, successor } => {
                let after = successor.map_or("nobody".to_owned(), |next| self.node(next));
                format!("goodbye {}, then {after}", self.epoch(*epoch))
            }
            Message::Yield(epoch) => format!("yield {}", self.epoch(*epoch)),
            Message::Hello { member, holdings, .. } => {
                format!("hello {}, weight {}, holdings {holdings}", member.name, member.weight.get())
            }
            Message::Welcome { beat: Some(beat), .. } => format!("welcome: {}", self.beat(beat)),
            Message::Welcome { beat: None, .. } => "welcome: no master known".to_owned(),
            Message::Incompatible { protocol } => format!("incompatible: protocol {protocol}"),
            Message::RosterSince(version) => format!("roster since {version}?"),
            Message::Roster(delta) => {
                let (changed, gone) = (delta.changed.len(), delta.gone.len());
                format!("roster {} to {}: {changed} changed, {gone} gone", delta.from, delta.to)
            }
            Message::Holdings(holdings) => format!("holdings {}: {} images", holdings.version, holdings.images.len()),
            Message::HoldingsWanted => "holdings?".to_owned(),
            Message::CatalogueSince(version) => format!("catalogue since {version}?"),
            Message::Catalogue(delta) => {
                let (changed, gone) = (delta.changed.len(), delta.gone.len());
                format!("catalogue {} to {}: {changed} changed, {gone} gone", delta.from, delta.to)
            }
            Message::TorrentWanted(image) => format!("torrent {}?", hash(*image)),
            Message::Torrent { info_hash, bytes } => format!("torrent {}, {} bytes", hash(*info_hash), bytes.len()),
            Message::NoTorrent(image) => format!("no torrent {}", hash(*image)),
            Message::Announce(said) => announce(said),
            Message::Neighbours(answer) => {
                let (whole, others) = (answer.complete, answer.incomplete);
                let stay = if answer.stay { ", stay" } else { "" };
                format!("neighbours: {}; swarm {whole} whole, {others} not{stay}", answer.neighbours.len())
            }
            Message::Wake(image) => format!("wake {}", hash(*image)),
            Message::ForeignAnnounce { id, peer, .. } => format!("foreign announce {id} of {}", place(peer.addr)),
            Message::ForeignAnnounced { id, answer } => {
                let told = answer.as_ref().map(|a| format!("{} peers", a.peers.len()));
                format!("foreign announced {id}: {}", told.unwrap_or_else(|refused| refused.reason().to_owned()))
            }
            Message::Book(book) => format!("book: {} foreign clients", book.peers.len()),
            Message::Progress(transfers) => format!("progress of {} transfers", transfers.len()),
            Message::Board(board) => format!("board of {} nodes", board.transfers.len()),
            Message::Handover(entries) => format!("handover of {} members", entries.len()),
        }
    }

    fn event(&self, event: &Event) -> String {
        match event {
            Event::BecameMaster { term } => format!("became master, term {term}"),
            Event::BecameSolo => "became solo".to_owned(),
            Event::Following { node, term } => format!("follows {}, term {term}", self.node(*node)),
            Event::LostMaster { node } => format!("lost its master {}", self.node(*node)),
            Event::MemberUp { name, .. } => format!("{name} is here"),
            Event::MemberDown { name, .. } => format!("{name} is gone"),
            Event::Incompatible { node, theirs, .. } => format!("{} speaks protocol {theirs}", self.node(*node)),
            Event::Transfer { name, state, detail, .. } => {
                let detail = detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
                format!("{name} {}{detail}", format!("{state:?}").to_lowercase())
            }
            Event::PeerRefused { addr, reason } => format!("refuses {}: {reason}", place(*addr)),
            Event::Limits(limits) => limited(limits),
        }
    }
}

/// What a machine is called.
pub(crate) fn name(machine: usize) -> String {
    format!("pc{:03}", machine + 1)
}

/// Our machines by name, others by address.
fn place(addr: SocketAddr) -> String {
    let IpAddr::V4(ip) = addr.ip() else { return addr.to_string() };
    machine_at(ip).map_or_else(|| addr.to_string(), name)
}

/// Enough of it to tell a few images apart.
fn book(kept: &Kept) -> String {
    let Kept { clients, downloaded, names } = kept;
    let clients = if clients.is_empty() { String::new() } else { format!("{} clients, ", clients.len()) };
    format!("{clients}{} counters and {} names", downloaded.len(), names.len())
}

fn hash(hash: InfoHash) -> String {
    format!("{hash}")[..8].to_owned()
}

fn number(image: ImageIndex) -> String {
    format!("image {}", image.0)
}

fn place_of(image: ImageIndex, piece: PieceIndex) -> String {
    format!("piece {} of image {}", piece.get(), image.0)
}

fn span(range: Range) -> String {
    format!("{} {}+{}", range.piece, range.offset, range.len)
}

fn block(block: Block) -> String {
    span(Range { piece: block.piece.get(), offset: block.offset, len: block.len })
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn stop(stopped: bool) -> &'static str {
    if stopped { ", stopped" } else { "" }
}

fn announce(said: &NodeAnnounce) -> String {
    let flags = [(said.leaving, ", leaving"), (said.completed, ", completed"), (said.starving, ", starving")];
    let flags: String = flags.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
    format!("announce {}, {}, {} bytes left{flags}", hash(said.info_hash), said.mode, said.left)
}

fn wire(message: &peer::Message) -> String {
    use peer::Message;
    match message {
        Message::KeepAlive => "keep-alive".to_owned(),
        Message::Choke => "choke".to_owned(),
        Message::Unchoke => "unchoke".to_owned(),
        Message::Interested => "interested".to_owned(),
        Message::NotInterested => "not interested".to_owned(),
        Message::Have(piece) => format!("have {piece}"),
        Message::Bitfield(bytes) => {
            format!("bitfield, {} pieces", bytes.iter().map(|byte| byte.count_ones()).sum::<u32>())
        }
        Message::Request(range) => format!("request {}", span(*range)),
        Message::Cancel(range) => format!("cancel {}", span(*range)),
        Message::Port(port) => format!("port {port}"),
        Message::Suggest(piece) => format!("suggest {piece}"),
        Message::HaveAll => "have all".to_owned(),
        Message::HaveNone => "have none".to_owned(),
        Message::Reject(range) => format!("reject {}", span(*range)),
        Message::AllowedFast(piece) => format!("allowed fast {piece}"),
        Message::Extended(said) => {
            let block = said.block.map_or("no long blocks".to_owned(), |block| format!("blocks of {block}"));
            format!("extended: {block}{}", if said.upload_only { ", upload only" } else { "" })
        }
        Message::Pex(_, pex) => format!("{} peers came, {} went", pex.added.len(), pex.dropped.len()),
        Message::Unknown(id) => format!("unknown message {id}"),
    }
}

fn command(command: &Command) -> String {
    match command {
        Command::Get { image, .. } => format!("get {image}"),
        Command::GetTorrent { metainfo, .. } => format!("get torrent {}", hash(metainfo.info_hash())),
        Command::Mode { image, mode, .. } => format!("mode {image} {mode}"),
        Command::Stop(image) => format!("stop {image}"),
        Command::Start(image) => format!("start {image}"),
        Command::Remove(image) => format!("remove {image}"),
        Command::Torrent(image) => format!("torrent {}", hash(*image)),
        Command::Register(name) => format!("call {} {}", hash(name.info_hash), name.name),
        Command::ClaimMaster => "claim master".to_owned(),
        Command::ReleaseMaster => "release master".to_owned(),
        Command::Limit { upload, download } => {
            let one =
                |limit: &Option<RateLimit>| limit.map_or_else(|| "as it is".to_owned(), |l| u64::from(l).to_string());
            format!("limit up {} down {}", one(upload), one(download))
        }
    }
}

/// 0 is no limit.
fn limited(limits: &RateLimits) -> String {
    format!("limits up {} down {}", u64::from(limits.upload), u64::from(limits.download))
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Started(image) => format!("started {}", hash(*image)),
        Reply::Changed(image) => format!("changed {}", hash(*image)),
        Reply::Done => "done".to_owned(),
        Reply::AlreadyHere(image) => format!("{} is here already", hash(*image)),
        Reply::Torrent(metainfo) => format!("torrent {}", hash(metainfo.info_hash())),
        Reply::Refused(why) => format!("refused: {why}"),
        Reply::Limits(limits) => limited(limits),
    }
}
