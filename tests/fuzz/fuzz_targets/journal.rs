//! Journals of partial copies: any bytes, then records of any bytes with good checksums, or nothing behind those would
//! ever be read.
#![no_main]
use labmesh::io::disk::parse_journal;
use labmesh_proto::wire::metainfo::Metainfo;
use sha1::{Digest, Sha1};

const PIECES: usize = 13;
/// Sequence number, mode, kind of seed time, its seconds, bitfield.
const SLOT: usize = 8 + 1 + 1 + 8 + PIECES.div_ceil(8);

fn torrent() -> Vec<u8> {
    let info = format!("d6:lengthi{}e4:name1:a12:piece lengthi16384e6:pieces{}:", PIECES * 16384, PIECES * 20);
    [b"d4:info", info.as_bytes(), &[7; PIECES * 20], b"ee"].concat()
}

fn pad(journal: &mut Vec<u8>) {
    journal.resize(journal.len().next_multiple_of(4096), 0);
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = parse_journal(bytes);
    let torrent = torrent();
    let image = Metainfo::parse(&torrent).expect("the torrent is good").info_hash();
    let mut journal = b"labmesh journal2".to_vec();
    journal.extend((torrent.len() as u32).to_be_bytes());
    journal.extend(&torrent);
    journal.extend(Sha1::digest(&journal));
    pad(&mut journal);
    for slot in bytes.chunks_exact(SLOT).take(2) {
        journal.extend(slot);
        journal.extend(Sha1::new().chain_update(image.0).chain_update(slot).finalize());
        pad(&mut journal);
    }
    if let Ok(journal) = parse_journal(&journal) {
        assert_eq!(journal.metainfo.info_hash(), image);
    }
});
