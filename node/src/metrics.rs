//! What a node counts at its door, and how Prometheus reads it.
//!
//! Rule: counters only grow, one word each, and nobody waits for another to count. What the mind knows is not counted
//! twice: it is read from [`Status`] when somebody asks. Names follow Prometheus' "Metric and label naming": base units
//! (bytes, seconds), a counter and nothing else ends in `_total`. Not here: who listens on which port (`io::tracker`),
//! the route that hands this text out (`web`).

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use labmesh_proto::node::{ImageStatus, Role, Status, TransferStatus};
use labmesh_proto::wire::control::TransferState;

use crate::view;

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
    /// Browsers that began to follow the page as it changes.
    pub page_listeners: Counter,
    /// Browsers that were one too many for that.
    pub page_listeners_refused: Counter,
}

/// The exposition of one moment, in Prometheus' text format 0.0.4.
pub fn text(status: &Status, mesh: &str, counters: &Counters) -> String {
    let mut text = String::with_capacity(4096 + status.transfers.len() * 2048 + status.images.len() * 512);
    let written = write_mesh(&mut text, status, mesh)
        .and_then(|()| write_images(&mut text, &status.images))
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
    head(out, "labmesh_node_up", "gauge", "1 for a node that the master has heard lately.")?;
    for n in &status.nodes {
        let (name, site) = (Label(&n.name), Label(&n.site));
        writeln!(out, "labmesh_node_up{{node=\"{name}\",site=\"{site}\"}} {}", u8::from(n.live))?;
    }
    single(out, "labmesh_images", "gauge", "Images of the catalogue.", status.images.len() as u64)?;
    let (up, down) = (status.limits.upload.into(), status.limits.download.into());
    single(out, "labmesh_upload_limit_bytes_per_second", "gauge", "The most it sends to peers; 0 is no limit.", up)?;
    single(out, "labmesh_download_limit_bytes_per_second", "gauge", "The most it fetches; 0 is no limit.", down)
}

/// One image or transfer has the same labels in every family.
type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

fn write_images(out: &mut String, images: &[ImageStatus]) -> fmt::Result {
    const FAMILIES: [Family<ImageStatus>; 5] = [
        ("size_bytes", "gauge", "Bytes of the image.", |i| i.size),
        ("holders", "gauge", "Nodes with a whole copy, those that are away included.", |i| i.holders.len() as u64),
        ("complete", "gauge", "Peers of the swarm with a whole copy.", |i| i.complete.into()),
        ("downloading", "gauge", "Other peers of the swarm.", |i| i.downloading.into()),
        ("downloads_total", "counter", "Copies that were completed.", |i| i.downloaded),
    ];
    for (name, kind, help, read) in FAMILIES {
        let name = format!("labmesh_image_{name}");
        head(out, &name, kind, help)?;
        for i in images {
            writeln!(out, "{name}{{image=\"{}\",info_hash=\"{}\"}} {}", Label(&i.name), i.info_hash, read(i))?;
        }
    }
    Ok(())
}

