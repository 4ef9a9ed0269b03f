//! A BitTorrent peer of a few lines (BEP 3), to look at a node from outside and to misbehave towards it.
//!
//! Rule: it shares no code with `labmesh`, so that one cannot repeat the other's mistake.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::lab::Host;

pub(crate) const UNCHOKE: u8 = 1;
pub(crate) const INTERESTED: u8 = 2;
pub(crate) const HAVE: u8 = 4;
pub(crate) const BITFIELD: u8 = 5;
pub(crate) const REQUEST: u8 = 6;
pub(crate) const PIECE: u8 = 7;

/// What such a peer calls itself.
pub(crate) const NAME: &[u8; 20] = b"-XX0001-abcdefghijkl";

/// One connection, after both handshakes.
#[derive(Debug)]
pub(crate) struct RawPeer {
    stream: TcpStream,
}

impl RawPeer {
    /// Connects from `host` and exchanges handshakes without any extension.
    pub(crate) fn connect(host: &Host, to: SocketAddr, info_hash: &str) -> io::Result<Self> {
        Self::connect_as(NAME, host, to, info_hash)
    }

    /// The same under that peer id.
    pub(crate) fn connect_as(name: &[u8; 20], host: &Host, to: SocketAddr, info_hash: &str) -> io::Result<Self> {
        let stream = host.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        let mut peer = Self { stream };
        peer.stream.write_all(&handshake(name, info_hash))?;
        let mut theirs = [0; 68];
        peer.stream.read_exact(&mut theirs)?;
        assert_eq!(&theirs[..20], b"\x13BitTorrent protocol");
        assert_eq!(theirs[28..48], unhex(info_hash)[..], "it answers for the image we asked about");
        Ok(peer)
    }

    /// Sends a message with its length before it.
    pub(crate) fn send(&mut self, id: u8, payload: &[u8]) -> io::Result<()> {
        let mut bytes = (payload.len() as u32 + 1).to_be_bytes().to_vec();
        bytes.push(id);
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes)
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Asks for a block.
    pub(crate) fn request(&mut self, piece: u32, offset: u32, len: u32) -> io::Result<()> {
        self.send(REQUEST, &[piece.to_be_bytes(), offset.to_be_bytes(), len.to_be_bytes()].concat())
    }

    /// The next message that is no keep-alive; `None` when the other side has closed.
    pub(crate) fn read(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            let mut length = [0; 4];
            match self.stream.read_exact(&mut length) {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
            let length = u32::from_be_bytes(length) as usize;
            if length > 0 {
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body)?;
                return Ok(Some((body[0], body.split_off(1))));
            }
        }
    }

    /// Reads until a message of that kind comes; its payload, or `None` when the other side has closed.
    pub(crate) fn read_until(&mut self, id: u8) -> io::Result<Option<Vec<u8>>> {
        while let Some((got, payload)) = self.read()? {
            if got == id {
                return Ok(Some(payload));
            }
        }
        Ok(None)
    }

    /// Whether the other side closes within `limit`, whatever it says before.
    pub(crate) fn is_closed(&mut self, limit: Duration) -> bool {
        let begin = Instant::now();
        let mut sink = [0; 4096];
        while let Some(left) = limit.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
            self.stream.set_read_timeout(Some(left)).expect("a timeout can be set");
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return false,
                Err(_) => return true,
            }
        }
        false
    }
}

/// The 68 bytes of BEP 3 with no extension bit set.
pub(crate) fn handshake(name: &[u8; 20], info_hash: &str) -> Vec<u8> {
    let mut bytes = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(&unhex(info_hash));
    bytes.extend_from_slice(name);
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |d: u8| char::from(d).to_digit(16).expect("an info hash is hexadecimal") as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}
