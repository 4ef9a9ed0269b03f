//! Connections between the machines of the world: control and peers.

use std::net::SocketAddr;
use std::time::Duration;

use labmesh_proto::id::{Block, ConnId, ImageIndex, NodeId};
use labmesh_proto::io::Input;
use labmesh_proto::wire::control::Message;
use labmesh_proto::wire::peer::{Handshake, Range};

use super::machine::Power;
use super::{CONTROL_PORT, Event, PEER_PORT, World};
use crate::control::{DIAL_TIMEOUT, Word};
use crate::faults::below;
use crate::network::{End, Item, Step};
use crate::trunk::Pass;

/// A message that comes twice comes again within this.
const AGAIN_WITHIN: Duration = Duration::from_millis(20);
/// What a dialler's own end of a peer connection looks like.
const EPHEMERAL_PORT: u16 = 40_000;

impl World {
    // ---- control

    /// A dial reaches its address, or nothing.
    pub(super) fn control_dial(
        &mut self,
        from: usize,
        life: u32,
        node: Option<NodeId>,
        addr: SocketAddr,
    ) -> Result<(), String> {
        let target = self.at(addr, CONTROL_PORT).filter(|to| *to != from && self.reach_each_other(from, *to));
        let known = target.map(|to| self.machines[to].id).or(node);
        let unreachable = |refused| Input::ControlUnreachable { node: known, addr, refused };
        match target.map(|to| (to, self.machines[to].power)) {
            Some((to, Power::On)) if node.is_none_or(|node| node == self.machines[to].id) => {
                self.later(self.latency(), Event::ControlAnswer { from, life, to, addr });
                if self.control.up(to, from) {
                    let (node, addr) = (self.machines[from].id, self.machines[from].addr);
                    return self.feed(to, Input::ControlUp { node, addr });
                }
            }
            Some((_, Power::On | Power::Killed)) => {
                self.later(self.latency(), Event::Input(from, life, Box::new(unreachable(true))));
            }
            Some((_, Power::Off | Power::Suspended)) | None => {
                self.later(DIAL_TIMEOUT, Event::Input(from, life, Box::new(unreachable(false))));
            }
        }
        Ok(())
    }

    /// The dialler learns that its connection stands, if the other side still knows of it.
    pub(super) fn control_answer(&mut self, from: usize, life: u32, to: usize, addr: SocketAddr) -> Result<(), String> {
        let machine = &self.machines[from];
        if machine.life != life || machine.node.is_none() {
            return Ok(());
        }
        let node = self.machines[to].id;
        if !self.reach_each_other(from, to) || !self.control.is_up(to, from) {
            return self.feed(from, Input::ControlUnreachable { node: Some(node), addr, refused: false });
        }
        if self.control.up(from, to) { self.feed(from, Input::ControlUp { node, addr: addr.ip() }) } else { Ok(()) }
    }

    /// A message as the other side will read it.
    pub(super) fn through_codec(&mut self, message: Message) -> Result<Message, String> {
        if let Some((said, read)) = &self.coded
            && *said == message
        {
            return Ok(read.clone());
        }
        let read = Message::decode(&message.encode()).map_err(|error| format!("says what nobody takes: {error}"))?;
        self.coded = Some((message, read.clone()));
        Ok(read)
    }

    /// A message sets out; it may be lost, or come twice.
    pub(super) fn say(&mut self, from: usize, to: usize, message: Message) {
        let (lost, doubled) = self.words;
        if self.is_lost(lost) {
            return;
        }
        if self.is_lost(doubled) {
            let delay = self.latency() + Duration::from_nanos(below(&mut self.rng, AGAIN_WITHIN.as_nanos() as u64));
            self.later(delay, Event::Word { from, to, word: Box::new(Word::Say(message.clone())) });
        }
        self.later(self.latency(), Event::Word { from, to, word: Box::new(Word::Say(message)) });
    }

    pub(super) fn hang_up(&mut self, me: usize, node: NodeId) {
        let Some(other) = self.by_id(node).filter(|other| self.control.is_up(me, *other)) else { return };
        self.control.down(me, other);
        self.later(self.latency(), Event::Word { from: me, to: other, word: Box::new(Word::End) });
        self.answer_at(self.now, me, Input::ControlDown { node });
    }

    /// A word arrives, waits for the end of a partition, or finds nobody.
    pub(super) fn word(&mut self, from: usize, to: usize, word: Word) -> Result<(), String> {
        if !self.reaches(from, to) || self.control.is_holding(from, to) {
            self.control.hold(self.now, from, to, word);
            return Ok(());
        }
        let sender = self.machines[from].id;
        match (word, self.control.is_up(to, from)) {
            (Word::Say(message), true) => self.feed(to, Input::Control { from: sender, message: Box::new(message) }),
            (Word::End, true) => {
                self.control.down(to, from);
                self.feed(to, Input::ControlDown { node: sender })
            }
            // A connection that only its sender believes in: the kernel of the other says so.
            (Word::Say(_), false) if self.machines[to].power != Power::Off => {
                self.later(self.latency(), Event::Word { from: to, to: from, word: Box::new(Word::End) });
                Ok(())
            }
            (Word::Say(_) | Word::End, false) => Ok(()),
        }
    }

