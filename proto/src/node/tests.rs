//! A whole node alone: what its parts do together.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::bitfield::Bitfield;
use crate::config::{Config, HUGE_BLOCK_BYTES, Mode, RateLimit, RateLimits, TrackerConfig, Weight};
use crate::id::{Epoch, InfoHash, NodeId, RequestId, Time};
use crate::io::{Command, Event, Input, Output, Refusal, Reply};
use crate::node::status::Role;
use crate::testing::metainfo;
use crate::wire::control::{Beat, Message, Signature};
use crate::wire::http_tracker::{Announce, Announced};

const ME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// A node on whose disk everything works at once, and its clock.
struct Desk {
    node: Node,
    now: Time,
    answers: Vec<(Time, Result<Announced, &'static str>)>,
}

impl Desk {
    fn new() -> Self {
        let now = Time(1_000_000_000);
        let config = Config {
            id: NodeId([7; 32]),
            name: "pc01".to_owned(),
            weight: Weight::DEFAULT,
            site: String::new(),
            keyed: false,
            mode: Mode::Peer,
            seed_time: None,
            addr: Some(ME),
            control_port: 6970,
            peer_port: 6881,
            http_port: 6969,
            tracker: TrackerConfig::default(),
            mesh_host: "labmesh.local".to_owned(),
            local_discovery: None,
            peer_exchange: false,
            prefer: false,
            transient: false,
            piece_buffer_bytes: 1 << 20,
            block_bytes: HUGE_BLOCK_BYTES,
            seed: 1,
        };
        let on_disk = Epoch { term: 0, node: config.id };
        let mut desk = Self { node: Node::new(now, config, on_disk), now, answers: Vec::new() };
        desk.carry_out();
        desk
    }

    fn input(&mut self, input: Input) {
        self.node.handle_input(self.now, input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.poll_output() {
            let answer = match output {
                Output::Persist { epoch } => Input::Persisted { epoch },
                Output::Open { image, metainfo, .. } => {
                    Input::Opened { image, result: Ok(Bitfield::full(metainfo.geometry().pieces())) }
                }
                Output::Announced { result, .. } => {
                    self.answers.push((self.now, result));
                    continue;
                }
                _ => continue,
            };
            self.node.handle_input(self.now, answer);
        }
    }

    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = at;
            self.node.handle_timeout(at);
            self.carry_out();
        }
        self.now = end;
    }

    fn announce(&mut self, info_hash: InfoHash) {
        let escaped: String = info_hash.to_string().as_bytes().chunks(2).fold(String::new(), |text, digits| {
            text + "%" + std::str::from_utf8(digits).expect("hexadecimal digits are ASCII")
        });
        let query = format!("info_hash={escaped}&peer_id=-XX0001-012345678901&port=51413&left=1000&compact=1");
        let announce = Announce::parse(&query, STRANGER).expect("a good announce");
        self.input(Input::Announce { id: RequestId(5), announce });
    }
}

/// In one of seven starts in a busy room the master's beacon came before there was a connection to it; the image was
/// asked for a second later (measured).
#[test]
fn a_node_that_hears_a_beacon_first_has_the_catalogue_once_it_is_connected() {
    let mut desk = Desk::new();
    let master = NodeId([9; 32]);
    let beat = Beat {
        epoch: Epoch { term: 3, node: master },
        seq: 1,
        members: 2,
        solo: false,
        control_port: 6970,
        roster: 0,
        catalogue: 0,
        signature: Signature::default(),
    };
    desk.input(Input::Beat { from: (STRANGER, 6970).into(), beat: Box::new(beat) });
    assert_eq!(desk.node.role(), Role::Follower);
    desk.node.handle_input(desk.now, Input::ControlUp { node: master, addr: STRANGER });
    let said = std::iter::from_fn(|| desk.node.poll_output());
    let to_master = said.filter_map(|output| match output {
        Output::Send { to, message } if to == master => Some(*message),
        _ => None,
    });
    assert_eq!(to_master.filter(|message| *message == Message::CatalogueSince(0)).count(), 1);
}

