//! Bytes to [`Message`] and back, and everything that is checked in between.
//!
//! Rule: what leaves [`Message::decode`] is within every limit of [`crate::config`], and every name in it may be shown
//! and joined to a folder. Not here: who may say what (the transport), what it means (the parts).

use serde::Deserialize;

use super::{Beat, Holdings, TransferReport};
use super::{BookReplica, CatalogueDelta, Copied, Holding, ImageRecord, Member, Message, RosterDelta, RosterEntry};
use crate::config::{
    BOOK_REPLICA_CLIENTS, CATALOGUE_IMAGES_MAX, CONTROL_BYTES_MAX, IMAGE_NAME_BYTES_MAX, IMAGES_MAX, NAME_BYTES_MAX,
    NODES_MAX, NUMWANT_MAX, PIECE_BYTES_MAX, PIECE_BYTES_MIN, SUCCESSION, TORRENT_BYTES_MAX,
};

/// The deepest message is a board: message, list, pair, list, report, state; twice that is never needed.
const DEPTH_MAX: usize = 16;
/// Images in one catalogue message: every node may bring its own, a mesh that shares everything has [`IMAGES_MAX`].
const CATALOGUE_MAX: usize = 4 * IMAGES_MAX;

/// Why bytes are no control message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Longer than [`CONTROL_BYTES_MAX`].
    #[error("a control message of {0} bytes, at most {CONTROL_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not MessagePack, or not one of our messages.
    #[error("no control message: {0}")]
    Malformed(String),
    /// Something follows the message.
    #[error("{0} bytes follow the control message")]
    Trailing(usize),
    /// A list that no correct node sends.
    #[error("{count} {what} in one control message, at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A name that cannot be shown, or a path that leaves its folder.
    #[error("{what} {name:?}: expected {expected}")]
    BadName {
        /// The name of what.
        what: &'static str,
        /// The name, cut to something that fits a log line.
        name: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A number outside its range.
    #[error("{what} is {got}, which no correct node says")]
    BadNumber {
        /// Of what.
        what: &'static str,
        /// The number.
        got: u64,
    },
}

impl Message {
    /// The message as MessagePack.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("our types have known lengths, and a vector takes every byte")
    }

    /// Parses and checks a message from outside.
    ///
    /// # Errors
    /// If the bytes are no message, or anything in it is beyond its limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        if bytes.len() > CONTROL_BYTES_MAX {
            return Err(BadMessage::TooLong(bytes.len()));
        }
        let mut rest = bytes;
        let mut reader = rmp_serde::Deserializer::new(&mut rest);
        reader.set_max_depth(DEPTH_MAX);
        let message = Self::deserialize(&mut reader).map_err(|e| BadMessage::Malformed(e.to_string()))?;
        drop(reader);
        if !rest.is_empty() {
            return Err(BadMessage::Trailing(rest.len()));
        }
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), BadMessage> {
        match self {
            Self::Beat(_)
            | Self::Ask(_)
            | Self::Answer(_)
            | Self::Claim { .. }
            | Self::Goodbye { .. }
            | Self::Yield(_)
            | Self::Welcome { .. }
            | Self::Incompatible { .. }
            | Self::RosterSince(_)
            | Self::HoldingsWanted
            | Self::CatalogueSince(_)
            | Self::TorrentWanted(_)
            | Self::NoTorrent(_)
            | Self::Announce(_)
            | Self::Wake(_)
            | Self::ForeignAnnounce { .. }
            | Self::ForeignAnnounced { answer: Err(_), .. } => Ok(()),
            Self::Hello { member, .. } => check_member(member),
            Self::Roster(delta) => check_roster(delta),
            Self::Holdings(holdings) => check_holdings(holdings),
            Self::Catalogue(delta) => check_catalogue(delta),
            Self::Torrent { bytes, .. } => check_count("bytes of a torrent", bytes.len(), TORRENT_BYTES_MAX),
            Self::Neighbours(neighbours) => check_count("neighbours", neighbours.neighbours.len(), NUMWANT_MAX),
            Self::ForeignAnnounced { answer: Ok(answer), .. } => check_count("peers", answer.peers.len(), NUMWANT_MAX),
            Self::Book(book) => check_book(book),
            Self::Progress(reports) => check_reports(reports),
            Self::Board(board) => {
                check_count("nodes", board.transfers.len(), NODES_MAX)?;
                check_count("swarms", board.counts.len(), CATALOGUE_IMAGES_MAX)?;
                board.transfers.iter().try_for_each(|(_, reports)| check_reports(reports))
            }
            Self::Handover(entries) => check_entries(entries),
        }
    }
}

