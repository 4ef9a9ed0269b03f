//! The mind of labmesh: who is master, who holds what, who talks to whom, and which block is asked of whom.
//!
//! This crate has no clock, no socket, no file, no thread and no payload bytes. Everything that happens to a node
//! arrives as an [`io::Input`], everything it wants done leaves as an [`io::Output`], time and chance are arguments.
//! The binary `labmesh` and the simulator `labmesh-sim` are its two drivers; the contract that both obey is written
//! at the top of [`io`].
//!
//! Modules in reading order. First the words, which know nothing above them; then bytes and values; then what the
//! mesh knows, parts that do not know each other; then one image on this node; last the router.
#![cfg_attr(not(test), warn(missing_docs))]

pub mod bitfield;
pub mod config;
pub mod error;
pub mod id;

pub mod wire;

pub mod announcer;
pub mod board;
pub mod catalogue;
pub mod discovery;
pub mod election;
pub mod limiter;
pub mod lsd;
pub mod neighbours;
pub mod roster;
pub mod torrents;
pub mod tracker;

pub mod swarm;

pub mod io;
pub mod node;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
