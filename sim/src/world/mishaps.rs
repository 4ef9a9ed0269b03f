//! What goes wrong with the machines of the world, and how it is put right.

use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::config::{Config, Mode, TrackerConfig};
use labmesh_proto::id::Time;
use labmesh_proto::io::Input;
use labmesh_proto::node::Node;
use rand_chacha::rand_core::Rng;

use super::machine::Power;
use super::{CONTROL_PORT, Event, HTTP_PORT, PEER_PORT, World, people};
use crate::control::{RETRANSMISSION, Word};
use crate::faults::Fault;
use crate::network::End;
use crate::trace::ROOM;

/// A partial scan of the cache at the start.
const SCAN: Duration = Duration::from_millis(5);

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), String> {
        self.disturbed = self.now;
        self.tell(&fault);
        match fault {
            Fault::Kill(m) => self.end_program(m, Power::Killed),
            Fault::PowerCut(m) => self.end_program(m, Power::Off),
            Fault::Start(m) => return self.start(m),
            Fault::Suspend(m) => {
                if self.machines[m].power == Power::On {
                    self.trace.note(self.now, m, format_args!("suspended"));
                    self.machines[m].power = Power::Suspended;
                }
            }
            Fault::Resume(m) => return self.resume(m),
            Fault::Deaf(m, deaf) => self.machines[m].deaf = deaf,
            Fault::Cut(sides) => {
                self.sides = sides;
                // Another cut may join what the last one parted.
                self.let_through();
            }
            Fault::Heal => self.heal(),
            Fault::Loss(permille) => self.loss = permille,
            Fault::Words(lost, doubled) => self.words = (lost, doubled),
            Fault::Mute(m, mute) => self.mute(m, mute),
            Fault::KillMaster(back) => {
                let master = self.checker.masters().next();
                if let Some(master) = master {
                    self.end_program(master, Power::Killed);
                    if let Some(back) = back {
                        self.later(back, Event::Fault(Fault::Start(master)));
                    }
                }
            }
            Fault::Link(m, percent) => {
                let share = |rate: u64| rate * u64::from(percent) / 100;
                let (up, down) = (share(self.machines[m].up), share(self.machines[m].down));
                self.network.set_rates(m, up, down);
            }
            Fault::DiskSpeed(m, percent) => self.machines[m].disk.slow_down(percent),
            Fault::DiskFull(m, full) => {
                self.machines[m].disk.full = full;
                self.take_care_of(m);
            }
            Fault::DiskBroken(m, broken) => {
                self.machines[m].disk.broken = broken;
                self.take_care_of(m);
            }
            Fault::ClockStep(m, step) => {
                self.machines[m].ahead += step;
                self.machines[m].armed = Time::NEVER;
                self.arm(m);
            }
        }
        self.count_masters();
        Ok(())
    }

    /// What people read of it, if it changes anything; starts and ends of a program are told where they happen.
    fn tell(&mut self, fault: &Fault) {
        let on = |on: bool, begins: &str, ends: &str| if on { begins.to_owned() } else { ends.to_owned() };
        let machine = |m: &usize| &self.machines[*m];
        let (m, what) = match fault {
            Fault::Deaf(m, deaf) if machine(m).deaf != *deaf => {
                (*m, on(*deaf, "deaf for heartbeats", "hears heartbeats again"))
            }
            Fault::Mute(m, mute) if machine(m).mute != *mute => (*m, on(*mute, "not heard by anybody", "heard again")),
            Fault::DiskFull(m, full) if machine(m).disk.full != *full => {
                (*m, on(*full, "disk full", "disk has room again"))
            }
            Fault::DiskBroken(m, broken) if machine(m).disk.broken != *broken => {
                (*m, on(*broken, "disk broken", "disk works again"))
            }
            Fault::DiskSpeed(m, percent) if *percent < 100 => (*m, format!("disk at {percent} %")),
            Fault::Link(m, percent) if *percent < 100 => (*m, format!("link at {percent} %")),
            Fault::ClockStep(m, step) => (*m, format!("clock {step:?} ahead")),
            Fault::Cut(sides) => (ROOM, format!("cut, by machine: {sides:?}")),
            Fault::Heal => (ROOM, "whole again".to_owned()),
            Fault::Loss(permille) => (ROOM, format!("{permille} of 1000 heartbeats are lost")),
            Fault::Words(lost, doubled) => (ROOM, format!("{lost} of 1000 messages are lost, {doubled} come twice")),
            _ => return,
        };
        self.trace.note(self.now, m, format_args!("{what}"));
    }

    /// SIGKILL or a pulled plug. After a kill the kernel ends the connections; after a power cut nobody does.
    fn end_program(&mut self, m: usize, power: Power) {
        if self.machines[m].node.is_none() {
            return;
        }
        self.trace.ended(self.now, m, format_args!("{}", power.word()));
        let ends: Vec<End> = self.machines[m].slots.iter().copied().flatten().collect();
        self.machines[m].end_life(power);
        self.machines[m].disk.crash(self.now);
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
        machine.moved = self.now;
        machine.node = Some(Node::new(self.now + machine.ahead, config, machine.disk.epoch));
        self.trace.started(self.now, m, machine.disk.epoch.term);
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
        self.take_care_of(m);
        let held: Vec<End> = self.frozen.iter().map(|&(conn, side)| End { conn, side }).collect();
        for end in held {
            if self.network.half(end.other()).machine == m {
                self.later(RETRANSMISSION, Event::Thaw(end));
            }
        }
        self.attend(m)
    }

    fn config(&mut self, m: usize) -> Config {
        let machine = &self.machines[m];
        let site = if self.scenario.lab.sites > 1 { format!("site{}", machine.site + 1) } else { String::new() };
        Config {
            id: machine.id,
            addr: Some(machine.addr),
            name: format!("pc{:03}", m + 1),
            weight: machine.weight,
            site,
            keyed: true,
            mode: Mode::Peer,
            seed_time: None,
            control_port: CONTROL_PORT,
            peer_port: PEER_PORT,
            http_port: HTTP_PORT,
            tracker: TrackerConfig::default(),
            mesh_host: "labmesh.local".to_owned(),
            // Its rooms have no clients but our own nodes.
            local_discovery: None,
            peer_exchange: false,
            prefer: false,
            transient: false,
            piece_buffer_bytes: self.scenario.lab.buffers.0,
            block_bytes: self.scenario.lab.block.0 as u32,
            seed: self.rng.next_u64(),
        }
    }

    /// It goes on: first its clock, then everything that came meanwhile.
    fn resume(&mut self, m: usize) -> Result<(), String> {
        if self.machines[m].power != Power::Suspended {
            return Ok(());
        }
        self.trace.note(self.now, m, format_args!("goes on"));
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
        self.let_through();
    }

    /// One-way loss: what it sends is lost, and sent again by its kernel until it arrives; datagrams are not.
    fn mute(&mut self, m: usize, mute: bool) {
        if std::mem::replace(&mut self.machines[m].mute, mute) && !mute {
            self.let_through();
        }
    }

    /// What was held back is sent again soon; it stays where it still cannot pass.
    fn let_through(&mut self) {
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
        let Some(percent) = self.scenario.faults.master_killed_at_percent.filter(|_| !self.master_died) else { return };
        let takers: u64 = self.machines.iter().map(|m| m.wants.len() as u64).sum();
        let Some(pieces) = self.images.first().map(|image| u64::from(image.geometry().pieces())) else { return };
        let held = self.scenario.lab.holders as u64 * pieces;
        let reached = self.checker.verified.saturating_sub(held) as f64 >= (takers * pieces) as f64 * percent / 100.0;
        if !reached {
            return;
        }
        let Some(master) = self.checker.masters().next() else { return };
        self.master_died = true;
        self.queue.push(self.now, Event::Fault(Fault::Kill(master)));
        self.later(self.scenario.expect.one_master_within.0, Event::Inspect);
        if let Some(back) = self.scenario.faults.master_back_after {
            self.later(back.0, Event::Fault(Fault::Start(master)));
            if self.scenario.expect.says_what_it_waits_for {
                self.later(back.0.saturating_sub(people::LOOK_BEFORE), Event::Hear(master));
            }
        }
    }
}
