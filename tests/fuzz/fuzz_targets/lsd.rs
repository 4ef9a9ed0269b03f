//! Announces of local service discovery; what passes is the same announce again.
#![no_main]
use labmesh_proto::wire::lsd::{Announce, HASHES_MAX};
libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    if let Ok(announce) = Announce::decode(datagram) {
        let again = Announce::decode(&announce.encode()).expect("our own bytes");
        assert_eq!((again.port, &again.cookie), (announce.port, &announce.cookie));
        assert_eq!(again.info_hashes, announce.info_hashes[..announce.info_hashes.len().min(HASHES_MAX)]);
    }
});
