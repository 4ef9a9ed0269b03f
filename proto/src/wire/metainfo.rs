//! `.torrent` files (BEP 3 metainfo): one file, v1, checked; and rewriting them around their raw `info` bytes.
//!
//! Rule: what is a [`Metainfo`] satisfies every limit of [`crate::config`]; its `info` bytes are those that came,
//! never re-encoded, so its info hash survives add, export and rewrite. Not here: hashing of pieces (`labmesh`).

use crate::id::{Geometry, InfoHash, PieceIndex};

/// A checked single-file torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    info: Vec<u8>,
    info_hash: InfoHash,
    name: String,
    geometry: Geometry,
    hashes: Vec<[u8; 20]>,
    announce: Vec<Vec<String>>,
    comment: Option<String>,
    private: bool,
}

impl Metainfo {
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
        &self.hashes[piece.index()]
    }
}
