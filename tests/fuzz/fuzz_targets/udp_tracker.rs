//! Datagrams of the UDP tracker.
#![no_main]
use labmesh_proto::wire::udp_tracker::Request;
libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    let _ = Request::decode(datagram, [127, 0, 0, 1].into());
});