fn write_transfers(out: &mut String, transfers: &[TransferStatus]) -> fmt::Result {
    const FAMILIES: [Family<TransferStatus>; 9] = [
        ("received_bytes_total", "counter", "Payload bytes this node received.", |t| t.downloaded),
        ("sent_bytes_total", "counter", "Payload bytes this node sent.", |t| t.uploaded),
        ("receive_bytes_per_second", "gauge", "Payload bytes per second that come in.", |t| t.down_bps),
        ("send_bytes_per_second", "gauge", "Payload bytes per second that go out.", |t| t.up_bps),
        ("size_bytes", "gauge", "Bytes of the whole image.", |t| t.size),
        ("verified_bytes", "gauge", "Bytes of the verified pieces here.", |t| t.bytes_have),
        ("pieces", "gauge", "Verified pieces here.", |t| t.have.into()),
        ("pieces_wanted", "gauge", "Pieces of the whole image.", |t| t.pieces.into()),
        ("pieces_missing", "gauge", "Pieces that nobody present has.", |t| t.missing_pieces.into()),
    ];
    const STATES: [TransferState; 7] = [
        TransferState::Checking,
        TransferState::Fetching,
        TransferState::Waiting,
        TransferState::Seeding,
        TransferState::Idle,
        TransferState::Stopped,
        TransferState::Failed,
    ];
    for (name, kind, help, read) in FAMILIES {
        let name = format!("labmesh_transfer_{name}");
        head(out, &name, kind, help)?;
        for t in transfers {
            writeln!(out, "{name}{{image=\"{}\",info_hash=\"{}\"}} {}", Label(&t.name), t.info_hash, read(t))?;
        }
    }
    let name = "labmesh_transfer_seed_time_left_seconds";
    head(out, name, "gauge", "How long the copy is seeded still; absent if no end is set.")?;
    for t in transfers {
        if let (TransferState::Seeding, Some(left)) = (t.state, t.seed_left) {
            let left = left.as_secs_f64();
            writeln!(out, "{name}{{image=\"{}\",info_hash=\"{}\"}} {left}", Label(&t.name), t.info_hash)?;
        }
    }
    let name = "labmesh_transfer_state";
    head(out, name, "gauge", "1 for what the transfer does.")?;
    for t in transfers {
        for state in STATES {
            let (image, now) = (Label(&t.name), u8::from(t.state == state));
            let state = view::state(state);
            writeln!(out, "{name}{{image=\"{image}\",info_hash=\"{}\",state=\"{state}\"}} {now}", t.info_hash)?;
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
        ("page_listeners_total", "Browsers that began to follow the page.", &c.page_listeners),
        ("page_listeners_refused_total", "Browsers too many to follow the page.", &c.page_listeners_refused),
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

    /// The text format 0.0.4 as the strictest reader has it: HELP, TYPE and then samples of one family, no family and
    /// no sample twice, and the conventions for names.
    fn check(text: &str) {
        use std::collections::BTreeSet;
        let (mut families, mut samples) = (BTreeSet::new(), BTreeSet::new());
        let mut family = String::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a family has words");
                let kind = lines.next().and_then(|l| l.strip_prefix(&format!("# TYPE {name} "))).expect("TYPE follows");
                assert!(words.ends_with('.') && ["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                assert!(name.starts_with("labmesh_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
                assert!(families.insert(name.to_owned()), "{name} comes twice");
                name.clone_into(&mut family);
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            assert!(value.parse::<f64>().is_ok_and(|v| v >= 0.0), "{line}");
            assert!(samples.insert(series.to_owned()), "{series} comes twice");
            let rest = series.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            assert!(rest.is_empty() || labels_end(rest) == Some(rest.len()), "{line}");
        }
        assert!(text.ends_with('\n'));
    }

    /// Where `{name="value",...}` ends.
    fn labels_end(text: &str) -> Option<usize> {
        let mut rest = text.strip_prefix('{')?;
        loop {
            let (name, value) = rest.split_once("=\"")?;
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                return None;
            }
            let mut escaped = false;
            let end = value.char_indices().find_map(|(at, c)| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends.then_some(at)
            })?;
            rest = &value[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => return rest.strip_prefix('}').map(|after| text.len() - after.len()),
            }
        }
    }

    #[test]
    fn the_exposition_is_what_the_strictest_reader_takes() {
        use labmesh_proto::config::{Mode, RateLimit, RateLimits, Weight};
        use labmesh_proto::id::{InfoHash, NodeId};
        use labmesh_proto::node::NodeStatus;
        let image = |n: u8| ImageStatus {
            name: "a\"} 1\nb \\é.img".into(),
            info_hash: InfoHash([n; 20]),
            size: 5,
            piece_length: 1,
            holders: vec![],
            here: None,
            ambiguous: true,
            complete: 1,
            downloading: 2,
            downloaded: 3,
        };
        let transfer = |n: u8, state| TransferStatus {
            name: image(n).name,
            info_hash: InfoHash([n; 20]),
            mode: Mode::Peer,
            state,
            have: 1,
            pieces: 2,
            bytes_have: 3,
            size: 5,
            down_bps: 1,
            up_bps: 2,
            downloaded: 3,
            uploaded: 4,
            seed_left: Some(std::time::Duration::from_millis(1500)),
            seeds_as_master: false,
            missing_pieces: 0,
            last_seen_on: vec![],
            sources: vec![],
            tracker: None,
            error: None,
        };
        let node = NodeStatus {
            id: NodeId([0; 32]),
            name: "pc01".into(),
            addr: None,
            http_port: 1,
            role: Role::Solo,
            weight: Weight::DEFAULT,
            site: "a \"site\"".into(),
            live: true,
            transfers: vec![],
        };
        let status = Status {
            torrents: Vec::new(),
            id: NodeId([0; 32]),
            name: "pc01".into(),
            role: Role::Solo,
            term: 1,
            master: None,
            nodes: vec![node],
            images: vec![image(1), image(2)],
            transfers: vec![transfer(1, TransferState::Seeding), transfer(2, TransferState::Fetching)],
            trackers: vec![],
            limits: RateLimits { upload: RateLimit::NONE, download: 2_000_000.try_into().unwrap() },
        };
        let text = text(&status, "lab\n", &Counters::default());
        check(&text);
        let left = text.lines().filter(|l| l.starts_with("labmesh_transfer_seed_time_left_seconds{"));
        assert_eq!(left.map(|l| l.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), ["1.5"]);
        let limits: Vec<&str> = text.lines().filter(|l| l.contains("_limit_") && !l.starts_with('#')).collect();
        let expected = ["labmesh_upload_limit_bytes_per_second 0", "labmesh_download_limit_bytes_per_second 2000000"];
        assert_eq!(limits, expected);
    }

    #[test]
    fn hostile_names_stay_inside_their_label() {
        assert_eq!(Label("a\"} 1\nevil 2 \\").to_string(), "a\\\"} 1\\nevil 2 \\\\");
    }
}