    pub(super) fn gossip(&mut self, me: usize, message: &Message) {
        let reached = self.control.gossip(me, |a, b| self.reaches(a, b) && self.machines[b].power == Power::On);
        let from = self.machines[me].id;
        for (to, hops) in reached {
            let input = Input::Control { from, message: Box::new(message.clone()) };
            self.answer_at(self.now + self.latency() * hops, to, input);
        }
    }

    // ---- peers

    /// A dial for an image reaches its address, or nothing.
    pub(super) fn peer_dial(
        &mut self,
        from: usize,
        life: u32,
        image: ImageIndex,
        addr: SocketAddr,
        handshake: Handshake,
    ) -> Result<(), String> {
        if self.machines[from].life != life {
            return Ok(());
        }
        let target = self.at(addr, PEER_PORT).filter(|to| self.reach_each_other(from, *to));
        let unreachable = Box::new(Input::PeerUnreachable { image, addr });
        let to = match target.map(|to| (to, self.machines[to].power)) {
            Some((to, Power::On | Power::Suspended)) => to,
            Some((_, Power::Killed)) => {
                self.later(self.latency(), Event::Input(from, life, unreachable));
                return Ok(());
            }
            Some((_, Power::Off)) | None => {
                self.later(DIAL_TIMEOUT, Event::Input(from, life, unreachable));
                return Ok(());
            }
        };
        let lives = [life, self.machines[to].life];
        let conn = self.network.connect([from, to], lives, image);
        let end = End { conn, side: 1 };
        let slot = self.machines[to].take_slot(end);
        self.network.half(end).slot = Some(slot);
        let addr = SocketAddr::new(self.machines[from].addr, EPHEMERAL_PORT);
        self.feed(to, Input::PeerUp { conn: slot, addr, handshake, outgoing: false })
    }

    pub(super) fn accept(&mut self, me: usize, conn: ConnId, image: ImageIndex, handshake: Handshake) {
        let Some(end) = self.machines[me].end_of(conn) else { return };
        self.network.half(end).image = Some(image);
        let other = self.network.half(end.other()).machine;
        let accepted = &mut self.machines[me].accepted;
        let length = accepted.len().max(conn.0 as usize + 1);
        accepted.resize(length, None);
        accepted[conn.0 as usize] = Some((image, other));
        // Only the one that was dialled answers: the dialler's handshake opened the connection.
        if end.side == 1 {
            self.network.send(self.now, end, Item::Accept(handshake), &mut self.steps);
        }
    }

    pub(super) fn close(&mut self, me: usize, conn: ConnId) {
        let Some(end) = self.machines[me].end_of(conn) else { return };
        if self.network.half(end).slot.take().is_some() {
            self.network.end(self.now, end, &mut self.steps);
            self.free(end, me, conn);
        }
    }

    /// The slot is free again once its machine has heard of the end.
    fn free(&mut self, end: End, machine: usize, conn: ConnId) {
        self.network.half(end).slot = None;
        let life = self.machines[machine].life;
        self.queue.push(self.now, Event::PeerDown { machine, life, conn });
    }

    pub(super) fn peer_down(&mut self, machine: usize, life: u32, conn: ConnId) -> Result<(), String> {
        if self.machines[machine].life != life {
            return Ok(());
        }
        self.machines[machine].slots[conn.0 as usize] = None;
        self.feed(machine, Input::PeerDown { conn })
    }

    pub(super) fn send_item(&mut self, me: usize, conn: ConnId, item: Item) {
        if let Some(end) = self.machines[me].end_of(conn)
            && self.network.half(end).slot.is_some()
        {
            self.network.send(self.now, end, item, &mut self.steps);
        }
    }

