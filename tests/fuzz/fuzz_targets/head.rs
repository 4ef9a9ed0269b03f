//! Heads of HTTP requests, as the tracker's port tells announces from pages; whatever may still become an announce.
#![no_main]
use labmesh::io::tracker::head::{Head, read};
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for request in [bytes, &[b"GET /announce?", bytes].concat()] {
        if let Head::Announce(announce) = read(request) {
            assert!(announce.len <= request.len());
            assert!(request[..announce.len].ends_with(b"\n"));
        }
    }
});
