//! What a node counts at its door, and how Prometheus reads it.
//!
//! Rule: counters only grow, one word each, and nobody waits for another to count. What the mind knows is not counted
//! twice: it is read from [`Status`] when somebody asks. Not here: who listens on which port (`io::tracker`), the
//! route that hands this text out (`web`).

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use labmesh_proto::node::{Role, Status, TransferStatus};

/// One number that many tasks add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What the tracker's sockets and the pages count.
#[derive(Debug, Default)]
pub struct Counters {
    /// HTTP connections that were taken.
    pub http_connections: Counter,
    /// HTTP connections that were turned away, since there were too many.
    pub http_refused: Counter,
    /// HTTP requests, whatever the answer.
    pub http_requests: Counter,
    /// Announces by HTTP, refused ones included.
    pub http_announces: Counter,
    /// Scrapes by HTTP.
    pub http_scrapes: Counter,
    /// Announces by UDP, refused ones included.
    pub udp_announces: Counter,
    /// Scrapes by UDP.
    pub udp_scrapes: Counter,
    /// UDP connection ids handed out.
    pub udp_connects: Counter,
    /// UDP datagrams that were not answered: malformed, too many, or the node was too busy.
    pub udp_dropped: Counter,
    /// Announces, by HTTP or UDP, that were answered with a failure.
    pub announce_failures: Counter,
}

/// The exposition of one moment, in Prometheus' text format 0.0.4.
pub fn text(status: &Status, mesh: &str, counters: &Counters) -> String {
    let mut text = String::with_capacity(4096 + status.transfers.len() * 1024);
    let written = write_mesh(&mut text, status, mesh)
        .and_then(|()| write_transfers(&mut text, &status.transfers))
        .and_then(|()| write_counters(&mut text, counters));
    written.expect("writing to a String does not fail");
    text
}

fn write_mesh(out: &mut String, status: &Status, mesh: &str) -> fmt::Result {
    head(out, "labmesh_info", "gauge", "Always 1; who is asked.")?;
    let (node, version) = (Label(&status.name), env!("CARGO_PKG_VERSION"));
    writeln!(out, "labmesh_info{{node=\"{node}\",mesh=\"{}\",version=\"{version}\"}} 1", Label(mesh))?;

    head(out, "labmesh_role", "gauge", "1 for what this node is in its mesh.")?;
    for (role, word) in
        [(Role::Master, "master"), (Role::Follower, "follower"), (Role::Candidate, "candidate"), (Role::Solo, "solo")]
    {
        writeln!(out, "labmesh_role{{role=\"{word}\"}} {}", u8::from(status.role == role))?;
    }
    single(out, "labmesh_term", "gauge", "The election term this node lives in.", status.term)?;

    head(out, "labmesh_nodes", "gauge", "Nodes of the roster, heard lately by the master or away.")?;
    let live = status.nodes.iter().filter(|n| n.live).count();
    writeln!(out, "labmesh_nodes{{state=\"live\"}} {live}")?;
    writeln!(out, "labmesh_nodes{{state=\"away\"}} {}", status.nodes.len() - live)?;
    single(out, "labmesh_images", "gauge", "Images of the catalogue.", status.images.len() as u64)
}

fn write_transfers(out: &mut String, transfers: &[TransferStatus]) -> fmt::Result {
    type Read = fn(&TransferStatus) -> u64;
    let families: [(&str, &str, &str, Read); 7] = [
        ("received_bytes_total", "counter", "Payload bytes this node received.", |t| t.downloaded),
        ("sent_bytes_total", "counter", "Payload bytes this node sent.", |t| t.uploaded),
        ("receive_bytes_per_second", "gauge", "Payload bytes per second that come in.", |t| t.down_bps),
        ("send_bytes_per_second", "gauge", "Payload bytes per second that go out.", |t| t.up_bps),
        ("pieces", "gauge", "Verified pieces here.", |t| t.have.into()),
        ("pieces_wanted", "gauge", "Pieces of the whole image.", |t| t.pieces.into()),
        ("pieces_missing", "gauge", "Pieces that nobody present has.", |t| t.missing_pieces.into()),
    ];
    for (name, kind, help, read) in families {
        let name = format!("labmesh_transfer_{name}");
        head(out, &name, kind, help)?;
        for t in transfers {
            writeln!(out, "{name}{{image=\"{}\",info_hash=\"{}\"}} {}", Label(&t.name), t.info_hash, read(t))?;
        }
    }
    Ok(())
}

fn write_counters(out: &mut String, c: &Counters) -> fmt::Result {
    let name = "labmesh_tracker_announces_total";
    head(out, name, "counter", "Announces of clients, refused ones included.")?;
    writeln!(out, "{name}{{protocol=\"http\"}} {}", c.http_announces.get())?;
    writeln!(out, "{name}{{protocol=\"udp\"}} {}", c.udp_announces.get())?;
    let name = "labmesh_tracker_scrapes_total";
    head(out, name, "counter", "Scrapes of clients.")?;
    writeln!(out, "{name}{{protocol=\"http\"}} {}", c.http_scrapes.get())?;
    writeln!(out, "{name}{{protocol=\"udp\"}} {}", c.udp_scrapes.get())?;
    for (name, help, counter) in [
        ("tracker_failures_total", "Announces answered with a failure.", &c.announce_failures),
        ("tracker_udp_connects_total", "UDP connection ids handed out.", &c.udp_connects),
        ("tracker_udp_dropped_total", "UDP datagrams that were not answered.", &c.udp_dropped),
        ("http_connections_total", "HTTP connections taken.", &c.http_connections),
        ("http_connections_refused_total", "HTTP connections turned away.", &c.http_refused),
        ("http_requests_total", "HTTP requests, whatever the answer.", &c.http_requests),
    ] {
        single(out, &format!("labmesh_{name}"), "counter", help, counter.get())?;
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
    head(out, name, kind, help)?;
    writeln!(out, "{name} {value}")
}

/// A label value: backslash, quote and line feed escaped, as the text format asks.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_inside_their_label() {
        assert_eq!(Label("a\"} 1\nevil 2 \\").to_string(), "a\\\"} 1\\nevil 2 \\\\");
    }
}
