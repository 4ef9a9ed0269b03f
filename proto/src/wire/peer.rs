//! The peer wire protocol: handshake and messages of BEP 3, 6 (fast extension) and 10 (extension handshake), and the
//! frame of BEP 11 (peer exchange).
//!
//! Rule: payload never passes through here. The decoder gives a `piece` message's header; the driver receives the
//! payload straight into its buffer. Not here: what a message means (`swarm`).

use bip_bencode::BRefAccess;

use crate::config::{BITFIELD_BYTES_MAX, EXTENDED_BYTES_MAX, REQUEST_BYTES_MAX, UNKNOWN_BYTES_MAX};
use crate::id::{InfoHash, PeerId};
use crate::wire::bencode::{self, KeyOrder};
use crate::wire::pex::Pex;

/// What every handshake begins with (BEP 3): a length byte and the protocol's name.
const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";
/// BEP 6: this bit in byte 7 of the reserved bytes.
const FAST_BIT: u8 = 0x04;
/// BEP 10: this bit in byte 5 of the reserved bytes.
const EXTENDED_BIT: u8 = 0x10;
/// Characters that we keep of a client's name for itself.
const CLIENT_CHARS_MAX: usize = 64;

/// Message ids: BEP 3, BEP 5 (port), BEP 6 (13 to 17), BEP 10 (20).
mod id {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 13;
    pub(super) const HAVE_ALL: u8 = 14;
    pub(super) const HAVE_NONE: u8 = 15;
    pub(super) const REJECT: u8 = 16;
    pub(super) const ALLOWED_FAST: u8 = 17;
    pub(super) const EXTENDED: u8 = 20;
    /// The extension handshake's id within extended messages.
    pub(super) const EXTENDED_HANDSHAKE: u8 = 0;
    /// Under which extended id we want to be told of peers.
    pub(super) const EXTENDED_PEX: u8 = 1;
}

/// The 68 bytes that open a connection (BEP 3, "peer protocol").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handshake {
    /// The image.
    pub info_hash: InfoHash,
    /// The client's name for itself.
    pub peer_id: PeerId,
    /// BEP 6: have all, have none, suggest, reject, allowed fast.
    pub fast: bool,
    /// BEP 10: extended messages.
    pub extended: bool,
}

/// The extension handshake (BEP 10), only the keys that we use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extended {
    /// `v`: the client's name and version.
    pub client: Option<String>,
    /// `reqq`: how many requests it keeps waiting.
    pub reqq: Option<u32>,
    /// `p`: the port that it listens on.
    pub port: Option<u16>,
    /// `labmesh_block`: the longest request it answers, in bytes; only our own nodes say it.
    pub block: Option<u32>,
    /// `labmesh_seeder`: it fetches in mode seeder, and is served first by the master; only our own nodes say it.
    pub seeder: bool,
    /// `ut_pex` in `m`: the extended id under which it wants to be told of peers (BEP 11), never 0. We want them as
    /// [`Self::PEX`].
    pub pex: Option<u8>,
    /// `upload_only` (BEP 21): it is complete and wants nothing.
    pub upload_only: bool,
}

/// Everything that peers say after the handshake, without payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Length 0.
    KeepAlive,
    /// Id 0: requests are not answered for now.
    Choke,
    /// Id 1: requests are answered.
    Unchoke,
    /// Id 2: you have something that I miss.
    Interested,
    /// Id 3: you have nothing that I miss.
    NotInterested,
    /// Id 4: I have this piece now.
    Have(u32),
    /// Id 5: the pieces I have, in the bit order of BEP 3; unchecked.
    Bitfield(Vec<u8>),
    /// Id 6: send me this block.
    Request(Range),
    /// Id 8: never mind that block.
    Cancel(Range),
    /// Id 9: the DHT port (BEP 5); ignored.
    Port(u16),
    /// Id 13 (BEP 6): this piece would be cheap to send.
    Suggest(u32),
    /// Id 14 (BEP 6): I have every piece.
    HaveAll,
    /// Id 15 (BEP 6): I have no piece.
    HaveNone,
    /// Id 16 (BEP 6): that request will not be answered.
    Reject(Range),
    /// Id 17 (BEP 6): this piece may be asked for while choked.
    AllowedFast(u32),
    /// Id 20, extended id 0 (BEP 10).
    Extended(Extended),
    /// Id 20, under the extended id that the receiver wants (BEP 11).
    Pex(u8, Pex),
    /// An id or extended id that we do not know; skipped, as BEP 10 asks.
    Unknown(u8),
}

