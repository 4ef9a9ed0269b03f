//! Real nodes, real networks, real foreign clients: one binary, in reading order.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured and what they skip")]

/// Other people's BitTorrent clients, each as a person would start it.
mod clients;
/// Processes of `labmesh`, what people type at them, and waiting for it.
mod harness;
/// Hosts that are network namespaces on a bridge; tests that its cables, counters and multicast are real.
mod lab;
/// A BitTorrent peer of a few lines, to look at a node from outside and to misbehave.
mod peer;

/// What goes wrong: hostile torrents, full disks, ten thousand connections.
mod faults;
/// aria2, Transmission, libtorrent, ctorrent and rTorrent in our swarm, and we in theirs.
mod foreign;
/// The main job: eight hosts, one image, and the master and a client killed half way.
mod lab_main;
/// Leecher, peer, seeder and seed times, measured at the network interface.
mod modes;
/// The shape of the source tree.
mod tidy;