/// A client that announces in the first moments of a node would get an empty list, and come back after its interval:
/// half a minute with most, ten with rTorrent.
#[test]
fn a_client_that_announces_before_there_is_a_master_waits_for_it_and_gets_peers() {
    let mut desk = Desk::new();
    let metainfo = metainfo(1_000_000, 262_144);
    let hash = metainfo.info_hash();
    desk.input(Input::CacheHas { name: "a.img".to_owned(), metainfo, stopped: false });
    let begin = desk.now;
    desk.announce(hash);
    assert!(desk.answers.is_empty(), "nobody knows yet who is in the swarm");
    desk.advance(Duration::from_secs(3));
    let [(at, Ok(announced))] = &desk.answers[..] else { panic!("one answer: {:?}", desk.answers) };
    assert!(*at <= begin + Duration::from_millis(1500), "{at:?}");
    assert_eq!(announced.peers.iter().map(|p| p.addr).collect::<Vec<_>>(), [(ME, 6881).into()]);
}

#[test]
fn a_command_changes_the_limits_that_it_names_and_says_all() {
    let mut desk = Desk::new();
    let limit = |n| RateLimit::try_from(n).unwrap();
    let told = RateLimits { upload: limit(1_000_000), download: limit(2_000_000) };
    let mut said = |input| {
        desk.node.handle_input(desk.now, input);
        let outputs = std::iter::from_fn(|| desk.node.poll_output());
        outputs.filter(|o| matches!(o, Output::Reply { .. } | Output::Event(_))).collect::<Vec<_>>()
    };
    assert_eq!(said(Input::Limits(told)), [Output::Event(Event::Limits(told))]);
    assert_eq!(said(Input::Limits(told)), [], "nothing new");
    let id = RequestId(3);
    let ask = |upload, download| Input::Command { id, command: Command::Limit { upload, download } };
    let reply = |limits| Output::Reply { id, reply: Reply::Limits(limits) };
    assert_eq!(said(ask(None, None)), [reply(told)]);
    let changed = RateLimits { download: RateLimit::NONE, ..told };
    assert_eq!(said(ask(None, Some(RateLimit::NONE))), [Output::Event(Event::Limits(changed)), reply(changed)]);
}

/// `rm` used to answer before the files were gone, and a `get` right after it lost what it had begun.
#[test]
fn an_image_is_served_until_its_files_are_gone_and_can_then_be_wanted_again() {
    let mut desk = Desk::new();
    let metainfo = metainfo(1_000_000, 262_144);
    desk.input(Input::CacheHas { name: "a.img".to_owned(), metainfo: Arc::clone(&metainfo), stopped: false });
    let here = |desk: &Desk| desk.node.image_of(&metainfo.info_hash()).is_some();
    let said = |desk: &mut Desk, input| {
        desk.node.handle_input(desk.now, input);
        let outputs = std::iter::from_fn(|| desk.node.poll_output());
        outputs.filter(|o| matches!(o, Output::Reply { .. } | Output::Delete { .. })).collect::<Vec<_>>()
    };
    let remove = |id| Input::Command { id: RequestId(id), command: Command::Remove("a.img".to_owned()) };
    let refused = |id, refusal| Output::Reply { id: RequestId(id), reply: Reply::Refused(refusal) };
    let delete = |id| Output::Delete { id: RequestId(id), name: "a.img".to_owned() };
    assert_eq!(said(&mut desk, remove(1)), [delete(1)]);
    assert_eq!(said(&mut desk, remove(2)), [refused(2, Refusal::BeingDeleted("a.img".to_owned()))]);
    assert!(here(&desk));

    let locked = Input::Deleted { id: RequestId(1), result: Err("it is locked".to_owned()) };
    let not_deleted = Refusal::NotDeleted { name: "a.img".to_owned(), reason: "it is locked".to_owned() };
    assert_eq!(said(&mut desk, locked), [refused(1, not_deleted)]);
    assert!(here(&desk));

    assert_eq!(said(&mut desk, remove(3)), [delete(3)]);
    let done = Output::Reply { id: RequestId(3), reply: Reply::Done };
    assert_eq!(said(&mut desk, Input::Deleted { id: RequestId(3), result: Ok(()) }), [done]);
    assert!(!here(&desk));
    let get = Command::GetTorrent { metainfo: Arc::clone(&metainfo), mode: None, seed_time: None, replace: false };
    let started = Output::Reply { id: RequestId(4), reply: Reply::Started(metainfo.info_hash()) };
    assert_eq!(said(&mut desk, Input::Command { id: RequestId(4), command: get }), [started]);
    assert!(here(&desk));
}
