//! Cables and peer connections: blocks take turns at the sender's and at the receiver's link.
//!
//! Model: each machine has an up and a down server of so many bytes a second. A server gives each connection with a
//! block at its front one block in turn (round robin with a window tends to max-min fair shares: Hahne 1991).
//! Between the two lies the latency. Messages without payload cost no time of a server but keep their place in the
//! stream. A connection has a window of bytes under way at most, as TCP has.
//!
//! Not here: packets, slow start, loss of stream data; who may reach whom ([`crate::faults`]).

use std::collections::VecDeque;
use std::time::Duration;

use labmesh_proto::id::{Block, ConnId, ImageIndex, Time};
use labmesh_proto::wire::peer::{Handshake, Message};

/// Headers of Ethernet, IP and TCP: 78 of 1526 bytes on the wire carry no payload.
const WIRE_PER_PAYLOAD: (u64, u64) = (1538, 1448);

/// One thing in a stream.
#[derive(Clone, Debug)]
pub enum Item {
    /// The answer to a handshake.
    Accept(Handshake),
    /// A message without payload.
    Message(Message),
    /// A block; its image is the sender's.
    Block(Block),
    /// The stream ends here.
    End,
}

impl Item {
    /// Payload bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Block(block) => u64::from(block.len),
            Self::Accept(_) | Self::Message(_) | Self::End => 0,
        }
    }
}

/// A connection as seen from one of its ends; `side` is 0 for the one that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Index of the connection.
    pub conn: usize,
    /// 0 or 1.
    pub side: usize,
}

impl End {
    /// The other end.
    pub fn other(self) -> Self {
        Self { conn: self.conn, side: 1 - self.side }
    }
}

/// One end's own state.
#[derive(Debug)]
pub struct Half {
    /// Which machine.
    pub machine: usize,
    /// Which life of that machine; a later one knows nothing of the connection.
    pub life: u32,
    /// What it calls the connection; `None` before `PeerUp` and once it has ended.
    pub slot: Option<ConnId>,
    /// The image it was accepted for.
    pub image: Option<ImageIndex>,
    out: VecDeque<Item>,
    arrived: VecDeque<Item>,
    under_way: u64,
    in_up_turn: bool,
    in_down_turn: bool,
    /// It was ended from here, or the end has come.
    pub ended: bool,
    /// Held back by a partition.
    pub held: VecDeque<Item>,
}

/// A peer connection.
#[derive(Debug)]
pub struct Connection {
    /// The two ends.
    pub halves: [Half; 2],
    /// The image it was dialled for.
    pub dialled_for: ImageIndex,
}

#[derive(Debug)]
struct Server {
    bytes_per_second: u64,
    turn: VecDeque<End>,
    serving: Option<(End, Item)>,
}

impl Server {
    fn duration(&self, bytes: u64) -> Duration {
        wire_time(bytes, self.bytes_per_second)
    }
}

