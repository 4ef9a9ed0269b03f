//! Scenarios of the simulator.
#![no_main]
use labmesh_sim::scenario::Scenario;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = std::str::from_utf8(bytes).map(Scenario::parse);
});