/// A block as a peer names it, unchecked: [`crate::id::Geometry::block`] makes a [`crate::id::Block`] of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// Piece number.
    pub piece: u32,
    /// Offset in the piece, bytes.
    pub offset: u32,
    /// Length, bytes.
    pub len: u32,
}

/// The other side does not open with the peer protocol of BEP 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("expected the handshake of the BitTorrent peer protocol")]
pub struct BadHandshake;

/// Why bytes are not the peer protocol. The stream cannot be read on: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadMessage {
    /// The length does not belong to a message of that kind.
    #[error("a message of kind {id} with {len} bytes")]
    Length {
        /// The message id.
        id: u8,
        /// The length that it came with, id included.
        len: u32,
    },
    /// Longer than a message of any kind may be.
    #[error("a message of {0} bytes")]
    TooLong(u32),
    /// A block longer than any that we ask for.
    #[error("a block of {0} bytes, more than {REQUEST_BYTES_MAX}")]
    BlockTooLong(u32),
    /// An extension handshake or a peer exchange is no bencoded dictionary.
    #[error("a malformed extension message")]
    Extended,
}

impl Handshake {
    /// How many bytes a handshake has.
    pub const BYTES: usize = 68;

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..20].copy_from_slice(PROTOCOL);
        bytes[25] = if self.extended { EXTENDED_BIT } else { 0 };
        bytes[27] = if self.fast { FAST_BIT } else { 0 };
        bytes[28..48].copy_from_slice(&self.info_hash.0);
        bytes[48..].copy_from_slice(&self.peer_id.0);
        bytes
    }

    /// Reads the bytes that open a connection; reserved bits that we do not know are ignored, as BEP 3 asks.
    ///
    /// # Errors
    /// If they are not those of the peer protocol.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, BadHandshake> {
        let (protocol, rest) = bytes.split_first_chunk::<20>().ok_or(BadHandshake)?;
        let (reserved, rest) = rest.split_first_chunk::<8>().ok_or(BadHandshake)?;
        let (info_hash, rest) = rest.split_first_chunk().ok_or(BadHandshake)?;
        let peer_id = rest.first_chunk().ok_or(BadHandshake)?;
        if protocol != PROTOCOL {
            return Err(BadHandshake);
        }
        Ok(Self {
            info_hash: InfoHash(*info_hash),
            peer_id: PeerId(*peer_id),
            fast: reserved[7] & FAST_BIT != 0,
            extended: reserved[5] & EXTENDED_BIT != 0,
        })
    }
}

