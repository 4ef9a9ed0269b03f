//! What the other nodes say, and what the mesh parts want said: routing between control plane, election, roster,
//! catalogue, tracker and swarms.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::config::{Config, PROTOCOL_VERSION};
use crate::discovery::Standing;
use crate::id::{Epoch, InfoHash, NodeId, RequestId, Time};
use crate::io::{Event, Input, Output, Refusal, Reply};
use crate::neighbours::Site;
use crate::swarm::Swarm;
use crate::wire::control::{
    BookReplica, ForeignAnswer, ForeignRefused, Member, Message, Neighbours, NodeAnnounce, RegisteredName, RosterEntry,
    TransferState,
};
use crate::wire::http_tracker::Announce;
use crate::wire::tracker_client::TrackerUrl;
use crate::{announcer, board, catalogue, discovery, election, lsd, roster, swarm, torrents, tracker};

/// How long a client that announced here may wait for the master, before it gets what this node knows: as long as a node
/// needs to be master of itself. An empty answer costs a client its interval, and some ten minutes.
const PASSED_ON: Duration = Duration::from_millis(1500);
/// How long clients that waited wait on when this node has become master: its nodes announce first.
const NODES_FIRST: Duration = Duration::from_millis(100);
/// Clients that wait for the master's answer here; more are answered at once.
const PASSED_ON_MAX: usize = 1024;

/// An announce that waits for the master.
#[derive(Debug)]
pub(super) struct PassedOn {
    id: RequestId,
    until: Time,
    announce: Announce,
}

