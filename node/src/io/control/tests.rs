//! The control plane over real sockets on loopback.

use std::net::{Ipv4Addr, TcpListener};

use labmesh_proto::id::{Epoch, InfoHash};
use labmesh_proto::wire::control::{Beat, Signature};
use tempfile::{TempDir, tempdir};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

type Call = Box<dyn FnOnce(&mut Control) + Send>;

/// A node whose control plane runs as a task, as the driver would run it.
struct Node {
    id: NodeId,
    addr: SocketAddr,
    calls: mpsc::UnboundedSender<Call>,
    happened: mpsc::UnboundedReceiver<Input>,
    task: JoinHandle<()>,
    _state: TempDir,
}

fn identity() -> (Arc<Identity>, TempDir) {
    let state = tempdir().unwrap();
    (Arc::new(Identity::load_or_create(state.path()).unwrap()), state)
}

fn start(ip: [u8; 4], mesh: &MeshKey, limit: usize) -> Node {
    let (identity, state) = identity();
    let id = identity.node_id();
    let mut control = Control::start_with_limit((ip, 0).into(), identity, mesh.clone(), limit).unwrap();
    let addr = control.local_addr();
    let (calls, mut inbox) = mpsc::unbounded_channel::<Call>();
    let (outbox, happened) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                call = inbox.recv() => match call {
                    Some(call) => call(&mut control),
                    None => return,
                },
                input = control.next() => {
                    let _ = outbox.send(input);
                }
            }
        }
    });
    Node { id, addr, calls, happened, task, _state: state }
}

fn nodes(count: u8, mesh: &MeshKey) -> Vec<Node> {
    (1..=count).map(|n| start([127, 0, 0, n], mesh, CONTROL_BYTES_MAX)).collect()
}

impl Node {
    fn call(&self, call: impl FnOnce(&mut Control) + Send + 'static) {
        self.calls.send(Box::new(call)).unwrap_or_else(|_| panic!("the node has ended"));
    }

    fn dial(&self, other: &Self) {
        let (node, addr) = (Some(other.id), other.addr);
        self.call(move |control| control.dial(node, addr));
    }

    async fn next(&mut self) -> Input {
        timeout(PATIENCE, self.happened.recv()).await.expect("nothing happens").expect("the node has ended")
    }

    /// What the calls in flight look like to the node itself.
    async fn in_flight(&self) -> (usize, usize) {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.call(move |control| answer.send((control.in_flight.len(), control.in_flight_bytes)).unwrap());
        timeout(PATIENCE, answered).await.unwrap().unwrap()
    }

    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn connect(a: &mut Node, b: &mut Node) {
    a.dial(b);
    assert_eq!(a.next().await, Input::ControlUp { node: b.id, addr: b.addr.ip() });
    assert_eq!(b.next().await, Input::ControlUp { node: a.id, addr: a.addr.ip() });
}

fn said(from: NodeId, message: Message) -> Input {
    Input::Control { from, message: Box::new(message) }
}

fn beat(node: NodeId) -> Beat {
    Beat {
        epoch: Epoch { term: 3, node },
        seq: 1,
        members: 2,
        solo: false,
        control_port: 6970,
        roster: 0,
        catalogue: 0,
        signature: Signature::default(),
    }
}

#[tokio::test]
async fn messages_flow_both_ways_small_and_large() {
    let mut pair = nodes(2, &MeshKey::new("lab", Some("key".as_bytes())));
    let [a, b] = &mut pair[..] else { unreachable!() };
    connect(a, b).await;
    let torrent = Message::Torrent { info_hash: InfoHash([1; 20]), bytes: vec![7; 9 << 20] };
    for message in [Message::RosterSince(7), torrent] {
        for (from, to) in [(&*a, 1), (&*b, 0)] {
            let (to_id, message) = ([a.id, b.id][to], message.clone());
            from.call(move |control| control.send(to_id, message));
        }
        assert_eq!(b.next().await, said(a.id, message.clone()));
        assert_eq!(a.next().await, said(b.id, message));
    }
}

#[tokio::test]
async fn dials_leave_from_the_address_that_the_node_is_bound_to() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    // `connect` compares the addresses; 127.0.0.2 to 127.0.0.1 would otherwise come from 127.0.0.1.
    connect(b, a).await;
}

