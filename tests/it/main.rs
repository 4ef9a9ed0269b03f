//! Real nodes, real networks, real foreign clients: one binary, in reading order.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured and what they skip")]

/// Chromium without a screen, and what it did.
mod browser;
/// Other people's BitTorrent clients, each as a person would start it.
mod clients;
/// Processes of `labmesh`, what people type at them, and waiting for it.
mod harness;
/// Hosts that are network namespaces on a bridge; tests that its cables, counters and multicast are real.
mod lab;
/// A BitTorrent peer of a few lines, to look at a node from outside and to misbehave.
mod peer;

/// `get` where no node runs: with trackers of others, HTTP and UDP.
mod alone;
/// What goes wrong: hostile torrents, full disks, ten thousand connections.
mod faults;
/// aria2, Transmission, libtorrent, ctorrent, rTorrent and rqbit in our swarm, and we in theirs.
mod foreign;
/// The main job: eight hosts, one image, and the master and a client killed half way.
mod lab_main;
/// Rate limits and their schedule, measured at the network interface.
mod limits;
/// Clients that find us without a tracker: local discovery (BEP 14) and peer exchange (BEP 11).
mod local;
/// Leecher, peer, seeder and seed times, measured at the network interface.
mod modes;
/// The status page in a browser, the numbers before Prometheus' own tool.
mod page;
/// A folder of images with torrents of other people's trackers, and what is done to it by hand.
mod seeder;
/// The shape of the source tree.
mod tidy;
/// `.torrent` files made, shown, checked and mended.
mod torrents;
/// The tracker of a node: what it remembers, whom it hands out, and what a crowd or a vandal can do to it.
mod tracker;
/// Web servers that have the image (BEP 19).
mod web_seeds;
/// What commands say when what was asked for is not what follows.
mod words;