/// What this node says of itself.
pub(super) fn member(config: &Config) -> Member {
    Member {
        id: config.id,
        name: config.name.clone(),
        addr: config.addr,
        control_port: config.control_port,
        peer_port: config.peer_port,
        http_port: config.http_port,
        weight: config.weight,
        site: config.site.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

impl Node {
    /// Master or solo: catalogue and tracker of its side are here.
    pub(super) fn is_ruling(&self) -> bool {
        matches!(self.election.role(), election::Role::Master | election::Role::Solo)
    }

    /// The master, if it is another node.
    fn master(&self) -> Option<NodeId> {
        self.election.master().filter(|master| *master != self.config.id)
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message: Box::new(message) });
    }

    fn send_to_master(&mut self, message: Message) {
        if let Some(to) = self.master() {
            self.send(to, message);
        }
    }

    pub(super) fn handle_mesh(&mut self, now: Time, input: Input) {
        match input {
            Input::Found { node, addr } => {
                self.discovery.handle_input(now, discovery::Input::Found { node, addr });
            }
            Input::Beat { from, beat } => {
                let addr = SocketAddr::new(from.ip(), beat.control_port);
                self.discovery.handle_input(now, discovery::Input::Beat { node: beat.epoch.node, addr });
                self.election.handle_input(now, election::Input::Beat { beat: *beat, direct: true });
            }
            Input::ControlUp { node, addr } => {
                self.roster.handle_input(now, roster::Input::Up { node, addr });
                self.discovery.handle_input(now, discovery::Input::Up { node, addr });
                self.election.handle_input(now, election::Input::Up(node));
                self.catalogue.handle_input(now, catalogue::Input::Up(node));
                self.torrents.handle_input(now, torrents::Input::Up(node));
            }
            Input::ControlDown { node } => {
                self.roster.handle_input(now, roster::Input::Down(node));
                self.discovery.handle_input(now, discovery::Input::Down(node));
                self.election.handle_input(now, election::Input::Down(node));
            }
            Input::ControlUnreachable { node, addr, refused } => {
                self.discovery.handle_input(now, discovery::Input::Unreachable { node, addr, refused });
            }
            Input::Control { from, message } => self.hear(now, from, *message),
            Input::Persisted { epoch } => self.election.handle_input(now, election::Input::Persisted { epoch }),
            Input::Announce { id, announce } => self.client_announces(now, id, announce),
            Input::Probed { info_hash, addr, reachable } => {
                self.tracker.handle_input(now, tracker::Input::Probed { info_hash, addr, reachable });
            }
            Input::Saved(kept) => self.tracker.handle_input(now, tracker::Input::Kept(kept)),
            Input::TrackerSaid { id, result } => {
                self.announcer.handle_input(now, announcer::Input::Said { id, result });
            }
            Input::LocalAnnounce { from, announce } => {
                self.lsd.handle_input(now, lsd::Input::Heard { from, announce });
            }
            Input::Address(addr) => {
                self.config.addr = Some(addr);
                self.roster.handle_input(now, roster::Input::Address(addr));
                self.lsd.handle_input(now, lsd::Input::Moved);
            }
            Input::Shutdown => {
                self.leaving = true;
                self.tracker.handle_input(now, tracker::Input::Shutdown);
                self.election.handle_input(now, election::Input::Shutdown);
                self.tell_all_swarms(now, &swarm::Input::Withdraw);
                self.settle(now);
                self.outputs.push_back(Output::Farewell);
            }
            // The others are taken apart in `node.rs`.
            _ => {}
        }
    }

    fn hear(&mut self, now: Time, from: NodeId, message: Message) {
        self.roster.handle_input(now, roster::Input::Heard(from));
        if !message.is_gossip() {
            self.election.handle_input(now, election::Input::Heard(from));
        }
        match message {
            Message::Beat(beat) => self.election.handle_input(now, election::Input::Beat { beat, direct: false }),
            Message::Ask(epoch) => self.election.handle_input(now, election::Input::Ask { from, epoch }),
            Message::Welcome { beat, master } => {
                self.roster.handle_input(now, roster::Input::Welcome { beat, master });
                self.election.handle_input(now, election::Input::Answer { from, beat });
            }
            Message::Answer(beat) => {
                self.election.handle_input(now, election::Input::Answer { from, beat });
            }
            Message::Claim { epoch, members } => {
                self.election.handle_input(now, election::Input::Claim { from, epoch, members });
            }
            Message::Goodbye { epoch, successor } => {
                self.election.handle_input(now, election::Input::Goodbye { from, epoch, successor });
            }
            Message::Yield(epoch) => self.election.handle_input(now, election::Input::Yield { from, epoch }),
            message => self.hear_master_and_followers(now, from, message),
        }
    }

    fn hear_master_and_followers(&mut self, now: Time, from: NodeId, message: Message) {
        let of_master = self.master() == Some(from);
        match message {
            Message::Hello { member, protocol, holdings } => {
                let beat = self.election.latest_beat();
                self.roster.handle_input(now, roster::Input::Hello { from, member, protocol, beat });
                if self.is_ruling() && protocol == PROTOCOL_VERSION {
                    self.catalogue.handle_input(now, catalogue::Input::Greeted { from, holdings });
                }
            }
            Message::Incompatible { protocol } => {
                self.event(Event::Incompatible { node: from, theirs: protocol, ours: PROTOCOL_VERSION });
            }
            Message::RosterSince(version) => self.roster.handle_input(now, roster::Input::Since { from, version }),
            Message::Roster(delta) => self.roster.handle_input(now, roster::Input::Delta { from, delta }),
            Message::Handover(entries) => self.roster.handle_input(now, roster::Input::Handover(entries)),
            Message::Holdings(holdings) => {
                self.catalogue.handle_input(now, catalogue::Input::Holdings { from, holdings });
            }
            Message::HoldingsWanted => self.catalogue.handle_input(now, catalogue::Input::HoldingsWanted { from }),
            Message::CatalogueSince(version) => {
                self.catalogue.handle_input(now, catalogue::Input::Since { from, version });
            }
            Message::Catalogue(delta) => self.catalogue.handle_input(now, catalogue::Input::Delta { from, delta }),
            Message::TorrentWanted(hash) => {
                let swarm = self.image_of(&hash).and_then(|image| self.swarms[image].as_ref());
                // What lies beside a copy names the mesh, on whichever node; other people's trackers stay where they came.
                let tiers = [vec![format!("http://{}:{}/announce", self.config.mesh_host, self.config.http_port)]];
                let bytes = swarm.map(|s| s.metainfo().to_bytes(&tiers, s.metainfo().comment()));
                let answer =
                    bytes.map_or(Message::NoTorrent(hash), |bytes| Message::Torrent { info_hash: hash, bytes });
                self.send(from, answer);
            }
            Message::Torrent { info_hash, bytes } => {
                self.torrents.handle_input(now, torrents::Input::Came { from, info_hash, bytes });
            }
            Message::NoTorrent(info_hash) => {
                self.torrents.handle_input(now, torrents::Input::Denied { from, info_hash });
            }
            Message::Announce(announce) if self.is_ruling() => self.node_announces(now, from, announce),
            Message::Neighbours(answer) if of_master => self.hear_neighbours(now, from, answer),
            Message::Wake(hash) if of_master => self.wake(now, hash),
            Message::ForeignAnnounce { id, peer, numwant, stopped, completed } if self.is_ruling() => {
                let input = tracker::Input::ForeignAnnounce { from, id, peer, numwant, stopped, completed };
                self.tracker.handle_input(now, input);
            }
            Message::ForeignAnnounced { id, answer } if of_master => self.client_answered(RequestId(id), answer),
            Message::Book(replica) if of_master || self.is_ruling() => {
                self.tracker.handle_input(now, tracker::Input::Replica(replica))
            }
            Message::Progress(reports) if self.is_ruling() => {
                self.board.handle_input(now, board::Input::Of(from, reports));
            }
            Message::Board(board) if of_master => self.board.handle_input(now, board::Input::All(board)),
            other => tracing::trace!(?from, ?other, "not said to this node in its role"),
        }
    }

    // ---- what the parts want

    pub(super) fn do_for_election(&mut self, now: Time, output: election::Output) {
        match output {
            election::Output::Beat(beat) => {
                let to = self.roster.followers().collect();
                self.outputs.push_back(Output::Beat { to, beat: Box::new(beat) });
            }
            election::Output::Beacon(beat) => self.outputs.push_back(Output::Beacon(Box::new(beat))),
            election::Output::Gossip(message) => self.outputs.push_back(Output::Gossip(Box::new(message))),
            election::Output::Send { to, message } => self.send(to, message),
            election::Output::Persist { epoch } => self.outputs.push_back(Output::Persist { epoch }),
            election::Output::Redial(node) => {
                self.discovery.handle_input(now, discovery::Input::Redial(node));
            }
            election::Output::Role(role) => {
                let standing = match role {
                    election::Role::Listening => Standing::Starting,
                    election::Role::Candidate | election::Role::Solo => Standing::Leaderless,
                    election::Role::Follower => self.master().map_or(Standing::Leaderless, Standing::Following),
                    election::Role::Master => Standing::Leading,
                };
                self.discovery.handle_input(now, discovery::Input::Standing(standing));
                if matches!(role, election::Role::Listening | election::Role::Candidate) {
                    self.roster.handle_input(now, roster::Input::Leaderless);
                    self.catalogue.handle_input(now, catalogue::Input::LostMaster);
                }
                self.tell_all_swarms(now, &swarm::Input::Master(self.is_ruling()));
            }
            election::Output::BecameMaster { term } => {
                self.rule(now);
                self.event(Event::BecameMaster { term });
            }
            election::Output::BecameSolo => {
                self.rule(now);
                self.event(Event::BecameSolo);
            }
            election::Output::Following { epoch } => {
                self.outputs.push_back(Output::HostName(false));
                self.follow(now, epoch);
                // Another master than before, but the same role: connections are for the new one.
                let standing = Standing::Following(epoch.node);
                self.discovery.handle_input(now, discovery::Input::Standing(standing));
                self.event(Event::Following { node: epoch.node, term: epoch.term });
            }
            election::Output::LostMaster { epoch } => {
                if epoch.node == self.config.id {
                    self.tracker.handle_input(now, tracker::Input::LostMastership);
                    self.outputs.push_back(Output::HostName(false));
                }
                self.event(Event::LostMaster { node: epoch.node });
            }
            election::Output::HandOver { to } => {
                self.roster.handle_input(now, roster::Input::HandOver { to });
                let book = self.tracker.replica();
                self.send(to, Message::Book(book));
            }
            election::Output::Versions { roster, catalogue } => {
                self.roster.handle_input(now, roster::Input::Version(roster));
                if let Some(epoch) = self.election.epoch() {
                    self.catalogue.handle_input(now, catalogue::Input::Beat { epoch, version: catalogue });
                }
            }
        }
    }

    fn rule(&mut self, now: Time) {
        let Some(epoch) = self.election.epoch() else { return };
        self.outputs.push_back(Output::HostName(true));
        self.roster.handle_input(now, roster::Input::Leading { epoch });
        self.catalogue.handle_input(now, catalogue::Input::BecameMaster(epoch));
        self.tracker.handle_input(now, tracker::Input::BecameMaster);
        let records: Vec<InfoHash> = self.catalogue.records().map(|r| r.info_hash).collect();
        for info_hash in records {
            self.track(now, info_hash);
        }
        self.tell_versions(now);
        self.tell_all_swarms(now, &swarm::Input::NewTracker);
        for waiting in &mut self.passed_on {
            waiting.until = waiting.until.min(now + NODES_FIRST);
        }
    }

    fn follow(&mut self, now: Time, epoch: Epoch) {
        self.tracker.handle_input(now, tracker::Input::LostMastership);
        self.roster.handle_input(now, roster::Input::Following { epoch });
        self.catalogue.handle_input(now, catalogue::Input::Following(epoch));
        self.tell_all_swarms(now, &swarm::Input::NewTracker);
        self.pass_on_again(epoch.node);
    }

    pub(super) fn do_for_discovery(&mut self, now: Time, output: discovery::Output) {
        self.outputs.push_back(match output {
            discovery::Output::Dial { node, addr } => Output::Dial { node, addr },
            discovery::Output::Hangup(node) => Output::Hangup(node),
            discovery::Output::Browse(on) => Output::Browse(on),
            discovery::Output::Advertise(on) => Output::Advertise(on),
            discovery::Output::Gone(node) => {
                self.roster.handle_input(now, roster::Input::Gone(node));
                return self.election.handle_input(now, election::Input::Gone(node));
            }
        });
    }

    pub(super) fn do_for_roster(&mut self, now: Time, output: roster::Output) {
        match output {
            roster::Output::Send { to, message } => self.send(to, message),
            roster::Output::Members(members) => {
                let addr = |(node, _): &(NodeId, _)| Some((*node, self.roster.control_addr(node)?));
                let addrs = members.iter().filter_map(addr).collect();
                self.discovery.handle_input(now, discovery::Input::Members(addrs));
                self.election.handle_input(now, election::Input::Members(members));
            }
            roster::Output::Succession(list) => {
                self.discovery.handle_input(now, discovery::Input::Succession(list.clone()));
                self.election.handle_input(now, election::Input::Succession(list));
            }
            roster::Output::Version(_) => self.tell_versions(now),
            roster::Output::MemberUp(node) => {
                let name = self.name_of(&node);
                self.track_holder(now, node);
                self.board.handle_input(now, board::Input::Came);
                self.event(Event::MemberUp { node, name });
            }
            roster::Output::MemberDown(node) => {
                let name = self.name_of(&node);
                self.tracker.handle_input(now, tracker::Input::NodeGone(node));
                self.catalogue.handle_input(now, catalogue::Input::NodeGone(node));
                self.board.handle_input(now, board::Input::Gone(node));
                self.event(Event::MemberDown { node, name });
            }
            roster::Output::MasterAt { node, addr } => {
                self.discovery.handle_input(now, discovery::Input::Beat { node, addr });
            }
            roster::Output::MemberForgotten(node) => {
                self.catalogue.handle_input(now, catalogue::Input::NodeForgotten(node));
            }
            roster::Output::Incompatible { node, theirs } => {
                self.event(Event::Incompatible { node, theirs, ours: PROTOCOL_VERSION });
            }
        }
    }

    pub(super) fn do_for_catalogue(&mut self, now: Time, output: catalogue::Output) {
        match output {
            catalogue::Output::Send { to, message } => self.send(to, message),
            catalogue::Output::Changed { added, removed } => {
                for info_hash in removed {
                    self.tracker.handle_input(now, tracker::Input::Untracked(info_hash));
                }
                for info_hash in added {
                    self.track(now, info_hash);
                }
                self.retry_early(now, true);
            }
            catalogue::Output::Holds { node, info_hash } => self.track_copy(now, node, info_hash),
            catalogue::Output::Dropped { node, info_hash } => {
                self.tracker.handle_input(now, tracker::Input::NodeDropped { node, info_hash });
            }
        }
        self.tell_versions(now);
    }

    /// What this node's heartbeats say if it is master.
    fn tell_versions(&mut self, now: Time) {
        let (roster, catalogue) = (self.roster.version(), self.catalogue.version());
        if self.is_ruling() {
            self.election.handle_input(now, election::Input::Versions { roster, catalogue });
        }
    }

    /// The tracker is told of an image and of everybody present who could be woken for it.
    fn track(&mut self, now: Time, info_hash: InfoHash) {
        let Some(record) = self.catalogue.record(&info_hash) else { return };
        let (downloaded, holders) = (record.downloaded, record.holders.clone());
        self.tracker.handle_input(now, tracker::Input::Tracked { info_hash, downloaded });
        for node in holders {
            self.track_copy(now, node, info_hash);
        }
    }

    /// A node is back: its copies may be woken.
    fn track_holder(&mut self, now: Time, node: NodeId) {
        let held: Vec<InfoHash> =
            self.catalogue.records().filter(|r| r.holders.contains(&node)).map(|r| r.info_hash).collect();
        for info_hash in held {
            self.track_copy(now, node, info_hash);
        }
    }

    fn track_copy(&mut self, now: Time, node: NodeId, info_hash: InfoHash) {
        let live = node == self.config.id || self.roster.member(&node).is_some_and(|e| e.live);
        if let Some(holder) = self.contact(&node).filter(|_| live) {
            self.tracker.handle_input(now, tracker::Input::NodeHolds { holder, info_hash });
        }
    }

    pub(super) fn tell_state(&mut self, image: usize, state: TransferState, detail: Option<String>) {
        let Some(swarm) = &self.swarms[image] else { return };
        let event = Event::Transfer { name: swarm.name().to_owned(), info_hash: swarm.info_hash(), state, detail };
        self.event(event);
    }

    pub(super) fn do_for_torrents(&mut self, now: Time, output: torrents::Output) {
        match output {
            torrents::Output::Ask { to, info_hash } if self.discovery.is_connected(&to) => {
                self.send(to, Message::TorrentWanted(info_hash));
            }
            torrents::Output::Ask { to, .. } => {
                let addr = self.roster.control_addr(&to);
                self.outputs.extend(addr.map(|addr| Output::Dial { node: Some(to), addr }));
            }
            torrents::Output::Got(metainfo) => self.torrent_came(now, metainfo.info_hash(), Some(&metainfo)),
            torrents::Output::Failed(info_hash) => self.torrent_came(now, info_hash, None),
        }
    }

    pub(super) fn do_for_board(&mut self, output: board::Output) {
        match output {
            board::Output::Mine(reports) => self.send_to_master(Message::Progress(reports)),
            board::Output::All(board) => {
                let live = self.roster.entries().filter(|e| e.live && e.member.id != self.config.id);
                for to in live.map(|e| e.member.id).collect::<Vec<_>>() {
                    self.send(to, Message::Board(board.clone()));
                }
            }
        }
    }

    // ---- the tracker

    /// A swarm of this node announces: to the tracker here, or to the master's, and to the trackers of others that its
    /// torrent names. Without a master it waits for one. Clients of this LAN are told in any case.
    pub(super) fn announce(&mut self, now: Time, image: usize, announce: NodeAnnounce) {
        let settled = self.is_ruling() || self.master().is_some();
        let public = self.swarms[image].as_ref().is_some_and(|swarm| !swarm.metainfo().private());
        if public {
            let NodeAnnounce { info_hash, left, leaving, .. } = announce;
            let active = lsd::Input::Active { info_hash, fetching: left > 0 };
            self.lsd.handle_input(now, if leaving { lsd::Input::Left(info_hash) } else { active });
        }
        if let Some(metainfo) = self.swarms[image].as_ref().map(Swarm::metainfo)
            && !metainfo.announce().is_empty()
            && (settled || announce.leaving)
        {
            let metainfo = Arc::clone(metainfo);
            self.announcer.handle_input(now, announcer::Input::Swarm { announce, metainfo });
        }
        if self.is_ruling() {
            self.node_announces(now, self.config.id, announce);
        } else {
            self.send_to_master(Message::Announce(announce));
        }
    }

    pub(super) fn do_for_announcer(&mut self, now: Time, output: announcer::Output) {
        match output {
            announcer::Output::Ask { id, tracker, .. } if self.is_of_mesh(&tracker) => {
                self.announcer.handle_input(now, announcer::Input::Ours(id));
            }
            announcer::Output::Ask { id, tracker, request } => {
                self.outputs.push_back(Output::AskTracker { id, tracker, request });
            }
            announcer::Output::Done(id) => self.outputs.push_back(Output::TrackerDone(id)),
            announcer::Output::Peers { info_hash, mut peers } => {
                // A tracker elsewhere has no business with what listens on this machine.
                let on_loopback = self.config.addr.is_some_and(|ip| ip.is_loopback());
                peers.retain(|peer| on_loopback || !peer.ip().is_loopback());
                if let Some(image) = self.image_of(&info_hash) {
                    self.tell_swarm(now, image, swarm::Input::Strangers(peers));
                }
            }
        }
    }

    pub(super) fn do_for_lsd(&mut self, now: Time, output: lsd::Output) {
        match output {
            lsd::Output::Announce(announce) => self.outputs.push_back(Output::AnnounceLocally(announce)),
            lsd::Output::Peer { info_hash, addr } => {
                if let Some(image) = self.image_of(&info_hash) {
                    self.tell_swarm(now, image, swarm::Input::Stranger(addr));
                }
            }
        }
    }

    /// Whether a node of this mesh answers there.
    fn is_of_mesh(&self, tracker: &TrackerUrl) -> bool {
        let Ok(ip) = tracker.host.parse::<IpAddr>() else { return false };
        let own = self.config.addr == Some(ip) && self.config.http_port == tracker.port;
        let is_there = |entry: &RosterEntry| {
            let addr = entry.member.addr.or_else(|| self.roster.address(&entry.member.id));
            addr == Some(ip) && entry.member.http_port == tracker.port
        };
        own || self.roster.entries().any(is_there)
    }

    fn node_announces(&mut self, now: Time, from: NodeId, announce: NodeAnnounce) {
        if let Some(from) = self.contact(&from) {
            self.tracker.handle_input(now, tracker::Input::NodeAnnounce { from, announce });
        }
    }

    fn contact(&self, node: &NodeId) -> Option<tracker::Contact> {
        let member = &self.roster.member(node)?.member;
        // Who does not know its own address says so by `0.0.0.0`; the receiver knows where the message came from.
        let ip = member.addr.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let addr = SocketAddr::new(ip, member.peer_port);
        Some(tracker::Contact { node: *node, addr, site: Site::named(&member.site), weight: member.weight })
    }

    pub(super) fn do_for_tracker(&mut self, now: Time, output: tracker::Output) {
        let me = self.config.id;
        match output {
            tracker::Output::Announced { id, result } => self.outputs.push_back(Output::Announced { id, result }),
            tracker::Output::Neighbours { to, neighbours } if to == me => self.hear_neighbours(now, me, neighbours),
            tracker::Output::Neighbours { to, neighbours } => self.send(to, Message::Neighbours(neighbours)),
            tracker::Output::ForeignAnnounced { to, id, answer } => {
                self.send(to, Message::ForeignAnnounced { id, answer });
            }
            tracker::Output::Wake { node, info_hash } if node == me => self.wake(now, info_hash),
            tracker::Output::Wake { node, info_hash } => self.send(node, Message::Wake(info_hash)),
            tracker::Output::Completed { info_hash, downloaded } => {
                self.catalogue.handle_input(now, catalogue::Input::Completed { info_hash, downloaded });
                self.tell_versions(now);
            }
            tracker::Output::Probe { info_hash, addr } => self.outputs.push_back(Output::Probe { info_hash, addr }),
            tracker::Output::Replicate => {
                let deputies: Vec<NodeId> = self.roster.succession().iter().copied().filter(|to| *to != me).collect();
                if !deputies.is_empty() {
                    let book = self.tracker.replica();
                    deputies.into_iter().for_each(|to| self.send(to, Message::Book(book.clone())));
                }
            }
            tracker::Output::Save(kept) => self.outputs.push_back(Output::SaveBook(kept)),
        }
    }

    /// A person names a torrent of an open tracker: here, and at the master, which tells the deputies.
    pub(super) fn register(&mut self, now: Time, name: RegisteredName) -> Result<Reply, Refusal> {
        self.tracker.may_register().map_err(|reason| match reason {
            tracker::NotRegistered::Closed => Refusal::ClosedTracker,
            tracker::NotRegistered::Full(n) => Refusal::TooManyNames(n),
        })?;
        let book = BookReplica { peers: Vec::new(), downloaded: Vec::new(), names: vec![name.clone()] };
        self.tracker.handle_input(now, tracker::Input::Register(name));
        self.send_to_master(Message::Book(book));
        Ok(Reply::Done)
    }

    fn hear_neighbours(&mut self, now: Time, from: NodeId, answer: Neighbours) {
        let answer = located(answer, self.roster.member(&from).and_then(|e| e.member.addr));
        if let Some(image) = self.image_of(&answer.info_hash) {
            self.tell_swarm(now, image, swarm::Input::Neighbours(answer));
        }
    }

    fn wake(&mut self, now: Time, info_hash: InfoHash) {
        if let Some(image) = self.image_of(&info_hash) {
            self.tell_swarm(now, image, swarm::Input::Wake);
        }
    }

    /// A client announced here: the master answers, through this node if it is another; if there is none, the next.
    fn client_announces(&mut self, now: Time, id: RequestId, announce: Announce) {
        if self.is_ruling() || self.passed_on.len() >= PASSED_ON_MAX {
            return self.tracker.handle_input(now, tracker::Input::Announce { id, announce });
        }
        if let Some(master) = self.master() {
            self.send(master, tracker::foreign::pass_on(id.0, &announce, &self.config.tracker));
        }
        self.passed_on.push_back(PassedOn { id, until: now + PASSED_ON, announce });
    }

    /// The clients that wait are for this master now.
    fn pass_on_again(&mut self, master: NodeId) {
        let pass_on = |p: &PassedOn| tracker::foreign::pass_on(p.id.0, &p.announce, &self.config.tracker);
        let messages: Vec<Message> = self.passed_on.iter().map(pass_on).collect();
        messages.into_iter().for_each(|message| self.send(master, message));
    }

    fn client_answered(&mut self, id: RequestId, answer: Result<ForeignAnswer, ForeignRefused>) {
        let Some(waiting) = self.passed_on.iter().position(|p| p.id == id) else { return };
        self.passed_on.remove(waiting);
        let master = self.master().and_then(|m| self.roster.member(&m)).and_then(|e| e.member.addr);
        let answer = answer.map(|mut answer| {
            answer.peers.retain_mut(|(addr, _)| locate(addr, master));
            answer
        });
        let result = tracker::foreign::passed_back(answer, &self.config.tracker);
        self.outputs.push_back(Output::Announced { id, result });
    }

    pub(super) fn passed_on_timeout(&self) -> Option<(Time, &'static str)> {
        self.passed_on.front().map(|p| (p.until, "client waits for the master"))
    }

    /// The master did not answer in time: the client gets what this node knows.
    pub(super) fn answer_overdue(&mut self, now: Time) {
        while self.passed_on.front().is_some_and(|p| p.until <= now) {
            let Some(PassedOn { id, announce, .. }) = self.passed_on.pop_front() else { return };
            self.tracker.handle_input(now, tracker::Input::Announce { id, announce });
        }
    }
}

fn located(mut answer: Neighbours, master: Option<IpAddr>) -> Neighbours {
    answer.neighbours.retain_mut(|neighbour| locate(&mut neighbour.addr, master));
    answer
}

/// A master that does not know its own address says `0.0.0.0` for itself; whom it told knows better. Whether somebody can
/// be dialled there.
fn locate(addr: &mut SocketAddr, master: Option<IpAddr>) -> bool {
    if let (true, Some(ip)) = (addr.ip().is_unspecified(), master) {
        addr.set_ip(ip);
    }
    !addr.ip().is_unspecified() && addr.port() != 0
}
