//! What any `.torrent` says, for people: also one that we would not fetch.
//!
//! Rule: nothing is refused that is a torrent at all, nothing here is used to fetch anything, and whatever is missing
//! or of another type is left out. Whether we take it says [`Survey::refused`]. Not here: how it is shown (`labmesh`).

use std::ops::Range;

use bip_bencode::{BRefAccess, BencodeRef};
use sha1::{Digest, Sha1};

use super::{Metainfo, MetainfoError, tiers_of};
use crate::config::TORRENT_BYTES_MAX;
use crate::id::InfoHash;
use crate::wire::bencode::{self, KeyOrder, lookup};

/// One file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its folders and its name, joined by `/`; nothing about it was checked.
    pub path: String,
    /// Bytes.
    pub length: u64,
}

/// Everything that a `.torrent` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The name that it suggests for the file or the folder.
    pub name: String,
    /// SHA-1 of the raw `info`; `None` without the piece hashes of BitTorrent v1.
    pub info_hash: Option<InfoHash>,
    /// `meta version` 2 (BEP 52): it has an info hash of v2, the SHA-256 of [`Self::info`].
    pub is_v2: bool,
    /// Where the raw `info` dictionary lies in the bytes that were read.
    pub info: Range<usize>,
    /// Every file; one for a single-file torrent.
    pub files: Vec<File>,
    /// It has a folder with files, not one file.
    pub is_folder: bool,
    /// Bytes; 0 if it does not say.
    pub piece_length: u64,
    /// SHA-1 hashes of pieces.
    pub pieces: usize,
    /// `private` is there and 1 (BEP 27).
    pub private: bool,
    /// `source` of the `info` dictionary: who published it.
    pub source: Option<String>,
    /// Trackers in tiers (BEP 12).
    pub announce: Vec<Vec<String>>,
    /// Web seeds (BEP 19, `url-list`).
    pub web_seeds: Vec<String>,
    /// The comment.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
    /// Why we would not fetch it.
    pub refused: Option<MetainfoError>,
}

impl Survey {
    /// Reads what `bytes` say.
    ///
    /// # Errors
    /// If they are no torrent: too large, no bencode, or without an `info` dictionary.
    pub fn read(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > TORRENT_BYTES_MAX {
            return Err(MetainfoError::TooLarge(bytes.len()));
        }
        let root = bencode::decode(bytes, KeyOrder::Any).map_err(MetainfoError::Bencode)?;
        let info = lookup(&root, "info").filter(|info| info.dict().is_some()).ok_or(MetainfoError::NoInfo)?;
        let raw = info.buffer();
        let start = raw.as_ptr().addr() - bytes.as_ptr().addr();
        let pieces = lookup(info, "pieces").and_then(BRefAccess::bytes);
        let name = text(info, "name").unwrap_or_default();
        let (files, is_folder) = files(info, &name);
        Ok(Self {
            info_hash: pieces.map(|_| InfoHash(Sha1::digest(raw).into())),
            is_v2: number(info, "meta version") == Some(2),
            info: start..start + raw.len(),
            files,
            is_folder,
            piece_length: length(info, "piece length"),
            pieces: pieces.map_or(0, |hashes| hashes.len() / 20),
            private: number(info, "private") == Some(1),
            source: text(info, "source"),
            announce: tiers_of(&root),
            web_seeds: web_seeds(&root),
            comment: text(&root, "comment"),
            created_by: text(&root, "created by"),
            created: number(&root, "creation date"),
            refused: Metainfo::parse(bytes).err(),
            name,
        })
    }
}

fn number(dict: &BencodeRef<'_>, key: &str) -> Option<i64> {
    lookup(dict, key).and_then(BRefAccess::int)
}

