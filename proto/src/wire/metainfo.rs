//! `.torrent` files (BEP 3 metainfo): one file, v1, checked; and rewriting them around their raw `info` bytes.
//!
//! Rule: what is a [`Metainfo`] satisfies every limit of [`crate::config`]; its `info` bytes are those that came,
//! never re-encoded, so its info hash survives add, export and rewrite. Not here: hashing of pieces (`labmesh`).
//!
//! `bip_metainfo` reads the `info` dictionary, after we have refused what it would let through (negative lengths,
//! keys out of order, `files` beside `length`). What it cannot read at all, the lists of trackers, and writing are
//! ours: its own writer drops every key that it does not know, which makes another info hash.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use bip_bencode::{BRefAccess, BencodeRef};
use bip_metainfo::Info;

use crate::config::{PIECE_BYTES_MAX, PIECE_BYTES_MIN, TORRENT_BYTES_MAX};
use crate::id::{Geometry, InfoHash, PieceIndex};
use crate::wire::bencode::{self, BadBencode, KeyOrder};

pub mod survey;

/// What we write as `created by`.
const CREATED_BY: &[u8] = b"labmesh";
/// Bytes of a file name: what Linux file systems take (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// Keys of the outer dictionary that we read ourselves or write anew; all others are kept as they came.
const OWN_KEYS: [&[u8]; 5] = [b"announce", b"announce-list", b"comment", b"created by", b"info"];

/// The piece length of the whole mesh for an image of `size` bytes, so that the same bytes are the same swarm
/// everywhere: 2^ceil(log2(size / 2048)), between 64 KiB and 2 MiB, but no more than 32,768 pieces up to 512 GiB, where
/// a piece has 16 MiB.
///
/// Short pieces are passed on sooner and take up less of the piece buffer; each one costs the torrent 20 bytes.
pub fn piece_length_for(size: u64) -> u32 {
    const KIB: u64 = 1024;
    let for_so_many = |pieces: u64| size.div_ceil(pieces).next_power_of_two();
    let short = for_so_many(2048).clamp(64 * KIB, 2048 * KIB);
    for_so_many(32_768).clamp(short, 16 * 1024 * KIB) as u32
}

/// Why bytes are not a torrent that we take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// Refused before it is parsed.
    #[error("a torrent of {0} bytes; more than {TORRENT_BYTES_MAX} are refused")]
    TooLarge(usize),
    /// Not one whole bencoded value, or beyond the limits of one.
    #[error("not a torrent: {0}")]
    Bencode(BadBencode),
    /// The `info` dictionary alone is not as it should be: unsorted keys would give it two info hashes.
    #[error("the torrent's info dictionary: {0}")]
    Info(BadBencode),
    /// Bencode, but of something else.
    #[error("not a torrent: expected a dictionary with an info dictionary")]
    NoInfo,
    /// Several files, or a folder.
    #[error("a torrent of several files; only single-file torrents hold an image")]
    MultiFile,
    /// BitTorrent v2 without the v1 hashes that our peers speak.
    #[error("a torrent of BitTorrent v2 only; make it again as v1 or hybrid")]
    NoPieces,
    /// `key` is missing or of another type.
    #[error("the torrent has no {0}")]
    Missing(&'static str),
    /// Zero or negative.
    #[error("the torrent says that its file has {0} bytes; expected at least 1")]
    Length(i64),
    /// Zero, negative or outside the limits.
    #[error("a piece length of {0} bytes; expected {PIECE_BYTES_MIN} to {PIECE_BYTES_MAX}")]
    PieceLength(i64),
    /// The piece hashes are not a multiple of 20 bytes.
    #[error("{0} bytes of piece hashes, which is not a multiple of 20")]
    PieceHashes(usize),
    /// The number of hashes does not fit the lengths.
    #[error("{got} piece hashes for a file that has {expected} pieces")]
    PieceCount {
        /// How many pieces length and piece length make.
        expected: u64,
        /// How many hashes there are.
        got: usize,
    },
    /// The name is not UTF-8.
    #[error("the file name in the torrent is not UTF-8")]
    NameNotText,
    /// The name is empty.
    #[error("the file name in the torrent is empty")]
    NameEmpty,
    /// The name is longer than a file system takes.
    #[error("the file name in the torrent has {0} bytes; more than {NAME_BYTES_MAX} are refused")]
    NameTooLong(usize),
    /// The name would lead to another folder.
    #[error("the file name in the torrent is {0:?}; expected a name without folders")]
    NameIsPath(String),
    /// The name holds NUL, a line end, or something else that no terminal should be shown.
    #[error("the file name in the torrent is {0:?}; control characters are refused")]
    NameControl(String),
    /// `bip_metainfo` finds something that we did not.
    #[error("the torrent's info dictionary: {0}")]
    Unreadable(String),
}