impl Message {
    /// Appends the bytes on the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::KeepAlive => out.extend_from_slice(&[0; 4]),
            Self::Choke => put(out, id::CHOKE, &[]),
            Self::Unchoke => put(out, id::UNCHOKE, &[]),
            Self::Interested => put(out, id::INTERESTED, &[]),
            Self::NotInterested => put(out, id::NOT_INTERESTED, &[]),
            Self::Have(piece) => put(out, id::HAVE, &piece.to_be_bytes()),
            Self::Bitfield(bytes) => put(out, id::BITFIELD, bytes),
            Self::Request(range) => put(out, id::REQUEST, &range.encode()),
            Self::Cancel(range) => put(out, id::CANCEL, &range.encode()),
            Self::Port(port) => put(out, id::PORT, &port.to_be_bytes()),
            Self::Suggest(piece) => put(out, id::SUGGEST, &piece.to_be_bytes()),
            Self::HaveAll => put(out, id::HAVE_ALL, &[]),
            Self::HaveNone => put(out, id::HAVE_NONE, &[]),
            Self::Reject(range) => put(out, id::REJECT, &range.encode()),
            Self::AllowedFast(piece) => put(out, id::ALLOWED_FAST, &piece.to_be_bytes()),
            Self::Extended(extended) => put(out, id::EXTENDED, &extended.encode()),
            Self::Pex(id, pex) => put(out, id::EXTENDED, &[&[*id], &pex.encode()[..]].concat()),
            Self::Unknown(id) => put(out, *id, &[]),
        }
    }

    /// Reads what follows the length of a message without a variable part.
    fn decode(id: u8, body: &[u8; 12]) -> Self {
        let [a, b, c, d, ..] = *body;
        let piece = u32::from_be_bytes([a, b, c, d]);
        match id {
            id::CHOKE => Self::Choke,
            id::UNCHOKE => Self::Unchoke,
            id::INTERESTED => Self::Interested,
            id::NOT_INTERESTED => Self::NotInterested,
            id::HAVE => Self::Have(piece),
            id::REQUEST => Self::Request(Range::decode(body)),
            id::CANCEL => Self::Cancel(Range::decode(body)),
            id::PORT => Self::Port(u16::from_be_bytes([a, b])),
            id::SUGGEST => Self::Suggest(piece),
            id::HAVE_ALL => Self::HaveAll,
            id::HAVE_NONE => Self::HaveNone,
            id::REJECT => Self::Reject(Range::decode(body)),
            id::ALLOWED_FAST => Self::AllowedFast(piece),
            other => Self::Unknown(other),
        }
    }
}

fn put(out: &mut Vec<u8>, id: u8, body: &[u8]) {
    out.extend_from_slice(&(1 + body.len() as u32).to_be_bytes());
    out.push(id);
    out.extend_from_slice(body);
}

/// What goes before the payload of a block: length, id 7, piece, offset.
pub fn piece_header(range: &Range) -> [u8; 13] {
    let mut header = [0; 13];
    header[..4].copy_from_slice(&(PIECE_HEAD + range.len).to_be_bytes());
    header[4] = id::PIECE;
    header[5..9].copy_from_slice(&range.piece.to_be_bytes());
    header[9..].copy_from_slice(&range.offset.to_be_bytes());
    header
}

/// Id, piece and offset: what the length of a `piece` message counts beside the payload.
const PIECE_HEAD: u32 = 9;

impl Range {
    fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.piece.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Self {
            piece: u32::from_be_bytes([a, b, c, d]),
            offset: u32::from_be_bytes([e, f, g, h]),
            len: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

impl Extended {
    /// The extended id under which we want to be told of peers.
    pub const PEX: u8 = id::EXTENDED_PEX;

    /// The extended id 0 and the dictionary.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![id::EXTENDED_HANDSHAKE];
        bencode::write_dict(&mut out, |dict| {
            if let Some(block) = self.block {
                dict.int(b"labmesh_block", block);
            }
            if self.seeder {
                dict.int(b"labmesh_seeder", 1);
            }
            dict.dict(b"m", |messages| {
                if let Some(id) = self.pex {
                    messages.int(b"ut_pex", id);
                }
            });
            if let Some(port) = self.port {
                dict.int(b"p", port);
            }
            if let Some(reqq) = self.reqq {
                dict.int(b"reqq", reqq);
            }
            if self.upload_only {
                dict.int(b"upload_only", 1);
            }
            if let Some(client) = &self.client {
                dict.bytes(b"v", client.as_bytes());
            }
        });
        out
    }

    /// Reads the dictionary. A key with a value that makes no sense counts as absent: foreign clients differ.
    fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        let dict = bencode::decode(bytes, KeyOrder::Any).map_err(|_| BadMessage::Extended)?;
        if dict.dict().is_none() {
            return Err(BadMessage::Extended);
        }
        let int = |key| bencode::lookup(&dict, key).and_then(BRefAccess::int);
        let client = bencode::lookup(&dict, "v").and_then(BRefAccess::str);
        let pex = bencode::lookup(&dict, "m").and_then(|m| bencode::lookup(m, "ut_pex")).and_then(BRefAccess::int);
        Ok(Self {
            client: client.map(|name| name.chars().filter(|c| !c.is_control()).take(CLIENT_CHARS_MAX).collect()),
            reqq: int("reqq").and_then(|n| n.try_into().ok()),
            port: int("p").and_then(|n| n.try_into().ok()).filter(|port| *port != 0),
            block: int("labmesh_block").and_then(|n| n.try_into().ok()),
            seeder: int("labmesh_seeder").is_some_and(|n| n != 0),
            pex: pex.and_then(|n| n.try_into().ok()).filter(|id| *id != id::EXTENDED_HANDSHAKE),
            upload_only: int("upload_only").is_some_and(|n| n != 0),
        })
    }
}

