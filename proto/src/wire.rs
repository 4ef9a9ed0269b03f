//! Bytes and values: every format that comes from outside is decoded here, once, into a checked type.
//!
//! Rule: a decoder returns an error or "need more", never panics, and never allocates more than its input and a
//! limit of [`crate::config`] allow. Not here: what a message means.

pub mod bencode;
pub mod control;
pub mod http_tracker;
pub mod metainfo;
pub mod peer;
pub mod tracker_client;
pub mod udp_tracker;
pub mod web_seed;
