//! Messages of peer exchange; what passes is the same message again.
#![no_main]
use labmesh_proto::wire::pex::Pex;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(pex) = Pex::decode(bytes) {
        let again = Pex::decode(&pex.encode()).expect("our own bytes");
        assert_eq!((again.added.len(), again.dropped.len()), (pex.added.len(), pex.dropped.len()));
    }
});
