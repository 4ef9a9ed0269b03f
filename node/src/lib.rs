//! The body of labmesh: sockets, files, clocks and threads around [`labmesh_proto::node::Node`], and the command
//! line.
//!
//! Modules in reading order: [`driver`] is the one loop that joins everything; what moves bytes is under [`io`], whose
//! parts do not know each other; then what people touch.

pub mod driver;

pub mod io;

pub mod cli;
pub mod command;
pub mod config;
pub mod metrics;
pub mod progress;
pub mod view;
pub mod web;