/// What a stream of messages is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A whole message.
    Message(Message),
    /// The header of a block: the next `range.len` bytes of the stream are its payload, and not the decoder's.
    Piece(Range),
}

/// Cuts the stream that follows the handshake into messages, however it arrives.
///
/// It keeps at most one message that is under way. After [`Item::Piece`] the caller itself takes exactly
/// `range.len` bytes of payload, first what is left in `input`, then straight from the socket, before it calls
/// [`Self::next`] again. After an error the connection is closed.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The fixed part: length, id and what that kind of message always has; so many bytes of it are here.
    Head { bytes: [u8; HEAD_BYTES_MAX], have: usize },
    /// A message that is read whole; so many bytes are still to come.
    Body { kind: Kind, bytes: Vec<u8>, missing: usize },
    /// A message that we do not know; so many bytes are still to come.
    Skip { id: u8, missing: usize },
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Bitfield,
    Extended,
    Pex,
}

/// The longest fixed part: length, id, and the three numbers of a request.
const HEAD_BYTES_MAX: usize = 17;

impl Default for State {
    fn default() -> Self {
        Self::Head { bytes: [0; HEAD_BYTES_MAX], have: 0 }
    }
}

impl Decoder {
    /// Takes bytes from the front of `input` until an item is complete; `None` = all taken, more are needed.
    ///
    /// # Errors
    /// If the bytes are not the peer protocol, or a message is longer than its kind may be.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Item>, BadMessage> {
        loop {
            match &mut self.state {
                State::Head { bytes, have } => {
                    let need = needed(bytes, *have)?;
                    if need > *have {
                        let part = take(input, need - *have);
                        bytes[*have..*have + part.len()].copy_from_slice(part);
                        *have += part.len();
                        if *have < need {
                            return Ok(None);
                        }
                        continue;
                    }
                    let (item, state) = finish(bytes);
                    self.state = state;
                    if item.is_some() {
                        return Ok(item);
                    }
                }
                State::Body { kind, bytes, missing } => {
                    let part = take(input, *missing);
                    bytes.extend_from_slice(part);
                    *missing -= part.len();
                    if *missing > 0 {
                        return Ok(None);
                    }
                    let bytes = std::mem::take(bytes);
                    let message = match kind {
                        Kind::Bitfield => Message::Bitfield(bytes),
                        Kind::Extended => Message::Extended(Extended::decode(&bytes)?),
                        Kind::Pex => Message::Pex(Extended::PEX, Pex::decode(&bytes).ok_or(BadMessage::Extended)?),
                    };
                    self.state = State::default();
                    return Ok(Some(Item::Message(message)));
                }
                State::Skip { id, missing } => {
                    *missing -= take(input, *missing).len();
                    if *missing > 0 {
                        return Ok(None);
                    }
                    let message = Message::Unknown(*id);
                    self.state = State::default();
                    return Ok(Some(Item::Message(message)));
                }
            }
        }
    }
}

/// Takes at most `most` bytes from the front.
fn take<'i>(input: &mut &'i [u8], most: usize) -> &'i [u8] {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    part
}

fn length(head: &[u8; HEAD_BYTES_MAX]) -> u32 {
    let [a, b, c, d, ..] = *head;
    u32::from_be_bytes([a, b, c, d])
}