/// How long so many payload bytes and their headers take on a cable of so many bytes a second.
pub fn wire_time(bytes: u64, bytes_per_second: u64) -> Duration {
    let wire = u128::from(bytes) * u128::from(WIRE_PER_PAYLOAD.0) / u128::from(WIRE_PER_PAYLOAD.1);
    let nanos = wire * 1_000_000_000 / u128::from(bytes_per_second);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// What the world has to bring about.
#[derive(Debug)]
pub enum Step {
    /// The up server of a machine will have sent its block.
    UpDone(usize),
    /// The down server of a machine will have received its block.
    DownDone(usize),
    /// An item reaches the other machine.
    Arrive(End, Item),
}

/// All cables and connections.
#[derive(Debug)]
pub struct Network {
    latency: Duration,
    window: u64,
    up: Vec<Server>,
    down: Vec<Server>,
    /// Every connection there ever was; an index is never used again.
    pub connections: Vec<Connection>,
    /// Payload bytes that each machine sent.
    pub sent: Vec<u64>,
    /// Payload bytes that each machine received.
    pub received: Vec<u64>,
}

impl Network {
    /// No machine yet.
    pub fn new(latency: Duration, window: u64) -> Self {
        let (up, down, connections) = (Vec::new(), Vec::new(), Vec::new());
        Self { latency, window, up, down, connections, sent: Vec::new(), received: Vec::new() }
    }

    /// One way.
    pub fn latency(&self) -> Duration {
        self.latency
    }

    /// Plugs in a machine with a cable that sends and receives so many bytes a second.
    pub fn add(&mut self, up: u64, down: u64) {
        let server = |rate: u64| Server { bytes_per_second: rate.max(1), turn: VecDeque::new(), serving: None };
        self.up.push(server(up));
        self.down.push(server(down));
        self.sent.push(0);
        self.received.push(0);
    }

    /// From its next block on, a machine's cable is that fast.
    pub fn set_rates(&mut self, machine: usize, up: u64, down: u64) {
        self.up[machine].bytes_per_second = up.max(1);
        self.down[machine].bytes_per_second = down.max(1);
    }

    /// A connection that the first machine opens with the second, each in its present life.
    pub fn connect(&mut self, machines: [usize; 2], lives: [u32; 2], dialled_for: ImageIndex) -> usize {
        let half = |side: usize| Half {
            machine: machines[side],
            life: lives[side],
            ended: false,
            slot: None,
            image: None,
            out: VecDeque::new(),
            arrived: VecDeque::new(),
            under_way: 0,
            in_up_turn: false,
            in_down_turn: false,
            held: VecDeque::new(),
        };
        self.connections.push(Connection { halves: [half(0), half(1)], dialled_for });
        self.connections.len() - 1
    }

    /// One end's state.
    pub fn half(&mut self, end: End) -> &mut Half {
        &mut self.connections[end.conn].halves[end.side]
    }

    /// Puts an item behind what this end has to send.
    pub fn send(&mut self, now: Time, end: End, item: Item, steps: &mut Vec<(Time, Step)>) {
        let latency = self.latency;
        let half = self.half(end);
        // Nothing is before it, and it costs nothing: most are such.
        if half.out.is_empty() && !half.in_up_turn && item.bytes() == 0 {
            return steps.push((now + latency, Step::Arrive(end, item)));
        }
        half.out.push_back(item);
        self.pump(now, end, steps);
    }

    /// Ends the stream at once: what was not sent is forgotten.
    pub fn end(&mut self, now: Time, end: End, steps: &mut Vec<(Time, Step)>) {
        let half = self.half(end);
        if std::mem::replace(&mut half.ended, true) {
            return;
        }
        half.out.clear();
        half.arrived.clear();
        half.held.clear();
        half.image = None;
        self.send(now, end, Item::End, steps);
    }

    /// Sends messages, and queues for the up server when a block is at the front and the window is open.
    fn pump(&mut self, now: Time, end: End, steps: &mut Vec<(Time, Step)>) {
        let (latency, window) = (self.latency, self.window);
        let half = self.half(end);
        while half.out.front().is_some_and(|item| item.bytes() == 0) && !half.in_up_turn {
            if let Some(item) = half.out.pop_front() {
                steps.push((now + latency, Step::Arrive(end, item)));
            }
        }
        let Some(bytes) = half.out.front().map(Item::bytes).filter(|bytes| *bytes > 0) else { return };
        if !half.in_up_turn && (half.under_way == 0 || half.under_way + bytes <= window) {
            half.in_up_turn = true;
            let machine = half.machine;
            self.up[machine].turn.push_back(end);
            self.serve_up(now, machine, steps);
        }
    }

    fn serve_up(&mut self, now: Time, machine: usize, steps: &mut Vec<(Time, Step)>) {
        while self.up[machine].serving.is_none() {
            let Some(end) = self.up[machine].turn.pop_front() else { return };
            let half = self.half(end);
            // A block may have been cancelled while it waited for its turn.
            if half.out.front().is_none_or(|item| item.bytes() == 0) {
                half.in_up_turn = false;
                self.pump(now, end, steps);
                continue;
            }
            if let Some(item) = half.out.pop_front() {
                half.under_way += item.bytes();
                steps.push((now + self.up[machine].duration(item.bytes()), Step::UpDone(machine)));
                self.up[machine].serving = Some((end, item));
            }
        }
    }

    /// The up server has sent a block; which, on which connection.
    pub fn up_done(&mut self, now: Time, machine: usize, steps: &mut Vec<(Time, Step)>) -> Option<(End, Block)> {
        let (end, item) = self.up[machine].serving.take()?;
        self.sent[machine] += item.bytes();
        let block = if let Item::Block(block) = &item { Some((end, *block)) } else { None };
        steps.push((now + self.latency, Step::Arrive(end, item)));
        self.half(end).in_up_turn = false;
        self.pump(now, end, steps);
        self.serve_up(now, machine, steps);
        block
    }

    /// An item from `from` has reached the other machine; what may be handed over at once follows from
    /// [`Self::next_message`].
    pub fn arrive(&mut self, now: Time, from: End, item: Item, steps: &mut Vec<(Time, Step)>) {
        let to = from.other();
        self.half(to).arrived.push_back(item);
        self.queue_down(now, to, steps);
    }

    /// Whether a message that arrives for this end now is handed over at once, since nothing waits before it.
    pub fn is_idle(&mut self, end: End) -> bool {
        let half = self.half(end);
        half.arrived.is_empty() && !half.in_down_turn
    }

    /// The next item of this end that costs nothing.
    pub fn next_message(&mut self, end: End) -> Option<Item> {
        let half = self.half(end);
        // A block that is being received comes first.
        if half.in_down_turn || half.arrived.front()?.bytes() > 0 {
            return None;
        }
        half.arrived.pop_front()
    }

    /// Queues for the down server if a block is at the front.
    pub fn queue_down(&mut self, now: Time, end: End, steps: &mut Vec<(Time, Step)>) {
        let half = self.half(end);
        if !half.in_down_turn && half.arrived.front().is_some_and(|item| item.bytes() > 0) {
            half.in_down_turn = true;
            let machine = half.machine;
            self.down[machine].turn.push_back(end);
            self.serve_down(now, machine, steps);
        }
    }

    fn serve_down(&mut self, now: Time, machine: usize, steps: &mut Vec<(Time, Step)>) {
        while self.down[machine].serving.is_none() {
            let Some(end) = self.down[machine].turn.pop_front() else { return };
            match self.half(end).arrived.pop_front() {
                Some(item) => {
                    steps.push((now + self.down[machine].duration(item.bytes()), Step::DownDone(machine)));
                    self.down[machine].serving = Some((end, item));
                }
                None => self.half(end).in_down_turn = false,
            }
        }
    }

    /// The down server has received a block; on which connection. The window opens by as much.
    pub fn down_done(&mut self, now: Time, machine: usize, steps: &mut Vec<(Time, Step)>) -> Option<(End, Block)> {
        let (end, item) = self.down[machine].serving.take()?;
        self.received[machine] += item.bytes();
        self.half(end).in_down_turn = false;
        let sender = self.half(end.other());
        sender.under_way = sender.under_way.saturating_sub(item.bytes());
        self.pump(now, end.other(), steps);
        self.serve_down(now, machine, steps);
        if let Item::Block(block) = item { Some((end, block)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use labmesh_proto::id::Geometry;

    use super::*;
    use crate::queue::Queue;

    const MBYTE: u64 = 1_000_000;

    /// Sends `blocks` blocks of 250 kB over each pair of machines; when each pair has its last.
    fn finish_times(machines: usize, pairs: &[(usize, usize)], blocks: u32) -> Vec<f64> {
        let mut network = Network::new(Duration::from_micros(100), 1 << 20);
        (0..machines).for_each(|_| network.add(100 * MBYTE, 100 * MBYTE));
        let geometry = Geometry::new(u64::from(blocks) * 250_000, 250_000).unwrap();
        let (mut queue, mut steps) = (Queue::new(), Vec::new());
        for (from, to) in pairs {
            let conn = network.connect([*from, *to], [0, 0], ImageIndex(0));
            for piece in geometry.all() {
                let block = geometry.block(piece.get(), 0, 250_000).unwrap();
                network.send(Time(0), End { conn, side: 0 }, Item::Block(block), &mut steps);
            }
        }
        let mut finished = vec![Time(0); pairs.len()];
        loop {
            steps.drain(..).for_each(|(at, step)| queue.push(at, step));
            let Some((now, step)) = queue.pop() else { break };
            match step {
                Step::UpDone(machine) => drop(network.up_done(now, machine, &mut steps)),
                Step::Arrive(end, item) => network.arrive(now, end, item, &mut steps),
                Step::DownDone(machine) => {
                    let (end, _) = network.down_done(now, machine, &mut steps).unwrap();
                    finished[end.conn] = now;
                    network.queue_down(now, end, &mut steps);
                }
            }
        }
        finished.iter().map(|t| t.as_secs_f64()).collect()
    }

    #[track_caller]
    fn close_to(found: f64, expected: f64) {
        let wire = expected * WIRE_PER_PAYLOAD.0 as f64 / WIRE_PER_PAYLOAD.1 as f64;
        assert!((found / wire - 1.0).abs() < 0.01, "{found:.4} s, expected {wire:.4} s");
    }

    #[test]
    fn one_flow_takes_the_time_of_its_bytes() {
        close_to(finish_times(2, &[(0, 1)], 4000)[0], 10.0);
    }

    #[test]
    fn flows_share_the_sender_and_the_receiver() {
        finish_times(4, &[(0, 1), (0, 2), (0, 3)], 1000).iter().for_each(|t| close_to(*t, 7.5));
        finish_times(4, &[(1, 0), (2, 0), (3, 0)], 1000).iter().for_each(|t| close_to(*t, 7.5));
    }

    /// Max-min: the flow that shares nothing takes what the two that share a sender leave of its receiver.
    #[test]
    fn a_flow_takes_what_others_leave() {
        let times = finish_times(4, &[(0, 2), (0, 3), (1, 3)], 1000);
        // 0 sends half to each; 3 receives half from 0 and half from 1; all three last 5 s.
        times.iter().for_each(|t| close_to(*t, 5.0));
    }
}
