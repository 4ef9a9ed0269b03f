//! A stream of the peer protocol, in two fragments; payload is taken as the driver takes it.
#![no_main]
use labmesh_proto::wire::peer::{Decoder, Item};
libfuzzer_sys::fuzz_target!(|halves: (&[u8], &[u8])| {
    let mut decoder = Decoder::default();
    for mut input in [halves.0, halves.1] {
        while let Ok(Some(item)) = decoder.next(&mut input) {
            if let Item::Piece(range) = item {
                input = input.get(range.len as usize..).unwrap_or_default();
            }
        }
    }
});