/// How many bytes of the head must be here before the next step, as far as the `have` bytes tell; checks the length
/// as soon as the id is known.
fn needed(head: &[u8; HEAD_BYTES_MAX], have: usize) -> Result<usize, BadMessage> {
    if have < 4 {
        return Ok(4);
    }
    let len = length(head);
    if len == 0 {
        return Ok(4);
    }
    // Said before the kind is known, so that nobody waits for the rest of what cannot be.
    if len as usize > 2 * UNKNOWN_BYTES_MAX {
        return Err(BadMessage::TooLong(len));
    }
    if have < 5 {
        return Ok(5);
    }
    let id = head[4];
    // The lengths that are legal, id included, and how much of the message belongs to the head.
    let (least, most, head) = match id {
        id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => (1, 1, 1),
        id::HAVE | id::SUGGEST | id::ALLOWED_FAST => (5, 5, 5),
        id::REQUEST | id::CANCEL | id::REJECT => (13, 13, 13),
        id::PORT => (3, 3, 3),
        id::PIECE if len > PIECE_HEAD + REQUEST_BYTES_MAX => return Err(BadMessage::BlockTooLong(len - PIECE_HEAD)),
        id::PIECE => (PIECE_HEAD, u32::MAX, PIECE_HEAD),
        id::BITFIELD => (1, 1 + BITFIELD_BYTES_MAX as u32, 1),
        id::EXTENDED if have > 5 && matches!(head[5], id::EXTENDED_HANDSHAKE | id::EXTENDED_PEX) => {
            (2, 2 + EXTENDED_BYTES_MAX as u32, 2)
        }
        id::EXTENDED => (2, UNKNOWN_BYTES_MAX as u32, 2),
        _ => (1, UNKNOWN_BYTES_MAX as u32, 1),
    };
    if len < least || len > most {
        return Err(BadMessage::Length { id, len });
    }
    Ok(4 + head as usize)
}

