//! The second driver of `labmesh-proto`: whole rooms of the same [`labmesh_proto::node::Node`] in an invented world.
//!
//! Rule: one thread, integer nanoseconds, events ordered by (time, sequence), chance only from the seed; so one seed
//! gives one trace. Not here: any rule of the protocol, and any payload.
//!
//! Modules in reading order: what a scenario says, what may go wrong in it, the order of events, the parts of the
//! world (cables, control connections, disks), the world itself, who looks at it, and what people get to see.

pub mod scenario;

pub mod faults;
pub mod queue;
pub mod storm;

pub mod control;
pub mod disk;
pub mod network;
#[cfg(test)]
mod pipeline;
pub mod trunk;

pub mod world;

pub mod check;
pub mod expect;
mod lines;
pub mod record;
pub mod trace;

pub mod compare;
pub mod html;
pub mod jobs;
pub mod report;
pub mod table;
