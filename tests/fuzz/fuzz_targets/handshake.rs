//! The 68 bytes that open a peer connection.
#![no_main]
use labmesh_proto::wire::peer::Handshake;
libfuzzer_sys::fuzz_target!(|bytes: [u8; Handshake::BYTES]| {
    if let Ok(handshake) = Handshake::decode(&bytes) {
        assert_eq!(Handshake::decode(&handshake.encode()), Ok(handshake));
    }
});