/// A checked single-file torrent.
#[derive(Clone, PartialEq, Eq)]
pub struct Metainfo {
    info: Vec<u8>,
    info_hash: InfoHash,
    name: String,
    geometry: Geometry,
    /// Where the piece hashes lie in `info`.
    hashes: Range<usize>,
    announce: Vec<Vec<String>>,
    comment: Option<String>,
    private: bool,
    /// Other entries of the outer dictionary, key and raw value: `url-list`, `piece layers` of a hybrid, dates.
    others: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What is equal has one info hash; nobody needs to hash megabytes of piece hashes again.
impl Hash for Metainfo {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.info_hash.hash(state);
    }
}

impl Metainfo {
    /// Reads and checks a `.torrent`.
    ///
    /// # Errors
    /// If it is not a single-file torrent within every limit; the message says what was wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > TORRENT_BYTES_MAX {
            return Err(MetainfoError::TooLarge(bytes.len()));
        }
        // Some tools append to the outer dictionary without sorting, which harms nobody.
        let root = bencode::decode(bytes, KeyOrder::Any).map_err(MetainfoError::Bencode)?;
        let info = bencode::lookup(&root, "info").ok_or(MetainfoError::NoInfo)?;
        let mut metainfo = Self::from_info(info.buffer().to_vec())?;
        metainfo.announce = tiers_of(&root);
        metainfo.comment = bencode::lookup(&root, "comment").and_then(BRefAccess::str).map(str::to_owned);
        if let Some(entries) = root.dict() {
            let others = entries.to_list().into_iter().filter(|(key, _)| !OWN_KEYS.contains(key));
            metainfo.others = others.map(|(key, value)| (key.to_vec(), value.buffer().to_vec())).collect();
        }
        Ok(metainfo)
    }

    /// Checks a bencoded `info` dictionary, as the creator of a torrent makes it.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn from_info(info: Vec<u8>) -> Result<Self, MetainfoError> {
        if info.len() > TORRENT_BYTES_MAX {
            return Err(MetainfoError::TooLarge(info.len()));
        }
        let dict = bencode::decode(&info, KeyOrder::Sorted).map_err(MetainfoError::Info)?;
        let hashes = piece_hashes(&dict, &info)?;
        check_keys(&dict)?;
        let read = Info::from_bytes(&info).map_err(|error| MetainfoError::Unreadable(error.to_string()))?;
        let file = read.files().next().ok_or(MetainfoError::Missing("length"))?;
        let name = file.path().to_str().ok_or(MetainfoError::NameNotText)?;
        check_name(name)?;
        Ok(Self {
            info_hash: InfoHash(read.info_hash().into()),
            name: name.to_owned(),
            geometry: geometry(file.length(), read.piece_length(), hashes.len())?,
            hashes,
            announce: Vec::new(),
            comment: None,
            private: read.is_private() == Some(true),
            others: BTreeMap::new(),
            info,
        })
    }

    /// Writes a `.torrent` around the raw `info` bytes. The same arguments give the same bytes: no date is added.
    ///
    /// `tiers` (BEP 12) replace the trackers it came with, and `comment` its comment; empty tiers are left out.
    /// What else stood in the outer dictionary (`url-list`, the `piece layers` of a hybrid) is kept.
    pub fn to_bytes(&self, tiers: &[Vec<String>], comment: Option<&str>) -> Vec<u8> {
        let mut entries: BTreeMap<&[u8], Cow<'_, [u8]>> =
            self.others.iter().map(|(key, value)| (&key[..], value.into())).collect();
        entries.insert(b"info", (&self.info).into());
        entries.insert(b"created by", string(CREATED_BY).into());
        if let Some(comment) = comment {
            entries.insert(b"comment", string(comment.as_bytes()).into());
        }
        if let Some(first) = tiers.iter().flatten().next() {
            entries.insert(b"announce", string(first.as_bytes()).into());
        }
        if tiers.iter().flatten().nth(1).is_some() {
            entries.insert(b"announce-list", tier_list(tiers).into());
        }
        let mut out = Vec::with_capacity(self.info.len() + 1024);
        bencode::write_dict(&mut out, |dict| entries.iter().for_each(|(key, value)| dict.raw(key, value)));
        out
    }

    /// The same torrent of a private swarm (BEP 27), which has another info hash.
    ///
    /// # Errors
    /// If its `info` has `private` already, or a key that would have to follow it.
    pub fn into_private(self) -> Result<Self, MetainfoError> {
        let mut info = self.info;
        info.pop();
        info.extend_from_slice(b"7:privatei1ee");
        Self::from_info(info)
    }

    /// Sets when it was made, in seconds since 1970.
    pub fn set_created(&mut self, seconds: u64) {
        self.others.insert(b"creation date".to_vec(), format!("i{seconds}e").into_bytes());
    }

    /// Its web seeds (BEP 19, `url-list`), unchecked.
    pub fn web_seeds(&self) -> Vec<String> {
        let list = self.others.get(&b"url-list"[..]).and_then(|raw| bencode::decode(raw, KeyOrder::Any).ok());
        list.map(|list| survey::urls(&list)).unwrap_or_default()
    }

    /// Sets its web seeds (BEP 19, `url-list`).
    pub fn set_web_seeds(&mut self, urls: &[String]) {
        let mut list = Vec::new();
        bencode::write_list(&mut list, |out| urls.iter().for_each(|url| bencode::write_bytes(out, url.as_bytes())));
        self.others.insert(b"url-list".to_vec(), list);
    }

    /// The bencoded `info` dictionary, byte by byte as it came.
    pub fn info_bytes(&self) -> &[u8] {
        &self.info
    }

    /// The SHA-1 of the raw `info` bytes.
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// The file name that the torrent suggests: one path component.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the image is cut.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The SHA-1 that a piece must have.
    pub fn hash(&self, piece: PieceIndex) -> &[u8; 20] {
        let (hashes, _) = self.info[self.hashes.clone()].as_chunks();
        &hashes[piece.index()]
    }

    /// The trackers that it came with, in tiers (BEP 12): `announce-list`, else `announce`.
    pub fn announce(&self) -> &[Vec<String>] {
        &self.announce
    }

    /// The comment that it came with.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// BEP 27: peers are to be found by its trackers only.
    pub fn private(&self) -> bool {
        self.private
    }
}

