//! Configuration files.
#![no_main]
use labmesh::config::Settings;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = std::str::from_utf8(bytes).map(Settings::parse);
});
