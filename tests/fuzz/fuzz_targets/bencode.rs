//! Bencode within limits.
#![no_main]
use labmesh_proto::wire::bencode::{KeyOrder, decode};
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let sorted = decode(bytes, KeyOrder::Sorted).is_ok();
    assert!(!sorted || decode(bytes, KeyOrder::Any).is_ok());
});
