//! The cable between two switches: one more server on the way of every block that changes its site.
//!
//! Model: as a machine's link, it gives each connection with a block at its front one block in turn, and messages
//! without payload cost nothing but keep their place in the stream. One server for each direction, since the cable is
//! the uplink of both switches. Not here: the links of the machines ([`crate::network`]).

use std::collections::{BTreeMap, VecDeque};

use labmesh_proto::id::Time;

use crate::network::{End, Item, wire_time};

/// The cable between two sites.
#[derive(Debug)]
pub struct Trunk {
    bytes_per_second: u64,
    directions: [Direction; 2],
}

#[derive(Debug, Default)]
struct Direction {
    /// What each connection has on this side, in its order.
    streams: BTreeMap<(usize, usize), VecDeque<Item>>,
    turn: VecDeque<(usize, usize)>,
    serving: bool,
    sent: u64,
}

/// What comes of an item that reached the cable.
#[derive(Debug)]
pub enum Pass {
    /// It goes on at once.
    Through(Item),
    /// It waits, and if a time is given the cable's next block will have passed then.
    Waits(Option<Time>),
}

impl Trunk {
    /// A cable of so many bytes a second each way.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), directions: Default::default() }
    }

    /// Payload bytes that left that site.
    pub fn sent(&self, site: usize) -> u64 {
        self.directions[site].sent
    }

    /// An item from that end leaves its site.
    pub fn enter(&mut self, now: Time, site: usize, from: End, item: Item) -> Pass {
        let key = (from.conn, from.side);
        let direction = &mut self.directions[site];
        match direction.streams.get_mut(&key) {
            Some(stream) => stream.push_back(item),
            None if item.bytes() == 0 => return Pass::Through(item),
            None => {
                direction.streams.insert(key, VecDeque::from([item]));
                direction.turn.push_back(key);
            }
        }
        Pass::Waits(self.serve(now, site))
    }

    /// The next in turn is served if the cable is free; when its block will have passed.
    fn serve(&mut self, now: Time, site: usize) -> Option<Time> {
        let direction = &mut self.directions[site];
        let bytes = direction.streams.get(direction.turn.front()?)?.front()?.bytes();
        if std::mem::replace(&mut direction.serving, true) {
            return None;
        }
        Some(now + wire_time(bytes, self.bytes_per_second))
    }

    /// A block has passed: it and the messages behind it, and when the next one will have.
    pub fn passed(&mut self, now: Time, site: usize) -> (Vec<(End, Item)>, Option<Time>) {
        let direction = &mut self.directions[site];
        direction.serving = false;
        let mut out = Vec::new();
        if let Some(key) = direction.turn.pop_front()
            && let Some(stream) = direction.streams.get_mut(&key)
        {
            let end = End { conn: key.0, side: key.1 };
            out.extend(stream.pop_front().map(|block| (end, block)));
            direction.sent += out.iter().map(|(_, block)| block.bytes()).sum::<u64>();
            while stream.front().is_some_and(|item| item.bytes() == 0) {
                out.extend(stream.pop_front().map(|message| (end, message)));
            }
            if stream.is_empty() {
                direction.streams.remove(&key);
            } else {
                direction.turn.push_back(key);
            }
        }
        (out, self.serve(now, site))
    }
}

#[cfg(test)]
mod tests {
    use labmesh_proto::id::Geometry;
    use labmesh_proto::wire::peer::Message;

    use super::*;

    #[test]
    fn blocks_take_turns_and_messages_keep_their_place() {
        let geometry = Geometry::new(1 << 20, 1 << 18).unwrap();
        let block = |piece| Item::Block(geometry.block(piece, 0, 1 << 18).unwrap());
        let (a, b) = (End { conn: 0, side: 0 }, End { conn: 1, side: 0 });
        let mut trunk = Trunk::new(1 << 20);
        assert!(matches!(trunk.enter(Time(0), 0, a, Item::Message(Message::Choke)), Pass::Through(_)));
        let Pass::Waits(Some(first)) = trunk.enter(Time(0), 0, a, block(0)) else { panic!("the cable was free") };
        for (end, item) in [(a, Item::Message(Message::Unchoke)), (a, block(1)), (b, block(2))] {
            assert!(matches!(trunk.enter(Time(0), 0, end, item), Pass::Waits(None)));
        }
        let (mut order, mut next) = (Vec::new(), Some(first));
        while let Some(at) = next {
            let (items, then) = trunk.passed(at, 0);
            order.extend(items.iter().map(|(end, item)| (end.conn, item.bytes() > 0)));
            next = then;
        }
        assert_eq!(order, [(0, true), (0, false), (1, true), (0, true)]);
        assert_eq!((trunk.sent(0), trunk.sent(1)), (3 << 18, 0));
    }
}