impl fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metainfo({:?} {:?} {} bytes)", self.name, self.info_hash, self.geometry.length())
    }
}

/// Finds the piece hashes in `info`, the bytes that `dict` was read from.
fn piece_hashes(dict: &BencodeRef<'_>, info: &[u8]) -> Result<Range<usize>, MetainfoError> {
    if dict.dict().is_none() {
        return Err(MetainfoError::NoInfo);
    }
    if bencode::lookup(dict, "files").is_some() {
        return Err(MetainfoError::MultiFile);
    }
    let Some(pieces) = bencode::lookup(dict, "pieces").and_then(BRefAccess::bytes) else {
        let v2 = bencode::lookup(dict, "file tree").is_some();
        return Err(if v2 { MetainfoError::NoPieces } else { MetainfoError::Missing("pieces") });
    };
    if !pieces.len().is_multiple_of(20) {
        return Err(MetainfoError::PieceHashes(pieces.len()));
    }
    let start = pieces.as_ptr().addr() - info.as_ptr().addr();
    Ok(start..start + pieces.len())
}

/// The keys that `bip_metainfo` would complain of in words that help nobody.
fn check_keys(dict: &BencodeRef<'_>) -> Result<(), MetainfoError> {
    for key in ["length", "piece length"] {
        bencode::lookup(dict, key).and_then(BRefAccess::int).ok_or(MetainfoError::Missing(key))?;
    }
    let name = bencode::lookup(dict, "name").and_then(BRefAccess::bytes).ok_or(MetainfoError::Missing("name"))?;
    std::str::from_utf8(name).map(|_| ()).map_err(|_| MetainfoError::NameNotText)
}