/// A length; what is negative or missing is 0.
fn length(dict: &BencodeRef<'_>, key: &str) -> u64 {
    number(dict, key).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// A text, also of another encoding than UTF-8, as far as it can be read.
fn text(dict: &BencodeRef<'_>, key: &str) -> Option<String> {
    lookup(dict, key).and_then(BRefAccess::bytes).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// `url-list`: one address or a list (BEP 19).
fn web_seeds(root: &BencodeRef<'_>) -> Vec<String> {
    lookup(root, "url-list").map(urls).unwrap_or_default()
}

/// The addresses in a `url-list`.
pub(super) fn urls(list: &BencodeRef<'_>) -> Vec<String> {
    let url = |value: &BencodeRef<'_>| value.str().filter(|url| !url.is_empty()).map(str::to_owned);
    list.list().map_or_else(|| url(list).into_iter().collect(), |urls| urls.into_iter().filter_map(url).collect())
}

/// `length`, `files` of v1, or the `file tree` of v2; and whether it is a folder.
fn files(info: &BencodeRef<'_>, name: &str) -> (Vec<File>, bool) {
    if let Some(files) = lookup(info, "files").and_then(BRefAccess::list) {
        let path = |file: &BencodeRef<'_>| {
            let parts = lookup(file, "path").and_then(BRefAccess::list).map(|parts| {
                let part = |part: &BencodeRef<'_>| part.bytes().map(|b| String::from_utf8_lossy(b).into_owned());
                parts.into_iter().filter_map(part).collect::<Vec<_>>().join("/")
            });
            File { path: parts.unwrap_or_default(), length: length(file, "length") }
        };
        return (files.into_iter().map(path).collect(), true);
    }
    if lookup(info, "length").is_some() {
        return (vec![File { path: name.to_owned(), length: length(info, "length") }], false);
    }
    let mut files = Vec::new();
    if let Some(tree) = lookup(info, "file tree") {
        walk(tree, "", &mut files);
    }
    let is_folder = !matches!(files.as_slice(), [only] if only.path == name);
    (files, is_folder)
}

/// BEP 52: a file is a dictionary with one entry whose key is empty. As deep as bencode may be.
fn walk(tree: &BencodeRef<'_>, folder: &str, files: &mut Vec<File>) {
    for (name, below) in tree.dict().map(|dict| dict.to_list()).unwrap_or_default() {
        let name = String::from_utf8_lossy(name);
        let path = if folder.is_empty() { name.into_owned() } else { format!("{folder}/{name}") };
        match lookup(below, "") {
            Some(file) => files.push(File { path, length: length(file, "length") }),
            None => walk(below, &path, files),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MULTI: &[u8] = include_bytes!("../../../../tests/vectors/multi-file.torrent");
    const HYBRID: &[u8] = include_bytes!("../../../../tests/vectors/hybrid.torrent");
    const V2: &[u8] = include_bytes!("../../../../tests/vectors/v2-only.torrent");

    #[test]
    fn what_we_would_fetch_is_read_as_we_fetch_it() {
        let bytes = include_bytes!("../../../../tests/vectors/private-source.torrent");
        let (survey, metainfo) = (Survey::read(bytes).unwrap(), Metainfo::parse(bytes).unwrap());
        assert_eq!((survey.info_hash, survey.refused), (Some(metainfo.info_hash()), None));
        assert_eq!(&bytes[survey.info], metainfo.info_bytes());
        assert_eq!((survey.private, survey.is_v2, survey.is_folder), (true, false, false));
        assert!(survey.source.is_some() && !survey.web_seeds.is_empty());
        let only = File { path: metainfo.name().to_owned(), length: metainfo.geometry().length() };
        assert_eq!((survey.files, survey.announce), (vec![only], metainfo.announce().to_vec()));
    }

    #[test]
    fn several_files_are_listed_and_said_to_be_refused() {
        let survey = Survey::read(MULTI).unwrap();
        assert_eq!(survey.refused, Some(MetainfoError::MultiFile));
        assert!(survey.is_folder && survey.files.len() > 1, "{survey:?}");
        assert_eq!(survey.info_hash.unwrap().to_string(), "87cff4022b6b1491a351a9d71eb9721689f5bc94");
    }

    #[test]
    fn v2_has_its_own_file_tree() {
        let v2 = Survey::read(V2).unwrap();
        assert_eq!((v2.info_hash, v2.is_v2, v2.refused.clone()), (None, true, Some(MetainfoError::NoPieces)));
        assert!(!v2.files.is_empty() && v2.files.iter().all(|file| file.length > 0), "{v2:?}");
        let hybrid = Survey::read(HYBRID).unwrap();
        assert_eq!((hybrid.info_hash.is_some(), hybrid.is_v2, hybrid.refused), (true, true, None));
    }

    #[test]
    fn what_is_of_another_type_is_left_out() {
        let odd = b"d7:comment2:\xff\xfe8:url-listli1e1:ue4:infod5:filesl1:xd6:lengthi-5eee4:name1:n6:pieces3:abcee";
        let survey = Survey::read(odd).unwrap();
        assert_eq!(survey.comment.as_deref(), Some("\u{fffd}\u{fffd}"));
        assert_eq!((survey.web_seeds, survey.pieces, survey.files.len()), (vec!["u".to_owned()], 0, 2));
        assert_eq!(Survey::read(b"d4:info1:xe"), Err(MetainfoError::NoInfo));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            let _ = Survey::read(&bytes);
        }

        #[test]
        fn nor_a_torrent_that_was_spoilt(at in 0_usize..400, byte: u8) {
            let mut bytes = MULTI.to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(survey) = Survey::read(&bytes) {
                prop_assert!(survey.info.end <= bytes.len());
            }
        }
    }
}