/// Turns a whole head into an item, or into the state that waits for the rest.
fn finish(head: &[u8; HEAD_BYTES_MAX]) -> (Option<Item>, State) {
    let len = length(head);
    if len == 0 {
        return (Some(Item::Message(Message::KeepAlive)), State::default());
    }
    let [_, _, _, _, id, body @ ..] = head;
    let rest = (len - 1) as usize;
    match *id {
        id::PIECE => {
            let Range { piece, offset, .. } = Range::decode(body);
            let range = Range { piece, offset, len: len - PIECE_HEAD };
            (Some(Item::Piece(range)), State::default())
        }
        id::BITFIELD => (None, State::Body { kind: Kind::Bitfield, bytes: Vec::new(), missing: rest }),
        id::EXTENDED if body[0] == id::EXTENDED_HANDSHAKE => {
            (None, State::Body { kind: Kind::Extended, bytes: Vec::new(), missing: rest - 1 })
        }
        id::EXTENDED if body[0] == id::EXTENDED_PEX => {
            (None, State::Body { kind: Kind::Pex, bytes: Vec::new(), missing: rest - 1 })
        }
        id::EXTENDED => (None, State::Skip { id: *id, missing: rest - 1 }),
        _ => match Message::decode(*id, body) {
            Message::Unknown(id) => (None, State::Skip { id, missing: rest }),
            message => (Some(Item::Message(message)), State::default()),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What libtorrent sends to a seed that chokes nobody: handshake, extension handshake, have none, interested,
    /// requests.
    const LIBTORRENT: &[u8] = include_bytes!("../../../tests/vectors/libtorrent.peer");

    fn range(piece: u32, offset: u32, len: u32) -> Range {
        Range { piece, offset, len }
    }

    /// Every item of a stream, with the payload of pieces dropped as a driver would take it.
    fn items(mut input: &[u8]) -> Result<Vec<Item>, BadMessage> {
        let (mut decoder, mut items) = (Decoder::default(), Vec::new());
        while let Some(item) = decoder.next(&mut input)? {
            if let Item::Piece(range) = &item {
                take(&mut input, range.len as usize);
            }
            items.push(item);
        }
        Ok(items)
    }

    #[track_caller]
    fn check(bytes: &[u8], message: Message) {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(out.escape_ascii().to_string(), bytes.escape_ascii().to_string());
        assert_eq!(items(bytes), Ok(vec![Item::Message(message)]));
    }

    #[test]
    fn messages_have_the_bytes_of_the_bep() {
        check(b"\0\0\0\0", Message::KeepAlive);
        check(b"\0\0\0\x01\0", Message::Choke);
        check(b"\0\0\0\x01\x01", Message::Unchoke);
        check(b"\0\0\0\x01\x02", Message::Interested);
        check(b"\0\0\0\x01\x03", Message::NotInterested);
        check(b"\0\0\0\x05\x04\0\0\x01\x02", Message::Have(0x102));
        check(b"\0\0\0\x03\x05\xff\xe0", Message::Bitfield(vec![0xff, 0xe0]));
        check(b"\0\0\0\x0d\x06\0\0\0\x07\0\x01\0\0\0\0\x40\0", Message::Request(range(7, 0x1_0000, 0x4000)));
        check(b"\0\0\0\x0d\x08\0\0\0\x07\0\x01\0\0\0\0\x40\0", Message::Cancel(range(7, 0x1_0000, 0x4000)));
        check(b"\0\0\0\x03\x09\x1a\xe1", Message::Port(6881));
        check(b"\0\0\0\x05\x0d\0\0\0\x09", Message::Suggest(9));
        check(b"\0\0\0\x01\x0e", Message::HaveAll);
        check(b"\0\0\0\x01\x0f", Message::HaveNone);
        check(b"\0\0\0\x0d\x10\0\0\0\x07\0\x01\0\0\0\0\x40\0", Message::Reject(range(7, 0x1_0000, 0x4000)));
        check(b"\0\0\0\x05\x11\0\0\0\x09", Message::AllowedFast(9));
        check(b"\0\0\0\x01\x15", Message::Unknown(0x15));
        check(b"\0\0\0\x09\x14\0d1:mdee", Message::Extended(Extended::default()));
        let extended = Extended {
            client: Some("labmesh 0.1".to_owned()),
            reqq: Some(512),
            port: Some(6881),
            block: Some(262_144),
            seeder: true,
            pex: Some(Extended::PEX),
            upload_only: true,
        };
        let dictionary = b"d13:labmesh_blocki262144e14:labmesh_seederi1e1:md6:ut_pexi1ee1:pi6881e4:reqqi512e11:upload_onlyi1e1:v11:labmesh 0.1e";
        let pex = Pex { added: vec![(([10, 0, 0, 1], 6881).into(), 2)], dropped: Vec::new() };
        let told =
            b"\x14\x01d5:added6:\x0a\0\0\x01\x1a\xe17:added.f1:\x026:added60:8:added6.f0:7:dropped0:8:dropped60:e";
        check(&[&(told.len() as u32).to_be_bytes(), &told[..]].concat(), Message::Pex(Extended::PEX, pex));
        check(&[b"\0\0\0\x76\x14\0", &dictionary[..]].concat(), Message::Extended(extended));
    }

    #[test]
    fn handshakes_have_the_bytes_of_the_bep() {
        let ours =
            Handshake { info_hash: InfoHash([0xaa; 20]), peer_id: PeerId([b'p'; 20]), fast: true, extended: true };
        let bytes = ours.encode();
        assert_eq!(&bytes[..28], b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04");
        assert_eq!((&bytes[28..48], &bytes[48..]), (&[0xaa; 20][..], &[b'p'; 20][..]));
        for (fast, extended) in [(false, false), (true, false), (false, true), (true, true)] {
            let handshake = Handshake { fast, extended, ..ours };
            assert_eq!(Handshake::decode(&handshake.encode()), Ok(handshake));
        }
        for at in 0..20 {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(Handshake::decode(&other), Err(BadHandshake));
        }
        assert_eq!(
            Handshake::decode(b"GET /announce?info_hash=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            Err(BadHandshake)
        );
    }

    #[test]
    fn what_libtorrent_says_is_understood() {
        let (handshake, stream) = LIBTORRENT.split_first_chunk().unwrap();
        let handshake = Handshake::decode(handshake).unwrap();
        assert_eq!(handshake.info_hash.to_string(), "15792ab834aa62646e7ec8b1472b58a517650f1e");
        assert!(handshake.fast && handshake.extended && handshake.peer_id.0.starts_with(b"-LT2080-"));
        let items = items(stream).unwrap();
        let Item::Message(Message::Extended(extended)) = &items[0] else { panic!("{items:?}") };
        assert_eq!((extended.client.as_deref(), extended.reqq), (Some("libtorrent/2.0.8.0"), Some(2000)));
        assert_eq!((extended.port, extended.block, extended.upload_only), (Some(39_937), None, false));
        assert_eq!(extended.pex, Some(1));
        let rest = [Message::HaveNone, Message::Interested, Message::Request(range(2, 0, 0x4000))];
        assert_eq!(items[1..4], rest.map(Item::Message));
        assert!(items[4..].iter().all(|item| matches!(item, Item::Message(Message::Request(_)))));
    }

    #[test]
    fn the_header_of_a_piece_comes_alone_and_the_payload_is_the_callers() {
        let header = piece_header(&range(3, 0x8000, 5));
        assert_eq!(&header, b"\0\0\0\x0e\x07\0\0\0\x03\0\0\x80\0");
        let stream = [&header[..], b"hello", b"\0\0\0\x01\x01"].concat();
        let (mut decoder, mut input) = (Decoder::default(), &stream[..]);
        assert_eq!(decoder.next(&mut input), Ok(Some(Item::Piece(range(3, 0x8000, 5)))));
        assert_eq!(take(&mut input, 5), b"hello");
        assert_eq!(decoder.next(&mut input), Ok(Some(Item::Message(Message::Unchoke))));
        assert_eq!((decoder.next(&mut input), input.len()), (Ok(None), 0));
    }

    #[test]
    fn lengths_that_no_message_of_that_kind_has_are_refused_at_once() {
        let refuse = |len: u32, id: u8| {
            let head = [&len.to_be_bytes()[..], &[id, 0]].concat();
            let impossible = len as usize > 2 * UNKNOWN_BYTES_MAX;
            let error = if impossible { BadMessage::TooLong(len) } else { BadMessage::Length { id, len } };
            assert_eq!(items(&head), Err(error), "{id} {len}");
            assert!(!impossible || items(&head[..4]) == Err(error), "the length alone is enough");
        };
        for id in [0, 1, 2, 3, 14, 15] {
            refuse(2, id);
        }
        for (id, len) in [(4, 5), (13, 5), (17, 5), (6, 13), (8, 13), (16, 13), (9, 3)] {
            refuse(len - 1, id);
            refuse(len + 1, id);
        }
        refuse(8, 7);
        refuse(1, 20);
        refuse(2 + BITFIELD_BYTES_MAX as u32, 5);
        refuse(3 + EXTENDED_BYTES_MAX as u32, 20);
        let pex = [&(3 + EXTENDED_BYTES_MAX as u32).to_be_bytes()[..], &[20, 1]].concat();
        assert_eq!(items(&pex), Err(BadMessage::Length { id: 20, len: 3 + EXTENDED_BYTES_MAX as u32 }));
        refuse(1 + UNKNOWN_BYTES_MAX as u32, 99);
        refuse(u32::MAX, 99);
        let too_long = piece_header(&range(0, 0, REQUEST_BYTES_MAX + 1));
        assert_eq!(items(&too_long), Err(BadMessage::BlockTooLong(REQUEST_BYTES_MAX + 1)));
        assert_eq!(items(&piece_header(&range(0, 0, REQUEST_BYTES_MAX))).map(|items| items.len()), Ok(1));
        assert_eq!(items(b"\xff\xff\xff\xff\x07"), Err(BadMessage::TooLong(u32::MAX)));
    }

    #[test]
    fn the_bitfield_of_the_largest_torrent_passes() {
        let pieces = crate::config::TORRENT_BYTES_MAX / 20;
        let bitfield = Message::Bitfield(vec![0xff; pieces.div_ceil(8)]);
        let mut out = Vec::new();
        bitfield.encode(&mut out);
        assert_eq!(items(&out), Ok(vec![Item::Message(bitfield)]));
    }

    #[test]
    fn unknown_messages_are_skipped_without_being_kept() {
        let unknown = [&1001_u32.to_be_bytes()[..], &[99], &[7; 1000], b"\0\0\0\x01\x01"].concat();
        assert_eq!(items(&unknown), Ok(vec![Item::Message(Message::Unknown(99)), Item::Message(Message::Unchoke)]));
        let metadata = [&1001_u32.to_be_bytes()[..], &[20, 3], &[b'd'; 999], b"\0\0\0\x01\x01"].concat();
        assert_eq!(items(&metadata), Ok(vec![Item::Message(Message::Unknown(20)), Item::Message(Message::Unchoke)]));
    }

    #[test]
    fn an_extension_handshake_with_odd_values_loses_only_those() {
        let decode = |dict: &str| Extended::decode(dict.as_bytes());
        let odd = "d13:labmesh_blocki-1e1:md6:ut_pexi0ee1:pi70000e4:reqq3:abc11:upload_only1:x1:vi5e3:zzzlee";
        assert_eq!(decode(odd), Ok(Extended::default()));
        assert_eq!(decode("d1:v4:\u{1b}[2Je").map(|e| e.client), Ok(Some("[2J".to_owned())));
        let long = format!("d1:v200:{}e", "x".repeat(200));
        assert_eq!(decode(&long).map(|e| e.client.map(|c| c.len())), Ok(Some(CLIENT_CHARS_MAX)));
        for bad in ["", "d", "le", "i1e", "dee", "d1:ve", &"l".repeat(EXTENDED_BYTES_MAX)] {
            assert_eq!(decode(bad), Err(BadMessage::Extended), "{bad}");
        }
    }

    fn any_range() -> impl Strategy<Value = Range> {
        any::<(u32, u32, u32)>().prop_map(|(piece, offset, len)| range(piece, offset, len))
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let extended =
            ("[ -~]{0,64}", any::<Option<(u32, u32, bool, bool)>>(), 1..=u16::MAX).prop_map(|(v, numbers, port)| {
                let (reqq, block, seeder, upload_only) = numbers.unwrap_or_default();
                let (reqq, block) = (numbers.map(|_| reqq), numbers.map(|_| block));
                let pex = u8::try_from(port).ok();
                Extended { client: Some(v), reqq, port: Some(port), block, seeder, pex, upload_only }
            });
        let pex = prop::collection::vec((any::<[u8; 4]>(), 1..=u16::MAX, any::<u8>()), 0..9).prop_map(|added| {
            let added = added.into_iter().map(|(ip, port, flags)| ((ip, port).into(), flags)).collect();
            Message::Pex(Extended::PEX, Pex { added, dropped: Vec::new() })
        });
        prop_oneof![
            proptest::sample::select(vec![
                Message::KeepAlive,
                Message::Choke,
                Message::Unchoke,
                Message::Interested,
                Message::NotInterested,
                Message::HaveAll,
                Message::HaveNone,
            ]),
            any::<u32>().prop_map(Message::Have),
            any::<u32>().prop_map(Message::Suggest),
            any::<u32>().prop_map(Message::AllowedFast),
            any::<u16>().prop_map(Message::Port),
            any::<Vec<u8>>().prop_map(Message::Bitfield),
            any_range().prop_map(Message::Request),
            any_range().prop_map(Message::Cancel),
            any_range().prop_map(Message::Reject),
            extended.prop_map(Message::Extended),
            pex,
            (21..=u8::MAX).prop_map(Message::Unknown),
        ]
    }

    proptest! {
        #[test]
        fn any_messages_in_any_fragments_come_out_as_they_went_in(
            messages in prop::collection::vec(any_message(), 0..8),
            cuts in prop::collection::vec(1..24_usize, 1..8),
        ) {
            let mut bytes = Vec::new();
            messages.iter().for_each(|message| message.encode(&mut bytes));
            let (mut decoder, mut read, mut rest, mut cut) = (Decoder::default(), Vec::new(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let mut input = take(&mut rest, *cut.next().unwrap());
                while let Some(item) = decoder.next(&mut input).unwrap() {
                    read.push(item);
                }
                prop_assert!(input.is_empty());
            }
            let expected: Vec<_> = messages.into_iter().map(Item::Message).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn no_truncation_is_a_message(message in any_message()) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            for end in 0..bytes.len() {
                prop_assert_eq!(items(&bytes[..end]), Ok(vec![]));
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>, id: u8, len in 0..40_u32) {
            let _ = items(&bytes);
            let _ = items(&[&len.to_be_bytes()[..], &[id], &bytes].concat());
            let _ = Extended::decode(&bytes);
        }
    }
}
