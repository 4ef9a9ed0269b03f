//! The people in front of the machines: they say `get`, ask again when that was refused or failed, and may say `stop`.

use std::time::Duration;

use labmesh_proto::id::{InfoHash, RequestId};
use labmesh_proto::io::{Command, Input, Reply};
use labmesh_proto::wire::control::TransferState;

use super::machine::Power;
use super::{Event, World, image_name};

/// Between two tries of a person whose `get` was refused.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// After a transfer has failed, a disk was put right, or the machine was started again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Before a holder comes back, the others' words are looked at.
pub(super) const LOOK_BEFORE: Duration = Duration::from_millis(500);

impl World {
    /// A person wants an image that is not on its way, or a copy that failed to go on.
    pub(super) fn ask(&mut self, index: usize, number: usize) -> Result<(), String> {
        let machine = &self.machines[index];
        let hash = self.images[number].info_hash();
        let asks = machine.wants.contains(&number) && machine.asks_at.is_some_and(|at| at <= self.now);
        let wants = asks && !machine.got.contains_key(&hash) && !machine.is_open(hash);
        let failed = machine.failed.contains(&hash);
        if machine.power != Power::On || !(wants || failed) {
            return Ok(());
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, (index, number));
        let command = if wants {
            let (mode, seed_time) = (Some(machine.mode), machine.seed_time);
            Command::Get { image: image_name(number), mode, seed_time, replace: false }
        } else {
            Command::Start(image_name(number))
        };
        self.feed(index, Input::Command { id, command })
    }

    pub(super) fn replied(&mut self, me: usize, id: RequestId, reply: &Reply) {
        let Some((_, number)) = self.requests.remove(&id) else { return };
        match reply {
            Reply::Refused(_) => self.later(ASK_AGAIN, Event::Ask(me, number)),
            Reply::AlreadyHere(hash) => {
                self.machines[me].got.entry(*hash).or_insert(self.now);
            }
            Reply::Started(_) | Reply::Changed(_) | Reply::Done | Reply::Torrent(_) | Reply::Limits(_) => {}
        }
    }

    /// Something about this machine has changed: its person looks after all images soon.
    pub(super) fn take_care_of(&mut self, index: usize) {
        for number in 0..self.images.len() {
            self.later(LOOK_AGAIN, Event::Ask(index, number));
        }
    }

    pub(super) fn transfer_changed(&mut self, index: usize, hash: InfoHash, state: TransferState) {
        let number = self.images.iter().position(|image| image.info_hash() == hash);
        self.machines[index].failed.remove(&hash);
        if let (Some(number), TransferState::Failed) = (number, state) {
            self.machines[index].failed.insert(hash);
            self.later(LOOK_AGAIN, Event::Ask(index, number));
        }
    }

    /// A copy is whole.
    pub(super) fn finished(&mut self, index: usize, hash: InfoHash) {
        self.machines[index].got.entry(hash).or_insert(self.now);
        let number = self.images.iter().position(|image| image.info_hash() == hash);
        if let (Some(number), true) = (number, self.scenario.lab.stop_when_complete) {
            let id = RequestId(self.next_request);
            self.next_request += 1;
            let command = Command::Stop(image_name(number));
            self.answer_at(self.now, index, Input::Command { id, command });
        }
    }
}
