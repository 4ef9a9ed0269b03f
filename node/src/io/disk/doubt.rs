//! What lies in a partial copy and its journal does not vouch for yet: a node that was killed left it there.
//!
//! Rule: a piece whose bytes have the right hash is had, whoever wrote them and whenever; the next sync makes it safe,
//! and the journal vouches for it then. Ranges that were never written are not read, as far as the file system tells.

use std::fs::File;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::wire::metainfo::Metainfo;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tracing::debug;

use super::clerk::SYNC_BYTES;
use crate::io::hash::verify_pieces;

/// What is read at most, since the transfer waits for it: as much as a sync leaves behind, and what came while it ran.
/// From memory it takes 0.1 s. More is there only if the file system does not know what was never written.
const BYTES_MAX: u64 = 2 * SYNC_BYTES;

/// The good pieces of `file` that are not in `vouched`. If one cannot be read there are none: all are fetched again.
pub(super) fn good_in_doubt(file: &File, metainfo: &Metainfo, vouched: &Bitfield) -> Bitfield {
    let geometry = metainfo.geometry();
    let mut doubtful = Vec::new();
    let mut room = BYTES_MAX;
    // Where the next bytes lie that were written.
    let mut data = 0;
    for piece in geometry.all().filter(|piece| !vouched.has(*piece)) {
        let (start, len) = (geometry.start(piece), u64::from(geometry.piece_len(piece)));
        if data < start {
            let Some(at) = next_data(file, start) else { break };
            data = at;
        }
        if data >= start + len {
            continue;
        }
        let Some(left) = room.checked_sub(len) else { break };
        room = left;
        doubtful.push(piece);
    }
    verify_pieces(file, metainfo, &doubtful, &|_| ()).unwrap_or_else(|error| {
        debug!(%error, "what the journal does not vouch for cannot be read");
        Bitfield::empty(geometry.pieces())
    })
}

/// Where the first byte at or after `start` lies that was written.
fn next_data(file: &File, start: u64) -> Option<u64> {
    match seek(file, SeekFrom::Data(start)) {
        Ok(at) => Some(at),
        Err(Errno::NXIO) => None,
        // This file system cannot say.
        Err(_) => Some(start),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use labmesh_proto::id::PieceIndex;

    use super::*;
    use crate::io::testing::sample;

    /// Nothing, then more and more of a file, some of it wrong, and a journal that knows some of it.
    #[test]
    fn what_was_written_and_is_right_is_good() {
        let sample = sample(10 * 65536 + 12_345, 65536);
        let (metainfo, geometry) = (&sample.metainfo, sample.metainfo.geometry());
        let file = tempfile::tempfile().unwrap();
        file.set_len(geometry.length()).unwrap();
        let mut vouched = Bitfield::empty(geometry.pieces());
        let good = |vouched: &Bitfield| {
            good_in_doubt(&file, metainfo, vouched).iter(geometry).map(PieceIndex::get).collect::<Vec<_>>()
        };
        assert!(good(&vouched).is_empty());
        for n in [10, 2, 3, 7] {
            let piece = sample.piece(n);
            file.write_all_at(sample.piece_bytes(piece), geometry.start(piece)).unwrap();
        }
        assert_eq!(good(&vouched), [2, 3, 7, 10]);
        vouched.set(sample.piece(3));
        // Torn: all but its last byte.
        let torn = sample.piece(5);
        file.write_all_at(&sample.piece_bytes(torn)[..65535], geometry.start(torn)).unwrap();
        file.write_all_at(b"other", geometry.start(sample.piece(7)) + 70).unwrap();
        assert_eq!(good(&vouched), [2, 10]);
        file.write_all_at(&sample.bytes, 0).unwrap();
        assert_eq!(good(&vouched), [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]);
        assert!(good(&Bitfield::full(geometry.pieces())).is_empty());
        file.set_len(geometry.length() - 1).unwrap();
        assert_eq!(good(&vouched), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    }
}