#[tokio::test]
async fn gossip_reaches_everybody_along_a_chain() {
    let mesh = MeshKey::new("lab", None);
    let mut chain = nodes(5, &mesh);
    for n in 1..chain.len() {
        let (left, right) = chain.split_at_mut(n);
        connect(&mut left[n - 1], &mut right[0]).await;
    }
    let first = chain[0].id;
    let mut waiting: Vec<_> = (1..chain.len()).collect();
    let deadline = Instant::now() + PATIENCE;
    // Subscriptions travel after the connection stands; until then gossip has nobody to go to.
    while !waiting.is_empty() {
        assert!(Instant::now() < deadline, "{waiting:?} heard nothing");
        chain[0].call(move |control| control.gossip(Message::Beat(beat(first))));
        tokio::task::yield_now().await;
        let mut deaf = Vec::new();
        for n in waiting {
            match timeout(Duration::from_millis(200), chain[n].happened.recv()).await {
                Ok(Some(Input::Control { from, mut message })) => {
                    assert_eq!(from, first, "the author, not the neighbour that passed it on");
                    assert!(mesh.verify_message(&mut message), "our own beat is signed on the way out");
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => deaf.push(n),
            }
        }
        waiting = deaf;
    }
}

#[tokio::test]
async fn other_meshes_and_wrong_keys_do_not_get_in() {
    let lab = |key| MeshKey::new("lab", key);
    for (ours, theirs) in [
        (lab(Some("a".as_bytes())), lab(Some("b".as_bytes()))),
        (lab(Some("a".as_bytes())), lab(None)),
        (lab(None), MeshKey::new("lab2", None)),
    ] {
        let mut a = start([127, 0, 0, 1], &ours, CONTROL_BYTES_MAX);
        let mut b = start([127, 0, 0, 2], &theirs, CONTROL_BYTES_MAX);
        a.dial(&b);
        let failed = Input::ControlUnreachable { node: Some(b.id), addr: b.addr, refused: false };
        assert_eq!(a.next().await, failed);
        assert!(b.happened.try_recv().is_err());
    }
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_does_not_count_as_said() {
    let mesh = MeshKey::new("lab", None);
    let mut a = start([127, 0, 0, 1], &mesh, CONTROL_BYTES_MAX);
    let mut b = start([127, 0, 0, 2], &mesh, 1000);
    connect(&mut a, &mut b).await;
    let to = b.id;
    let (told, mut telling) = mpsc::unbounded_channel();
    // Looks at the swarm's own words, which `next` turns into a line in the log.
    a.call(move |control| {
        let bytes: Arc<[u8]> = Message::Torrent { info_hash: InfoHash([1; 20]), bytes: vec![7; 2000] }.encode().into();
        let peer = identity::peer_id(to).unwrap();
        let id = control.swarm.behaviour_mut().messages.send_request(&peer, bytes);
        control.in_flight.insert(id, (to, 2000));
        control.in_flight_bytes += 2000;
        told.send(id).unwrap();
    });
    timeout(PATIENCE, telling.recv()).await.unwrap().unwrap();
    a.call(move |control| control.send(to, Message::HoldingsWanted));
    assert_eq!(b.next().await, said(a.id, Message::HoldingsWanted));
    let deadline = Instant::now() + PATIENCE;
    while a.in_flight().await != (0, 0) {
        assert!(Instant::now() < deadline, "the sender was never told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(b.happened.try_recv().is_err());
}

#[tokio::test]
async fn forged_heartbeats_are_refused_wherever_they_hide() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    connect(a, b).await;
    let (to, forged) = (b.id, beat(NodeId([5; 32])));
    for message in
        [Message::Beat(forged), Message::Answer(Some(forged)), Message::Welcome { beat: Some(forged), master: None }]
    {
        a.call(move |control| control.send(to, message));
    }
    a.call(move |control| control.send(to, Message::HoldingsWanted));
    assert_eq!(b.next().await, said(a.id, Message::HoldingsWanted));
    assert!(b.happened.try_recv().is_err());
}

#[tokio::test]
async fn a_second_listener_on_the_port_is_refused() {
    let mesh = MeshKey::new("lab", None);
    let first = start([127, 0, 0, 1], &mesh, CONTROL_BYTES_MAX);
    let other_program = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for addr in [first.addr, other_program.local_addr().unwrap()] {
        let (identity, _state) = identity();
        let Err(error) = Control::start(addr, identity, mesh.clone()) else { panic!("{addr} was shared") };
        let expected = format!(
            "port {} is taken (by another program or another labmesh); choose another with --control-port",
            addr.port()
        );
        assert_eq!(error.to_string(), expected);
    }
    let (identity, _state) = identity();
    let Err(error) = Control::start(([192, 0, 2, 1], 0).into(), identity, mesh) else { panic!("not our address") };
    assert!(error.to_string().contains("--bind"), "{error}");
}

#[tokio::test]
async fn a_killed_node_is_seen_at_once_and_its_port_refuses() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let mut b = pair.pop().unwrap();
    let mut a = pair.pop().unwrap();
    connect(&mut a, &mut b).await;
    let (node, addr) = (b.id, b.addr);
    b.kill().await;
    let down = timeout(Duration::from_secs(1), a.next()).await.expect("not seen within a second");
    assert_eq!(down, Input::ControlDown { node });
    a.call(move |control| control.dial(Some(node), addr));
    assert_eq!(a.next().await, Input::ControlUnreachable { node: Some(node), addr, refused: true });
    a.call(move |control| control.dial(None, addr));
    assert_eq!(a.next().await, Input::ControlUnreachable { node: None, addr, refused: true });
}

#[tokio::test]
async fn a_hangup_is_answered_at_once_and_a_redial_is_a_new_connection() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    connect(a, b).await;
    let (node, addr) = (b.id, b.addr);
    a.call(move |control| {
        control.hangup(node);
        control.dial(Some(node), addr);
    });
    assert_eq!(a.next().await, Input::ControlDown { node });
    assert_eq!(a.next().await, Input::ControlUp { node, addr: addr.ip() });
    let to = b.id;
    // Whichever the other side sees first, the old end or the new beginning, it hears what is said now.
    let deadline = Instant::now() + PATIENCE;
    loop {
        a.call(move |control| control.send(to, Message::HoldingsWanted));
        if matches!(b.next().await, Input::Control { .. }) {
            break;
        }
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn two_that_dial_each_other_are_connected() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    a.dial(b);
    b.dial(a);
    assert_eq!(a.next().await, Input::ControlUp { node: b.id, addr: b.addr.ip() });
    assert_eq!(b.next().await, Input::ControlUp { node: a.id, addr: a.addr.ip() });
    let (to_a, to_b) = (a.id, b.id);
    a.call(move |control| control.send(to_b, Message::RosterSince(1)));
    b.call(move |control| control.send(to_a, Message::RosterSince(2)));
    for (node, from, message) in [(b, to_a, Message::RosterSince(1)), (a, to_b, Message::RosterSince(2))] {
        let heard = match node.next().await {
            // The answer to its own dial, if the other one was faster.
            Input::ControlUp { node: up, .. } if up == from => node.next().await,
            other => other,
        };
        assert_eq!(heard, said(from, message));
    }
}

#[tokio::test]
async fn a_second_dial_adds_no_connection() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    connect(a, b).await;
    let (to, addr) = (b.id, b.addr);
    a.call(move |control| {
        control.dial(None, addr);
        control.dial(Some(to), addr);
        assert!(control.dials.is_empty(), "it stands already");
        assert_eq!(control.happened.len(), 2, "and both dials are answered");
        control.links.get_mut(&to).unwrap().connections[0].addr = ([127, 0, 0, 99], 1).into();
        // Another address of the same machine, as far as we know.
        control.dial(Some(to), addr);
        control.send(to, Message::HoldingsWanted);
    });
    assert_eq!(b.next().await, said(a.id, Message::HoldingsWanted));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (answer, answered) = tokio::sync::oneshot::channel();
        a.call(move |control| {
            let counters = control.swarm.network_info().connection_counters().clone();
            answer.send((control.dials.len(), counters.num_established())).unwrap();
        });
        if timeout(PATIENCE, answered).await.unwrap().unwrap() == (0, 1) {
            break;
        }
        assert!(Instant::now() < deadline, "the second connection stays");
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        assert_eq!(a.next().await, Input::ControlUp { node: to, addr: addr.ip() });
    }
    assert!(a.happened.try_recv().is_err());
}

