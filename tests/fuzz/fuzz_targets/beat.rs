//! Heartbeats and beacons: any datagram, then any behind the header of our mesh.
#![no_main]
use labmesh::io::heartbeat::parse;
use labmesh::io::identity::MeshKey;
use labmesh_proto::config::PROTOCOL_VERSION;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mesh = MeshKey::new("lab", None);
    let _ = parse(&mesh, bytes);
    let header = [&b"LM"[..], &PROTOCOL_VERSION.to_be_bytes(), &mesh.tag()].concat();
    if let Some(beat) = parse(&mesh, &[&header, bytes].concat()) {
        // Anybody can write one; only who holds the key of the node that it names can sign it.
        assert!(!mesh.verify_beat(&beat));
    }
});
