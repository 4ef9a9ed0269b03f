//! What goes wrong with the machines of the world, and how it is put right.

use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::config::{Config, Mode, Weight};
use labmesh_proto::io::Input;
use labmesh_proto::node::Node;
use rand_chacha::rand_core::Rng;

use super::machine::Power;
use super::{CONTROL_PORT, Event, HTTP_PORT, PEER_PORT, PIECE_BUFFER_BYTES, World};
use crate::control::{RETRANSMISSION, Word};
use crate::faults::Fault;
use crate::network::End;

/// The source's, so that it becomes master; the most that an open mesh allows.
const SOURCE_WEIGHT: u8 = 99;
/// A partial scan of the cache at the start.
const SCAN: Duration = Duration::from_millis(5);

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(m) => self.end_program(m, Power::Killed),
            Fault::PowerCut(m) => self.end_program(m, Power::Off),
            Fault::Start(m) => return self.start(m),
            Fault::Suspend(m) => {
                if self.machines[m].power == Power::On {
                    self.trace.note(self.now, m, format_args!("! suspended"));
                    self.machines[m].power = Power::Suspended;
                }
            }
            Fault::Resume(m) => return self.resume(m),
            Fault::Deaf(m, deaf) => self.machines[m].deaf = deaf,
            Fault::Cut(sides) => self.sides = sides,
            Fault::Heal => self.heal(),
            Fault::Loss(permille) => self.loss = permille,
        }
        self.count_masters();
        Ok(())
    }

    /// SIGKILL or a pulled plug. After a kill the kernel ends the connections; after a power cut nobody does.
    fn end_program(&mut self, m: usize, power: Power) {
        if self.machines[m].node.is_none() {
            return;
        }
        self.trace.note(self.now, m, format_args!("! {power:?}"));
        let ends: Vec<End> = self.machines[m].slots.iter().copied().flatten().collect();
        self.machines[m].end_life(power);
        self.checker.ended(m);
        let others = self.control.forget(m);
        if power == Power::Killed {
            for other in others {
                self.later(self.latency(), Event::Word { from: m, to: other, word: Box::new(Word::End) });
            }
            for end in ends {
                if self.network.half(end).slot.take().is_some() {
                    self.network.end(self.now, end, &mut self.steps);
                }
            }
        }
    }

    /// The program is started with what is on its disk.
    fn start(&mut self, m: usize) -> Result<(), String> {
        if self.machines[m].node.is_some() || self.now < self.machines[m].starts_at {
            return Ok(());
        }
        let config = self.config(m);
        let machine = &mut self.machines[m];
        machine.life += 1;
        machine.power = Power::On;
        machine.node = Some(Node::new(self.now, config, machine.disk.epoch));
        self.trace.note(self.now, m, format_args!("! started, {:?}", machine.disk.epoch));
        for ((name, _), copy) in &machine.disk.copies {
            let (name, metainfo) = (name.clone(), Arc::clone(&copy.metainfo));
            let (mode, seed_time, stopped) = (copy.mode, copy.seed_time, copy.stopped);
            let input = if copy.complete {
                Input::CacheHas { name, metainfo, stopped }
            } else {
                Input::CachePart { name, metainfo, mode, seed_time, stopped }
            };
            self.queue.push(self.now + SCAN, Event::Input(m, machine.life, Box::new(input)));
        }
        let held: Vec<End> = self.frozen.iter().map(|&(conn, side)| End { conn, side }).collect();
        for end in held {
            if self.network.half(end.other()).machine == m {
                self.later(RETRANSMISSION, Event::Thaw(end));
            }
        }
        self.attend(m)
    }

    fn config(&mut self, m: usize) -> Config {
        let weight = if m == 0 { SOURCE_WEIGHT } else { Weight::DEFAULT.get() };
        Config {
            id: self.machines[m].id,
            addr: Some(self.machines[m].addr),
            name: format!("pc{:03}", m + 1),
            weight: Weight::try_from(weight).expect("our own weights are below 100"),
            site: String::new(),
            keyed: true,
            mode: Mode::Peer,
            seed_time: None,
            control_port: CONTROL_PORT,
            peer_port: PEER_PORT,
            http_port: HTTP_PORT,
            open_tracker: false,
            piece_buffer_bytes: PIECE_BUFFER_BYTES,
            seed: self.rng.next_u64(),
        }
    }

    /// It goes on: first its clock, then everything that came meanwhile.
    fn resume(&mut self, m: usize) -> Result<(), String> {
        if self.machines[m].power != Power::Suspended {
            return Ok(());
        }
        self.trace.note(self.now, m, format_args!("! goes on"));
        self.machines[m].power = Power::On;
        let life = self.machines[m].life;
        self.timer(m, life)?;
        let mailbox = std::mem::take(&mut self.machines[m].mailbox);
        mailbox.into_iter().try_for_each(|input| self.feed(m, input))?;
        self.count_masters();
        Ok(())
    }

    fn heal(&mut self) {
        if self.sides.iter().all(|side| *side == self.sides[0]) {
            return;
        }
        self.sides.fill(0);
        let held: Vec<_> = self.control.held(self.now).collect();
        for ((from, to), silence) in held {
            self.later(silence, Event::ReleaseWords { from, to });
        }
        let ends: Vec<End> = self.frozen.iter().map(|&(conn, side)| End { conn, side }).collect();
        for end in ends {
            self.later(RETRANSMISSION, Event::Thaw(end));
        }
    }

    /// The scenario's own fault: the master dies when everybody together has so much.
    pub(super) fn kill_master_if_it_is_time(&mut self) {
        let (Some(percent), Some(metainfo)) = (self.scenario.faults.master_killed_at_percent, &self.metainfo) else {
            return;
        };
        let pieces = u64::from(metainfo.geometry().pieces());
        let takers = self.machines.iter().filter(|m| m.asks_at.is_some()).count() as u64;
        let held = self.scenario.lab.holders as u64 * pieces;
        let reached = self.checker.verified.saturating_sub(held) as f64 >= (takers * pieces) as f64 * percent / 100.0;
        if self.master_died || !reached {
            return;
        }
        let Some(master) = self.checker.masters().next() else { return };
        self.master_died = true;
        self.queue.push(self.now, Event::Fault(Fault::Kill(master)));
        self.later(self.scenario.expect.one_master_within.0, Event::Inspect);
        if let Some(back) = self.scenario.faults.master_back_after {
            self.later(back.0, Event::Fault(Fault::Start(master)));
        }
    }
}