#[tokio::test]
async fn who_speaks_on_a_new_connection_has_lost_the_old_one() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    connect(a, b).await;
    let (to, addr) = (b.id, b.addr);
    // As if the end of the connection had been lost on its way: a forgets it, b does not hear of it.
    a.call(move |control| {
        control.links.clear();
        control.dial(Some(to), addr);
    });
    assert_eq!(a.next().await, Input::ControlUp { node: to, addr: addr.ip() });
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the old connection stays");
        a.call(move |control| control.send(to, Message::HoldingsWanted));
        let (answer, answered) = tokio::sync::oneshot::channel();
        b.call(move |control| {
            let counters = control.swarm.network_info().connection_counters().clone();
            answer.send(counters.num_established()).unwrap();
        });
        let open = timeout(PATIENCE, answered).await.unwrap().unwrap();
        if open == 1 && matches!(b.happened.try_recv(), Ok(Input::Control { .. })) {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dials_that_cannot_succeed_are_answered_too() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    let (own, own_addr, other_addr) = (a.id, a.addr, b.addr);
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 1));
    for (node, addr) in [
        (None, own_addr),
        (Some(own), own_addr),
        // Somebody else than was expected.
        (Some(own), other_addr),
        (None, nowhere),
        (Some(NodeId([2; 32])), other_addr),
    ] {
        a.call(move |control| control.dial(node, addr));
        assert_eq!(a.next().await, Input::ControlUnreachable { node, addr, refused: false });
    }
}

