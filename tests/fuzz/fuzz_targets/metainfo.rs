//! A `.torrent`; what passes keeps its info hash through a rewrite.
#![no_main]
use labmesh_proto::wire::metainfo::{Metainfo, survey::Survey};
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let survey = Survey::read(bytes);
    if let Ok(metainfo) = Metainfo::parse(bytes) {
        let again = Metainfo::parse(&metainfo.to_bytes(metainfo.announce(), metainfo.comment()));
        assert_eq!(again.as_ref(), Ok(&metainfo));
        assert_eq!(survey.map(|survey| survey.info_hash), Ok(Some(metainfo.info_hash())));
    }
});
