//! What nodes say to each other over the control plane.
#![no_main]
use labmesh_proto::wire::control::Message;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Message::decode(bytes);
});
