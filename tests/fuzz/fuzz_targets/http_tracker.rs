//! Query strings of announce, scrape and file.
#![no_main]
use labmesh_proto::wire::http_tracker::{Announce, claimed_ip, parse_info_hashes};
libfuzzer_sys::fuzz_target!(|query: &str| {
    let _ = Announce::parse(query, [127, 0, 0, 1].into());
    let _ = parse_info_hashes(query);
    let _ = claimed_ip(query);
});