#[tokio::test]
async fn what_is_said_before_the_end_arrives() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let mut b = pair.pop().unwrap();
    let (identity, _state) = identity();
    let from = identity.node_id();
    let mut last = Control::start(([127, 0, 0, 3], 0).into(), identity, MeshKey::new("lab", None)).unwrap();
    last.dial(Some(b.id), b.addr);
    let up = timeout(PATIENCE, last.next()).await.unwrap();
    assert_eq!(up, Input::ControlUp { node: b.id, addr: b.addr.ip() });
    let epoch = Epoch { term: 1, node: from };
    last.send(b.id, Message::Goodbye { epoch, successor: None });
    last.flush(PATIENCE).await;
    drop(last);
    assert!(matches!(b.next().await, Input::ControlUp { .. }));
    assert_eq!(b.next().await, said(from, Message::Goodbye { epoch, successor: None }));
    assert_eq!(b.next().await, Input::ControlDown { node: from });
}

/// As many silent connections as may be under way, and then one that speaks.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    let mut silent = Vec::new();
    for _ in 0..GREETERS_MAX {
        silent.push(tokio::net::TcpStream::connect(b.addr).await.unwrap());
    }
    connect(a, b).await;
    let mut end = [0];
    // Closed while it had something to say, or not: it is the end.
    let read = timeout(PATIENCE, silent[0].read(&mut end)).await.expect("the one that came first made room");
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    let (of, to) = (a.id, b.id);
    a.call(move |control| control.send(to, Message::HoldingsWanted));
    assert_eq!(b.next().await, said(of, Message::HoldingsWanted));
}

#[tokio::test]
async fn a_node_that_does_not_read_is_not_buried() {
    let mut pair = nodes(2, &MeshKey::new("lab", None));
    let [a, b] = &mut pair[..] else { unreachable!() };
    connect(a, b).await;
    let to = b.id;
    let (answer, answered) = tokio::sync::oneshot::channel();
    a.call(move |control| {
        for n in 0..2 * IN_FLIGHT_PER_NODE as u64 {
            control.send(to, Message::RosterSince(n));
        }
        answer.send(control.in_flight.len()).unwrap();
    });
    assert_eq!(timeout(PATIENCE, answered).await.unwrap().unwrap(), IN_FLIGHT_PER_NODE);
    for _ in 0..IN_FLIGHT_PER_NODE {
        assert!(matches!(b.next().await, Input::Control { .. }));
    }
}