    pub(super) fn network_step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::UpDone(machine) => {
                let Some((end, block)) = self.network.up_done(self.now, machine, &mut self.steps) else {
                    return Ok(());
                };
                match self.living_slot(end) {
                    Some(conn) => self.feed(machine, Input::Sent { conn, block }),
                    None => Ok(()),
                }
            }
            Step::DownDone(machine) => {
                let Some((end, block)) = self.network.down_done(self.now, machine, &mut self.steps) else {
                    return Ok(());
                };
                self.deliver_block(end, block)?;
                self.deliver_messages(end)
            }
            Step::Arrive(from, item) => self.leave_site(from, item),
        }
    }

    /// What goes to the other site passes the cable between them first.
    fn leave_site(&mut self, from: End, item: Item) -> Result<(), String> {
        let (sender, receiver) = (self.network.half(from).machine, self.network.half(from.other()).machine);
        let site = self.machines[sender].site;
        if site == self.machines[receiver].site {
            return self.arrive(from, item);
        }
        match self.trunk.as_mut().map(|trunk| trunk.enter(self.now, site, from, item)) {
            Some(Pass::Through(item)) => self.arrive(from, item),
            Some(Pass::Waits(Some(at))) => {
                self.queue.push(at, Event::Trunk(site));
                Ok(())
            }
            Some(Pass::Waits(None)) | None => Ok(()),
        }
    }

    pub(super) fn trunk_passed(&mut self, site: usize) -> Result<(), String> {
        let Some((items, next)) = self.trunk.as_mut().map(|trunk| trunk.passed(self.now, site)) else { return Ok(()) };
        if let Some(at) = next {
            self.queue.push(at, Event::Trunk(site));
        }
        items.into_iter().try_for_each(|(from, item)| self.arrive(from, item))
    }

    /// What this end is called by the machine it belongs to, if that machine still has the same life.
    fn living_slot(&mut self, end: End) -> Option<ConnId> {
        let half = self.network.half(end);
        let (machine, life) = (half.machine, half.life);
        half.slot.filter(|_| self.machines[machine].life == life)
    }

    fn arrive(&mut self, from: End, item: Item) -> Result<(), String> {
        let to = from.other();
        let (sender, receiver) = (self.network.half(from).machine, self.network.half(to).machine);
        let frozen = !self.network.half(from).held.is_empty();
        if frozen || !self.reaches(sender, receiver) || self.machines[receiver].power == Power::Off {
            self.network.half(from).held.push_back(item);
            self.frozen.insert((from.conn, from.side));
            return Ok(());
        }
        if item.bytes() == 0 && self.network.is_idle(to) {
            return self.deliver(to, item);
        }
        self.network.arrive(self.now, from, item, &mut self.steps);
        self.deliver_messages(to)
    }

    /// Everything that waits at this end and costs no time, then the next block.
    fn deliver_messages(&mut self, end: End) -> Result<(), String> {
        while let Some(item) = self.network.next_message(end) {
            self.deliver(end, item)?;
        }
        self.network.queue_down(self.now, end, &mut self.steps);
        Ok(())
    }

    fn deliver(&mut self, end: End, item: Item) -> Result<(), String> {
        let half = self.network.half(end);
        let (machine, stale) = (half.machine, half.life);
        let slot = half.slot;
        if self.machines[machine].life != stale || self.machines[machine].node.is_none() {
            if !matches!(item, Item::End) {
                // Nobody knows this connection any more: the kernel says so.
                self.network.end(self.now, end, &mut self.steps);
            }
            return Ok(());
        }
        match (item, slot) {
            (Item::Accept(handshake), None) if end.side == 0 && !self.network.half(end).ended => {
                let slot = self.machines[machine].take_slot(end);
                self.network.half(end).slot = Some(slot);
                let addr = SocketAddr::new(self.machines[self.network.half(end.other()).machine].addr, PEER_PORT);
                self.feed(machine, Input::PeerUp { conn: slot, addr, handshake, outgoing: true })
            }
            (Item::End, None) if end.side == 0 && !self.network.half(end).ended => {
                // Closed before it stood.
                self.network.half(end).ended = true;
                let image = self.network.connections[end.conn].dialled_for;
                let addr = SocketAddr::new(self.machines[self.network.half(end.other()).machine].addr, PEER_PORT);
                self.feed(machine, Input::PeerUnreachable { image, addr })
            }
            (Item::End, Some(conn)) => {
                self.network.half(end).ended = true;
                self.network.half(end).image = None;
                self.free(end, machine, conn);
                Ok(())
            }
            (Item::Message(message), Some(conn)) => self.feed(machine, Input::Peer { conn, message }),
            (Item::Accept(_) | Item::End | Item::Message(_) | Item::Block(_), _) => Ok(()),
        }
    }

    /// What the world knows of a block that is about to be handed over: which it is, and whether it is good.
    pub(super) fn look_at_block(&mut self, machine: usize, conn: ConnId, range: Range) {
        let accepted = self.machines[machine].accepted.get(conn.0 as usize).copied().flatten();
        let Some((image, sender)) = accepted else { return };
        self.machines[machine].bad_block = self.is_lost(self.machines[sender].poison_permille);
        let hash = self.machines[machine].content(image);
        let metainfo = self.images.iter().find(|metainfo| Some(metainfo.info_hash()) == hash);
        let geometry = metainfo.map(|metainfo| metainfo.geometry());
        if let Some(block) = geometry.and_then(|g| g.block(range.piece, range.offset, range.len)) {
            self.checker.delivering(machine, block);
        }
    }

    fn deliver_block(&mut self, end: End, block: Block) -> Result<(), String> {
        let machine = self.network.half(end).machine;
        match self.living_slot(end) {
            Some(conn) => {
                let range = Range { piece: block.piece.get(), offset: block.offset, len: block.len };
                self.feed(machine, Input::Block { conn, range })
            }
            None if self.network.half(end).ended => Ok(()),
            None => {
                self.network.end(self.now, end, &mut self.steps);
                Ok(())
            }
        }
    }

    /// What a partition or a power cut held back arrives, in its order.
    pub(super) fn thaw(&mut self, end: End) -> Result<(), String> {
        if !self.frozen.remove(&(end.conn, end.side)) {
            return Ok(());
        }
        let items = std::mem::take(&mut self.network.half(end).held);
        items.into_iter().try_for_each(|item| self.arrive(end, item))
    }
}
