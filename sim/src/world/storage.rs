//! What the machines ask of their disks, and what comes of it.

use labmesh_proto::id::{Block, ConnId, ImageIndex, Time};
use labmesh_proto::io::{Input, Output};

use super::{Event, World};
use crate::disk::{Copy, Disk};
use crate::network::Item;

impl World {
    pub(super) fn disk_work(&mut self, me: usize, output: Output) {
        let machine = &mut self.machines[me];
        let small = machine.disk.small(self.now);
        match output {
            Output::Open { .. } => self.open_file(me, output),
            Output::Store { image, block } if machine.bad_block => {
                machine.tainted.insert((image, block.piece.get()));
            }
            Output::Discard { image, piece } => {
                machine.tainted.remove(&(image, piece.get()));
            }
            Output::Verify { image, piece } => {
                let metainfo = machine.content(image).and_then(|hash| machine.disk.copy(hash)).map(|c| &c.metainfo);
                let bytes = metainfo.map_or(0, |m| u64::from(m.geometry().piece_len(piece)));
                let good = !machine.tainted.remove(&(image, piece.get()));
                let result = match machine.disk.unwritable(0).filter(|_| good) {
                    Some(error) => Err(error),
                    None => Ok(good),
                };
                let at = machine.disk.write(self.now, bytes);
                self.report_at(at, me, image, Input::Verified { image, piece, result });
            }
            Output::Finish { image } => {
                let result = machine.disk.unwritable(0).map_or(Ok(()), Err);
                self.report_at(small, me, image, Input::Finished { image, result });
            }
            Output::Delete { id, name } => {
                drop(machine.disk.take(&name));
                self.answer_at(small, me, Input::Deleted { id, result: Ok(()) });
            }
            Output::Remember { image, mode, seed_time } => machine.keep_wishes(image, mode, seed_time),
            Output::CloseImage { image } => machine.close(image),
            _ => {}
        }
    }

    /// Space is reserved first, so that a full disk is told at once; what is here already needs none.
    fn open_file(&mut self, me: usize, output: Output) {
        let Output::Open { image, name, metainfo, complete, mode, seed_time } = output else { return };
        let machine = &mut self.machines[me];
        let small = machine.disk.small(self.now);
        let (hash, length) = (metainfo.info_hash(), metainfo.geometry().length());
        machine.open(image, hash);
        let new = machine.disk.copy(hash).is_none();
        let error = machine.disk.unwritable(if new { length } else { 0 });
        // A whole copy is only read.
        let error = if complete { machine.disk.unreadable() } else { error };
        let result = match error {
            Some(error) => Err(error),
            None => {
                let fresh = || Copy::new(metainfo, false, mode, seed_time);
                Ok(Disk::pieces(machine.disk.copies.entry((name, hash)).or_insert_with(fresh)))
            }
        };
        self.report_at(small, me, image, Input::Opened { image, result });
    }

    fn report_at(&mut self, at: Time, machine: usize, image: ImageIndex, input: Input) {
        let (life, opening) = (self.machines[machine].life, self.machines[machine].opening(image));
        self.queue.push(at, Event::OfImage { machine, life, image, opening, input: Box::new(input) });
    }

    /// A block is read while it is sent, if the disk lets it be.
    pub(super) fn read_and_send(&mut self, me: usize, conn: ConnId, image: ImageIndex, block: Block) {
        match self.machines[me].disk.unreadable() {
            Some(error) => self.report_at(self.now, me, image, Input::ReadFailed { image, error }),
            None => self.send_item(me, conn, Item::Block(block)),
        }
    }
}
