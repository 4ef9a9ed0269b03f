//! What trackers of others say, and how torrents name them.
#![no_main]
use labmesh_proto::wire::tracker_client::{TrackerUrl, parse_body, parse_datagram};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = parse_body(bytes);
    for from in ["10.1.2.3", "fd00::1"] {
        let _ = parse_datagram(bytes, from.parse().expect("an address"));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = TrackerUrl::parse(text);
    }
});