/// Checks the numbers, as `bip_metainfo` reads them: negative ones come as huge ones, which is undone here.
fn geometry(length: u64, piece_length: u64, hashes: usize) -> Result<Geometry, MetainfoError> {
    if length == 0 || length > i64::MAX as u64 {
        return Err(MetainfoError::Length(length.cast_signed()));
    }
    let piece = u32::try_from(piece_length).ok().filter(|len| (PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(len));
    let piece = piece.ok_or(MetainfoError::PieceLength(piece_length.cast_signed()))?;
    let (expected, got) = (length.div_ceil(u64::from(piece)), hashes / 20);
    let fits = Geometry::new(length, piece).filter(|_| expected == got as u64);
    fits.ok_or(MetainfoError::PieceCount { expected, got })
}

/// One path component that can be shown to people.
fn check_name(name: &str) -> Result<(), MetainfoError> {
    if name.is_empty() {
        return Err(MetainfoError::NameEmpty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(MetainfoError::NameTooLong(name.len()));
    }
    if name.contains(char::is_control) {
        return Err(MetainfoError::NameControl(name.to_owned()));
    }
    if name.contains('/') || name == "." || name == ".." {
        return Err(MetainfoError::NameIsPath(name.to_owned()));
    }
    Ok(())
}

/// `announce-list` (BEP 12), else `announce`; what is no text is left out.
fn tiers_of(root: &BencodeRef<'_>) -> Vec<Vec<String>> {
    let url = |value: &BencodeRef<'_>| value.str().filter(|url| !url.is_empty()).map(str::to_owned);
    let tier = |value: &BencodeRef<'_>| value.list().map(|urls| urls.into_iter().filter_map(url).collect::<Vec<_>>());
    let list = bencode::lookup(root, "announce-list").and_then(BRefAccess::list);
    let mut tiers: Vec<_> = list.map(|tiers| tiers.into_iter().filter_map(tier).collect()).unwrap_or_default();
    tiers.retain(|tier| !tier.is_empty());
    if tiers.is_empty() {
        tiers.extend(bencode::lookup(root, "announce").and_then(url).map(|only| vec![only]));
    }
    tiers
}

fn tier_list(tiers: &[Vec<String>]) -> Vec<u8> {
    let mut out = Vec::new();
    bencode::write_list(&mut out, |out| {
        for tier in tiers.iter().filter(|tier| !tier.is_empty()) {
            bencode::write_list(out, |out| tier.iter().for_each(|url| bencode::write_bytes(out, url.as_bytes())));
        }
    });
    out
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    bencode::write_bytes(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use bip_metainfo::{Accessor, InfoBuilder, IntoAccessor, PieceAccess, PieceLength};
    use proptest::prelude::*;
    use sha1::{Digest, Sha1};

    use super::*;

    const VECTORS: [(&str, &[u8]); 4] = [
        ("hybrid", include_bytes!("../../../tests/vectors/hybrid.torrent")),
        ("mktorrent", include_bytes!("../../../tests/vectors/mktorrent.torrent")),
        ("private-source", include_bytes!("../../../tests/vectors/private-source.torrent")),
        ("transmission", include_bytes!("../../../tests/vectors/transmission.torrent")),
    ];

    /// What Transmission and libtorrent print: file, hash of the one, hash of the other.
    fn printed(name: &str) -> InfoHash {
        let line = include_str!("../../../tests/vectors/hashes.txt")
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}.torrent ")))
            .unwrap();
        line.split(' ').next_back().unwrap().parse().unwrap()
    }

    fn vector(name: &str) -> Metainfo {
        Metainfo::parse(VECTORS.iter().find(|(n, _)| *n == name).unwrap().1).unwrap()
    }

    fn tiers(urls: &[&[&str]]) -> Vec<Vec<String>> {
        urls.iter().map(|tier| tier.iter().map(|url| (*url).to_owned()).collect()).collect()
    }

    /// An `info` dictionary of 4 pieces in which each key may be replaced (or removed by an empty value).
    fn info(changes: &[(&str, &str)]) -> Vec<u8> {
        let mut entries: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
            ("length", b"i100000e".to_vec()),
            ("name", b"7:lab.img".to_vec()),
            ("piece length", b"i32768e".to_vec()),
            ("pieces", string(&[0x6c; 80])),
        ]);
        for (key, value) in changes {
            entries.insert(key, value.as_bytes().to_vec());
        }
        let mut out = Vec::new();
        bencode::write_dict(&mut out, |dict| {
            entries.iter().filter(|(_, v)| !v.is_empty()).for_each(|(k, v)| dict.raw(k.as_bytes(), v));
        });
        out
    }

    #[track_caller]
    fn check(changes: &[(&str, &str)], expected: Result<(), MetainfoError>) {
        assert_eq!(Metainfo::from_info(info(changes)).map(|_| ()), expected);
    }

    #[track_caller]
    fn check_name_is(name: &str, expected: Result<(), MetainfoError>) {
        check(&[("name", &String::from_utf8(string(name.as_bytes())).unwrap())], expected);
    }

    #[test]
    fn torrents_of_other_tools_have_the_info_hash_that_those_print() {
        for (name, bytes) in VECTORS {
            let metainfo = Metainfo::parse(bytes).unwrap();
            assert_eq!(metainfo.info_hash(), printed(name), "{name}");
            assert_eq!((metainfo.geometry().length(), metainfo.geometry().pieces()), (100_000, 4), "{name}");
            for piece in metainfo.geometry().all() {
                let start = metainfo.geometry().start(piece);
                let end = start + u64::from(metainfo.geometry().piece_len(piece));
                let content: Vec<u8> = (start..end).map(|n| (n % 251) as u8).collect();
                assert_eq!(metainfo.hash(piece)[..], Sha1::digest(&content)[..], "{name}");
            }
        }
        assert_eq!(vector("transmission").name(), "Aula 3 ñandú.img");
        assert_eq!(vector("mktorrent").comment(), Some("made by mktorrent"));
        assert_eq!(vector("mktorrent").announce(), tiers(&[&["http://10.0.0.1:6969/announce"]]));
        let two =
            tiers(&[&["http://10.0.0.1:6969/announce", "udp://10.0.0.2:6969"], &["http://10.0.0.3:6969/announce"]]);
        assert_eq!(vector("private-source").announce(), two);
        assert!(vector("private-source").private() && !vector("transmission").private());
    }

    #[test]
    fn a_rewrite_keeps_info_bytes_and_foreign_keys_and_changes_trackers_and_comment() {
        for (name, bytes) in VECTORS {
            let before = Metainfo::parse(bytes).unwrap();
            let new = tiers(&[&["http://192.168.1.7:6969/announce"], &[], &["http://labmesh.local:6969/announce"]]);
            let written = before.to_bytes(&new, Some("md5"));
            let after = Metainfo::parse(&written).unwrap();
            assert_eq!((after.info_hash(), after.info_bytes()), (before.info_hash(), before.info_bytes()), "{name}");
            assert_eq!(after.announce(), [&new[0][..], &new[2][..]], "{name}");
            assert_eq!((after.comment(), &after.others), (Some("md5"), &before.others), "{name}");
            assert!(bencode::decode(&written, KeyOrder::Sorted).is_ok(), "{name}");
            assert_eq!(written, after.to_bytes(&new, Some("md5")), "{name}: not reproducible");
        }
        let layers = vector("hybrid").others;
        assert!(layers.contains_key(&b"piece layers"[..]), "libtorrent refuses a hybrid without them");
        assert!(vector("private-source").others.contains_key(&b"url-list"[..]));
    }

    #[test]
    fn the_outer_dictionary_has_exactly_what_was_asked_for() {
        let metainfo = Metainfo::from_info(info(&[])).unwrap();
        let written = |tiers: &[Vec<String>], comment| {
            let bytes = metainfo.to_bytes(tiers, comment);
            String::from_utf8(bytes).unwrap().replace(std::str::from_utf8(metainfo.info_bytes()).unwrap(), "INFO")
        };
        assert_eq!(written(&[], None), "d10:created by7:labmesh4:infoINFOe");
        let one = tiers(&[&["http://a"]]);
        assert_eq!(written(&one, Some("c")), "d8:announce8:http://a7:comment1:c10:created by7:labmesh4:infoINFOe");
        let list = "13:announce-listll8:http://ael8:http://bee";
        let two = tiers(&[&["http://a"], &[], &["http://b"]]);
        let expected = format!("d8:announce8:http://a{list}10:created by7:labmesh4:infoINFOe");
        assert_eq!(written(&two, None), expected);
    }

    #[test]
    fn a_private_torrent_is_another_one() {
        let plain = Metainfo::from_info(info(&[])).unwrap();
        let private = plain.clone().into_private().unwrap();
        assert!(private.private() && !plain.private());
        assert_eq!((private.name(), private.geometry()), (plain.name(), plain.geometry()));
        assert_eq!(private.info_bytes(), info(&[("private", "i1e")]));
        assert!(private.into_private().is_err(), "once is enough");
        assert!(Metainfo::from_info(info(&[("source", "1:x")])).unwrap().into_private().is_err(), "out of order");
    }

    #[test]
    fn what_the_maker_adds_stands_outside_the_info() {
        let mut metainfo = Metainfo::from_info(info(&[])).unwrap();
        metainfo.set_created(1_700_000_000);
        metainfo.set_web_seeds(&["http://w/x.img".to_owned()]);
        let again = Metainfo::parse(&metainfo.to_bytes(&[], None)).unwrap();
        assert_eq!(again.info_hash(), metainfo.info_hash());
        assert_eq!(again.others[&b"creation date"[..]], b"i1700000000e");
        assert_eq!(again.others[&b"url-list"[..]], b"l14:http://w/x.imge");
        assert_eq!(again.web_seeds(), ["http://w/x.img"]);
    }

    #[test]
    fn unknown_info_keys_survive() {
        let odd = info(&[("private", "i1e"), ("source", "3:LAB"), ("x-unknown", "d1:ali1eee"), ("md5sum", "2:xx")]);
        let metainfo = Metainfo::from_info(odd.clone()).unwrap();
        let again = Metainfo::parse(&metainfo.to_bytes(&[], None)).unwrap();
        assert_eq!((again.info_bytes(), again.private()), (&odd[..], true));
        assert_eq!(again.info_hash().0[..], Sha1::digest(&odd)[..]);
    }

    #[test]
    fn hostile_numbers_are_refused_each_with_its_reason() {
        check(&[], Ok(()));
        for piece_length in [0, -1, i64::MIN, i64::MAX, 16_383, (64 << 20) + 1, 1 << 32, (1 << 32) + 32_768] {
            let expected = Err(MetainfoError::PieceLength(piece_length));
            check(&[("piece length", &format!("i{piece_length}e"))], expected);
        }
        for length in [0, -1, -5, i64::MIN] {
            check(&[("length", &format!("i{length}e"))], Err(MetainfoError::Length(length)));
        }
        for (length, expected) in [(98_304, 3), (131_073, 5), (1, 1), (i64::MAX, 1 << 48)] {
            let error = MetainfoError::PieceCount { expected, got: 4 };
            check(&[("length", &format!("i{length}e"))], Err(error));
        }
        check(&[("length", "i131072e")], Ok(()));
        check(&[("pieces", "0:")], Err(MetainfoError::PieceCount { expected: 4, got: 0 }));
        check(&[("pieces", "19:0123456789012345678")], Err(MetainfoError::PieceHashes(19)));
        check(&[("length", "i99999999999999999999e")], Err(MetainfoError::Info(BadBencode::Malformed { at: 29 })));
    }

    #[test]
    fn names_are_one_visible_path_component() {
        for good in ["a", "Ubuntu 24.04 (ñ).img", "...", "..img", "-rf", "\\x", &"n".repeat(255)] {
            check_name_is(good, Ok(()));
        }
        check_name_is("", Err(MetainfoError::NameEmpty));
        for path in [".", "..", "/", "/etc/passwd", "a/b", "a/", "a/b/../c", "../x", "./x"] {
            check_name_is(path, Err(MetainfoError::NameIsPath(path.to_owned())));
        }
        for control in ["a\0b", "\0", "a\nb", "\u{1b}[2J", "\u{9b}2J"] {
            check_name_is(control, Err(MetainfoError::NameControl(control.to_owned())));
        }
        check_name_is(&"n".repeat(256), Err(MetainfoError::NameTooLong(256)));
        let mut latin = info(&[("name", "1:n")]);
        let at = latin.windows(3).position(|w| w == b"1:n").unwrap();
        latin[at + 2] = 0xf1;
        assert_eq!(Metainfo::from_info(latin), Err(MetainfoError::NameNotText));
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        for key in ["length", "name", "piece length", "pieces"] {
            check(&[(key, "")], Err(MetainfoError::Missing(key)));
            check(&[(key, "le")], Err(MetainfoError::Missing(key)));
        }
        check(&[("files", "le")], Err(MetainfoError::MultiFile));
        check(&[("files", "le"), ("length", "")], Err(MetainfoError::MultiFile));
        let parse = |bytes: &[u8]| Metainfo::parse(bytes).map(|_| ());
        let folder = include_bytes!("../../../tests/vectors/multi-file.torrent");
        assert_eq!(parse(folder), Err(MetainfoError::MultiFile));
        assert_eq!(parse(include_bytes!("../../../tests/vectors/v2-only.torrent")), Err(MetainfoError::NoPieces));
        for other in [&b"i1e"[..], b"le", b"0:", b"de", b"d4:infoi1ee", b"d4:info0:e", b"d4:infolee", b"l4:infodee"] {
            assert_eq!(parse(other), Err(MetainfoError::NoInfo), "{}", other.escape_ascii());
        }
        assert_eq!(parse(b""), Err(MetainfoError::Bencode(BadBencode::Truncated)));
        assert_eq!(parse(b"<html>"), Err(MetainfoError::Bencode(BadBencode::Malformed { at: 0 })));
    }

    #[test]
    fn an_info_dictionary_with_two_readings_is_refused() {
        let twice = b"d4:infod6:lengthi1e6:lengthi2eee";
        assert!(matches!(Metainfo::parse(twice), Err(MetainfoError::Bencode(BadBencode::KeyTwice { .. }))));
        let unsorted = b"d4:infod4:name1:a6:lengthi1eee";
        let refused = Metainfo::parse(unsorted);
        assert!(matches!(refused, Err(MetainfoError::Info(BadBencode::KeysUnsorted { .. }))));
        let outside = [&b"d4:info"[..], &info(&[]), b"8:announce8:http://ae"].concat();
        assert_eq!(Metainfo::parse(&outside).unwrap().announce(), tiers(&[&["http://a"]]));
    }

    #[test]
    fn a_hundred_megabytes_of_nesting_are_refused_before_they_are_read() {
        let deep = vec![b'l'; 100 << 20];
        assert_eq!(Metainfo::parse(&deep), Err(MetainfoError::TooLarge(100 << 20)));
        let deep = &deep[..TORRENT_BYTES_MAX];
        assert_eq!(Metainfo::parse(deep), Err(MetainfoError::Bencode(BadBencode::TooDeep)));
        let wide = [b"d1:al", &b"le".repeat(4 << 20)[..], b"ee"].concat();
        assert_eq!(Metainfo::parse(&wide), Err(MetainfoError::Bencode(BadBencode::TooManyValues)));
    }

    #[test]
    fn trackers_that_are_no_text_are_left_out() {
        let of = |outer: &str| {
            let bytes = [b"d", outer.as_bytes(), b"4:info", &info(&[]), b"e"].concat();
            Metainfo::parse(&bytes).unwrap().announce().to_vec()
        };
        assert_eq!(of("8:announcei1e"), tiers(&[]));
        assert_eq!(of("8:announce0:"), tiers(&[]));
        assert_eq!(of("8:announce1:a13:announce-list1:b"), tiers(&[&["a"]]));
        assert_eq!(of("8:announce1:a13:announce-listllel0:ei5ee"), tiers(&[&["a"]]));
        assert_eq!(of("8:announce1:a13:announce-listll1:bi5eel1:cee"), tiers(&[&["b"], &["c"]]));
    }

    #[test]
    fn piece_lengths_follow_the_rule_of_the_mesh() {
        const MIB: u64 = 1 << 20;
        for (size, expected) in [
            (0, 64 << 10),
            (1, 64 << 10),
            (128 * MIB, 64 << 10),
            (128 * MIB + 1, 128 << 10),
            (256 * MIB, 128 << 10),
            (256 * MIB + 1, 256 << 10),
            (512 * MIB, 256 << 10),
            (512 * MIB + 1, 512 << 10),
            (1024 * MIB, 512 << 10),
            (2 << 30, 1 << 20),
            ((2 << 30) + 1, 2 << 20),
            (64 << 30, 2 << 20),
            ((64 << 30) + 1, 4 << 20),
            (256 << 30, 8 << 20),
            ((256 << 30) + 1, 16 << 20),
            (1 << 40, 16 << 20),
            (u64::MAX, 16 << 20),
        ] {
            assert_eq!(piece_length_for(size), expected, "{size}");
        }
    }

    /// A file whose piece hashes are known, as `labmesh` gives it to `bip_metainfo`'s builder.
    struct Hashed {
        name: &'static str,
        length: u64,
        hashes: Vec<[u8; 20]>,
    }

    impl IntoAccessor for Hashed {
        type Accessor = Self;
        fn into_accessor(self) -> io::Result<Self> {
            Ok(self)
        }
    }

    impl Accessor for Hashed {
        fn access_directory(&self) -> Option<&Path> {
            None
        }
        fn access_metadata<C: FnMut(u64, &Path)>(&self, mut callback: C) -> io::Result<()> {
            callback(self.length, Path::new(self.name));
            Ok(())
        }
        fn access_pieces<C>(&self, mut callback: C) -> io::Result<()>
        where
            C: for<'a> FnMut(PieceAccess<'a>) -> io::Result<()>,
        {
            self.hashes.iter().try_for_each(|hash| {
                let hash = bip_metainfo::InfoHash::from_hash(hash).map_err(|_| io::ErrorKind::InvalidData)?;
                callback(PieceAccess::PreComputed(hash))
            })
        }
    }

    #[test]
    fn the_builder_with_known_hashes_makes_the_info_dictionary_that_mktorrent_makes() {
        let other = vector("mktorrent");
        let hashes = other.geometry().all().map(|piece| *other.hash(piece)).collect();
        let file = Hashed { name: "lab.img", length: 100_000, hashes };
        let builder = InfoBuilder::new().set_piece_length(PieceLength::Custom(32_768));
        let made = builder.build(1, file, |_| {}).unwrap();
        assert_eq!(Metainfo::from_info(made).unwrap().info_hash(), printed("mktorrent"));
    }

    #[test]
    fn no_truncation_is_a_torrent() {
        for (name, bytes) in VECTORS {
            for end in 0..bytes.len() {
                let expected = Err(MetainfoError::Bencode(BadBencode::Truncated));
                assert_eq!(Metainfo::parse(&bytes[..end]), expected, "{name} {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = Metainfo::parse(&bytes);
        }

        #[test]
        fn a_torrent_with_any_byte_changed_never_panics_and_what_passes_is_written_again(
            vector in 0..VECTORS.len(), at: prop::sample::Index, byte: u8
        ) {
            let mut bytes = VECTORS[vector].1.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(metainfo) = Metainfo::parse(&bytes) {
                let again = Metainfo::parse(&metainfo.to_bytes(metainfo.announce(), metainfo.comment())).unwrap();
                prop_assert_eq!(again, metainfo);
            }
        }
    }
}
