//! Journals of partial copies.
#![no_main]
use labmesh::io::disk::parse_journal;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = parse_journal(bytes);
});