impl Beat {
    /// What the signature covers: everything but itself, in a fixed layout. The driver appends the mesh key.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(b"labmesh beat 1");
        bytes.extend_from_slice(&self.epoch.term.to_be_bytes());
        bytes.extend_from_slice(&self.epoch.node.0);
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.members.to_be_bytes());
        bytes.push(u8::from(self.solo));
        bytes.extend_from_slice(&self.control_port.to_be_bytes());
        bytes.extend_from_slice(&self.roster.to_be_bytes());
        bytes.extend_from_slice(&self.catalogue.to_be_bytes());
        bytes
    }
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), BadMessage> {
    if count > limit { Err(BadMessage::TooMany { what, count, limit }) } else { Ok(()) }
}

/// `expected` says the rule in words; the name is cut so that an error fits a log line.
fn check_text(what: &'static str, name: &str, good: bool, expected: &'static str) -> Result<(), BadMessage> {
    if good {
        return Ok(());
    }
    Err(BadMessage::BadName { what, name: name.chars().take(NAME_BYTES_MAX).collect(), expected })
}

fn printable(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

fn check_member(member: &Member) -> Result<(), BadMessage> {
    let expected = "1 to 63 bytes without control characters";
    check_text("node name", &member.name, printable(&member.name) && !member.name.is_empty(), expected)?;
    let expected = "at most 63 bytes without control characters";
    check_text("site", &member.site, printable(&member.site), expected)?;
    check_text("program version", &member.version, printable(&member.version), expected)
}

fn check_entries(entries: &[RosterEntry]) -> Result<(), BadMessage> {
    check_count("roster entries", entries.len(), NODES_MAX)?;
    entries.iter().try_for_each(|entry| check_member(&entry.member))
}

fn check_roster(delta: &RosterDelta) -> Result<(), BadMessage> {
    check_entries(&delta.changed)?;
    check_count("forgotten nodes", delta.gone.len(), NODES_MAX)?;
    check_count("deputies", delta.succession.len(), SUCCESSION)
}

/// A relative path of one component, or of one folder and one component, that stays where it is joined to.
fn check_image_name(name: &str) -> Result<(), BadMessage> {
    let component = |part: &str| !part.is_empty() && part != "." && part != "..";
    let good = name.len() <= IMAGE_NAME_BYTES_MAX
        && name.split('/').count() <= 2
        && name.split('/').all(component)
        && !name.chars().any(char::is_control);
    check_text("image name", name, good, "NAME or FOLDER/NAME of at most 511 bytes, without `..` or control characters")
}

fn check_image(name: &str, size: u64, piece_length: u32) -> Result<(), BadMessage> {
    check_image_name(name)?;
    if size == 0 {
        return Err(BadMessage::BadNumber { what: "image size", got: size });
    }
    if !(PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&piece_length) {
        return Err(BadMessage::BadNumber { what: "piece length", got: u64::from(piece_length) });
    }
    Ok(())
}

fn check_holdings(holdings: &Holdings) -> Result<(), BadMessage> {
    check_count("images", holdings.images.len(), IMAGES_MAX)?;
    holdings
        .images
        .iter()
        .try_for_each(|Holding { name, size, piece_length, .. }| check_image(name, *size, *piece_length))
}

fn check_catalogue(delta: &CatalogueDelta) -> Result<(), BadMessage> {
    check_count("images", delta.changed.len(), CATALOGUE_MAX)?;
    check_count("images with more copies", delta.copied.len(), CATALOGUE_MAX)?;
    check_count("withdrawn images", delta.gone.len(), CATALOGUE_MAX)?;
    for Copied { holders, .. } in &delta.copied {
        check_count("holders of an image", holders.len(), NODES_MAX)?;
    }
    delta.changed.iter().try_for_each(|ImageRecord { name, size, piece_length, holders, .. }| {
        check_count("holders of an image", holders.len(), NODES_MAX)?;
        check_image(name, *size, *piece_length)
    })
}

fn check_book(book: &BookReplica) -> Result<(), BadMessage> {
    check_count("foreign clients", book.peers.len(), BOOK_REPLICA_CLIENTS)?;
    check_count("counters", book.downloaded.len(), CATALOGUE_MAX)?;
    check_count("names", book.names.len(), CATALOGUE_IMAGES_MAX)?;
    let expected = "1 to 255 bytes without control characters or outer spaces";
    book.names.iter().try_for_each(|name| check_text("torrent name", &name.name, name.is_good(), expected))
}

fn check_reports(reports: &[TransferReport]) -> Result<(), BadMessage> {
    check_count("transfers", reports.len(), IMAGES_MAX)?;
    match reports.iter().find(|report| report.permille > 1000) {
        Some(report) => Err(BadMessage::BadNumber { what: "permille", got: u64::from(report.permille) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::super::*;
    use super::*;
    use crate::config::{Mode, Weight};

    fn member(name: &str) -> Member {
        Member {
            id: NodeId([7; 32]),
            name: name.to_owned(),
            addr: Some(IpAddr::V4(Ipv4Addr::new(10, 1, 12, 7))),
            control_port: 6970,
            peer_port: 6881,
            http_port: 6969,
            weight: Weight::DEFAULT,
            site: String::new(),
            version: "0.1.0".to_owned(),
        }
    }

    fn beat() -> Beat {
        Beat {
            epoch: Epoch { term: 9, node: NodeId([200; 32]) },
            seq: 1 << 40,
            members: 30,
            solo: false,
            control_port: 6970,
            roster: 4,
            catalogue: 5,
            signature: Signature([9; 64]),
        }
    }

    fn image(name: &str) -> Message {
        let images = vec![Holding {
            name: name.to_owned(),
            info_hash: InfoHash([3; 20]),
            size: 1 << 34,
            piece_length: 1 << 22,
            complete: true,
        }];
        Message::Holdings(Holdings { version: 3, images })
    }

    fn report(permille: u16) -> TransferReport {
        TransferReport {
            info_hash: InfoHash([3; 20]),
            mode: Mode::Peer,
            state: TransferState::Fetching,
            permille,
            down_bps: 1,
            up_bps: 2,
            seed_left_s: None,
            missing_pieces: 0,
        }
    }

    fn foreign() -> ForeignPeer {
        ForeignPeer {
            info_hash: InfoHash([3; 20]),
            addr: SocketAddr::from(([10, 1, 12, 9], 51413)),
            peer_id: *b"-TR4060-abcdefghijkl",
            left: 1,
            uploaded: 2,
            downloaded: 3,
        }
    }

    /// One of each variant, so that every decoder path is tried.
    fn foreign_answer() -> ForeignAnswer {
        let peers = vec![(foreign().addr, PeerId(*b"-TR3000-0123456789ab"))];
        ForeignAnswer { complete: 1, incomplete: 2, peers }
    }

    fn samples() -> Vec<Message> {
        let (epoch, node, info_hash) = (beat().epoch, NodeId([1; 32]), InfoHash([3; 20]));
        let entry = RosterEntry { member: member("pc07"), live: true };
        let neighbour = Neighbour { node: Some(node), addr: foreign().addr, complete: true };
        let neighbours = Neighbours { info_hash, neighbours: vec![neighbour], complete: 1, incomplete: 2, stay: false };
        let record = ImageRecord {
            name: "ou1/win 10 ñ.img".to_owned(),
            info_hash,
            size: 5,
            piece_length: PIECE_BYTES_MIN,
            holders: vec![node],
            downloaded: 3,
        };
        let announce = NodeAnnounce {
            info_hash,
            mode: Mode::Seeder,
            left: 0,
            uploaded: 1,
            downloaded: 2,
            leaving: false,
            completed: true,
            starving: false,
        };
        let (changed, gone, succession) = (vec![entry.clone()], vec![node], vec![node]);
        let copied = vec![Copied { info_hash, holders: vec![node], downloaded: 7 }];
        vec![
            Message::Beat(beat()),
            Message::Ask(epoch),
            Message::Answer(Some(beat())),
            Message::Answer(None),
            Message::Claim { epoch, members: 3 },
            Message::Goodbye { epoch, successor: Some(node) },
            Message::Yield(epoch),
            Message::Hello { member: member("pc07"), protocol: 1, holdings: 8 },
            Message::Welcome { beat: Some(beat()), master: Some(foreign().addr) },
            Message::Incompatible { protocol: 2 },
            Message::RosterSince(4),
            Message::Roster(RosterDelta { epoch, from: 1, to: 2, changed, gone, succession }),
            image("win10.img"),
            Message::HoldingsWanted,
            Message::CatalogueSince(u64::MAX),
            Message::Catalogue(CatalogueDelta {
                epoch,
                from: 0,
                to: 1,
                changed: vec![record],
                copied,
                gone: vec![info_hash],
            }),
            Message::TorrentWanted(info_hash),
            Message::Torrent { info_hash, bytes: b"d4:info".to_vec() },
            Message::NoTorrent(info_hash),
            Message::Announce(announce),
            Message::Neighbours(neighbours),
            Message::Wake(info_hash),
            Message::ForeignAnnounce { id: 1, peer: foreign(), numwant: 50, stopped: false, completed: true },
            Message::ForeignAnnounced { id: 1, answer: Ok(foreign_answer()) },
            Message::ForeignAnnounced { id: 2, answer: Err(ForeignRefused::AddressFull) },
            Message::Book(BookReplica {
                peers: vec![foreign()],
                downloaded: vec![(info_hash, 3)],
                names: vec![RegisteredName { info_hash, name: "debian.iso".to_owned(), size: 9 }],
            }),
            Message::Progress(vec![report(1000)]),
            Message::Board(BoardState {
                transfers: vec![(node, vec![report(0)])],
                counts: vec![SwarmCount { info_hash, complete: 2, incomplete: 1 }],
            }),
            Message::Handover(vec![entry]),
        ]
    }

    #[track_caller]
    fn check_refused(message: &Message, expected: &str) {
        let error = Message::decode(&message.encode()).expect_err("must be refused").to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn every_message_survives_the_round_trip() {
        for message in samples() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn every_truncation_and_every_trailing_byte_is_an_error() {
        for message in samples() {
            let mut bytes = message.encode();
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err(), "{message:?} cut to {end}");
            }
            bytes.push(0);
            assert_eq!(Message::decode(&bytes), Err(BadMessage::Trailing(1)));
        }
    }

    #[test]
    fn names_that_leave_their_folder_or_cannot_be_shown_are_refused() {
        let long = "x".repeat(IMAGE_NAME_BYTES_MAX + 1);
        for name in ["", "/etc/passwd", "../x", "a/..", "a/../b", ".", "a//b", "a/", "a/b/c", "a\0b", "a\nb", &long] {
            check_refused(&image(name), "image name");
        }
        for name in ["", "a\u{7}", &"x".repeat(NAME_BYTES_MAX + 1)] {
            let hello = Message::Hello { member: member(name), protocol: 1, holdings: 0 };
            check_refused(&hello, "node name");
        }
        assert!(Message::decode(&image("ou1/windows 10 ñ.img").encode()).is_ok());
    }

    #[test]
    fn lists_and_numbers_beyond_their_limits_are_refused() {
        let epoch = beat().epoch;
        let succession = vec![NodeId([1; 32]); SUCCESSION + 1];
        let roster = RosterDelta { epoch, from: 0, to: 1, changed: vec![], gone: vec![], succession };
        check_refused(&Message::Roster(roster), "deputies");
        check_refused(&Message::Progress(vec![report(0); IMAGES_MAX + 1]), "transfers");
        check_refused(&Message::Progress(vec![report(1001)]), "permille");
        let counts =
            vec![SwarmCount { info_hash: InfoHash([3; 20]), complete: 0, incomplete: 1 }; CATALOGUE_IMAGES_MAX + 1];
        check_refused(&Message::Board(BoardState { counts, ..BoardState::default() }), "swarms");
        let bytes = vec![0; TORRENT_BYTES_MAX + 1];
        check_refused(&Message::Torrent { info_hash: InfoHash([3; 20]), bytes }, "bytes of a torrent");
        assert_eq!(Message::decode(&vec![0; CONTROL_BYTES_MAX + 1]), Err(BadMessage::TooLong(CONTROL_BYTES_MAX + 1)));
    }

    /// Lengths that promise gigabytes, and nesting that would exhaust the stack, end as errors at once.
    #[test]
    fn hostile_lengths_and_depths_are_errors() {
        let variant = |name: &str| {
            let mut bytes = vec![0x81, 0xa0 | name.len() as u8];
            bytes.extend_from_slice(name.as_bytes());
            bytes
        };
        for tail in
            [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0xc6, 0xff, 0xff, 0xff, 0xff], &[0xdf, 0xff, 0xff, 0xff, 0xff]]
        {
            for name in ["Board", "Handover", "Progress", "Torrent", "Roster", "Book"] {
                let bytes = [&variant(name), tail].concat();
                assert!(matches!(Message::decode(&bytes), Err(BadMessage::Malformed(_))), "{name}");
            }
        }
        let deep = [variant("Handover"), vec![0x91; 100_000]].concat();
        assert!(matches!(Message::decode(&deep), Err(BadMessage::Malformed(_))));
        let ignored = [variant("Hello"), vec![0x81, 0xa1, b'x'], vec![0x91; 100_000]].concat();
        assert!(matches!(Message::decode(&ignored), Err(BadMessage::Malformed(_))));
    }

    #[test]
    fn the_signature_covers_every_field_of_a_beat() {
        let base = beat();
        let mut others = [base; 8];
        others[0].epoch.term += 1;
        others[1].epoch.node.0[31] ^= 1;
        others[2].seq += 1;
        others[3].members += 1;
        others[4].solo = true;
        others[5].control_port += 1;
        others[6].roster += 1;
        others[7].catalogue += 1;
        for other in others {
            assert_ne!(other.signed_bytes(), base.signed_bytes());
        }
        assert_eq!(Beat { signature: Signature([0; 64]), ..base }.signed_bytes(), base.signed_bytes());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn damaged_messages_never_panic(which in 0..28_usize, at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = samples()[which].encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
