//! A clock, a few trackers of one line each, and what is asked of them.

use super::*;
use crate::config::Mode;
use crate::testing::metainfo;

const HOST: &str = "labmesh.local";
const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

fn torrent(tiers: &[&[&str]]) -> Arc<Metainfo> {
    let tiers: Vec<Vec<String>> = tiers.iter().map(|t| t.iter().map(|url| (*url).to_owned()).collect()).collect();
    Arc::new(Metainfo::parse(&metainfo(100_000, 16_384).to_bytes(&tiers, None)).unwrap())
}

fn foreign(tiers: &[&[&str]]) -> Vec<Vec<String>> {
    let shown = |tier: Vec<TrackerUrl>| tier.iter().map(ToString::to_string).collect();
    foreign_tiers(&torrent(tiers), HOST).into_iter().map(shown).collect()
}

#[test]
fn a_torrent_whose_trackers_cannot_be_asked_says_so_once_and_asks_nobody() {
    let https: &[&[&str]] = &[&["https://u:p@host:8443/announce?passkey=x"], &["wss://other"]];
    assert!(is_foreign(&torrent(https), HOST) && foreign(https).is_empty());
    assert!(
        !is_foreign(&torrent(&[&["http://labmesh.local:6969/announce"]]), HOST) && !is_foreign(&torrent(&[]), HOST)
    );
    let mut lab = Lab::new(https);
    lab.swarm(|_| ());
    lab.swarm(|announce| announce.starving = true);
    lab.swarm(|announce| announce.completed = true);
    let said = lab.announcer.said(&lab.metainfo.info_hash());
    assert_eq!(said, Some("https://host:8443: trackers are asked over http and udp, not over https"));
    assert_eq!(lab.announcer.poll_output(), None);
    lab.announcer.handle_timeout(Time(1));
    assert_eq!(lab.announcer.poll_timeout(), None);
    lab.swarm(|announce| announce.leaving = true);
    assert_eq!(lab.announcer.said(&lab.metainfo.info_hash()), None);
    // One that can be asked is enough.
    let mut lab = Lab::new(&[&["https://host/announce", "udp://host:1/announce"]]);
    lab.swarm(|_| ());
    assert_eq!(lab.asks().1, "udp://host:1");
    assert_eq!(lab.announcer.said(&lab.metainfo.info_hash()), None);
}

/// An announcer, its clock, and the torrent that it is about.
struct Lab {
    announcer: Announcer,
    now: Time,
    metainfo: Arc<Metainfo>,
}

impl Lab {
    fn new(tiers: &[&[&str]]) -> Self {
        let announcer = Announcer::new(PeerId(*b"-LM0100-abcdefghijkl"), 6881, HOST.to_owned(), 1);
        Self { announcer, now: Time(0), metainfo: torrent(tiers) }
    }

    fn swarm(&mut self, change: impl FnOnce(&mut NodeAnnounce)) {
        let mut announce = NodeAnnounce {
            info_hash: self.metainfo.info_hash(),
            mode: Mode::Seeder,
            left: 5,
            uploaded: 0,
            downloaded: 0,
            leaving: false,
            completed: false,
            starving: false,
        };
        change(&mut announce);
        let metainfo = Arc::clone(&self.metainfo);
        self.announcer.handle_input(self.now, Input::Swarm { announce, metainfo });
    }

    /// What it asks now: id, whom, and what.
    #[track_caller]
    fn asks(&mut self) -> (RequestId, String, Request) {
        loop {
            match self.announcer.poll_output() {
                Some(Output::Ask { id, tracker, request }) => return (id, tracker.to_string(), request),
                Some(Output::Done(_) | Output::Peers { .. }) => {}
                None => panic!("nobody is asked"),
            }
        }
    }

    /// What it asks over HTTP now: id, whom, and the event.
    #[track_caller]
    fn gets(&mut self) -> (RequestId, String, String) {
        let (id, tracker, Request::Get(target)) = self.asks() else { panic!("not over HTTP") };
        let event = target.split('&').find_map(|pair| pair.strip_prefix("event=")).unwrap_or_default();
        (id, tracker, event.to_owned())
    }

    fn quiet(&mut self) -> bool {
        std::iter::from_fn(|| self.announcer.poll_output()).all(|o| !matches!(o, Output::Ask { .. }))
    }

    fn says(&mut self, id: RequestId, bytes: &[u8]) {
        let result = Ok(Answer { from: FROM, bytes: bytes.to_vec() });
        self.announcer.handle_input(self.now, Input::Said { id, result });
    }

    fn fails(&mut self, id: RequestId) {
        self.announcer.handle_input(self.now, Input::Said { id, result: Err("refused".to_owned()) });
    }

    /// Goes to the next deadline; how many seconds that took.
    #[track_caller]
    fn advance(&mut self) -> u64 {
        let (at, _) = self.announcer.poll_timeout().expect("it waits for something");
        let took = at.since(self.now).as_secs();
        self.now = at;
        self.announcer.handle_timeout(at);
        took
    }
}

const GOOD: &[u8] = b"d8:intervali1800e12:min intervali600e5:peers6:\x0a\0\0\x07\x1a\xe1e";

#[test]
fn the_trackers_of_the_mesh_are_not_foreign() {
    assert_eq!(foreign(&[]), Vec::<Vec<String>>::new());
    assert_eq!(foreign(&[&["http://labmesh.local:6969/announce"]]), Vec::<Vec<String>>::new());
    let handed_out: &[&[&str]] = &[&["http://10.0.0.1:6969/announce"], &["http://LABMESH.local:6969/announce"]];
    assert_eq!(foreign(handed_out), Vec::<Vec<String>>::new());
    let opengnsys: &[&[&str]] = &[&["http://10.1.12.90:6969/announce"]];
    assert_eq!(foreign(opengnsys), [["http://10.1.12.90:6969"]]);
    let both: &[&[&str]] =
        &[&["http://labmesh.local:6969/announce"], &["http://t.example/a", "https://x/", "udp://u:1"]];
    assert_eq!(foreign(both), [["http://t.example:80", "udp://u:1"]]);
    let many = vec!["http://t/a"; TRACKERS_PER_TORRENT_MAX + 1];
    assert_eq!(foreign(&[&many, &many])[0].len(), TRACKERS_PER_TORRENT_MAX);
}

#[test]
fn a_torrent_of_the_mesh_asks_nobody() {
    let mut lab = Lab::new(&[&["http://labmesh.local:6969/announce"]]);
    lab.swarm(|_| {});
    assert!(lab.quiet());
    assert_eq!(lab.announcer.poll_timeout(), None);
}

#[test]
fn one_life_is_started_completed_and_stopped_at_the_trackers_own_pace() {
    let mut lab = Lab::new(&[&["http://a/announce"]]);
    lab.swarm(|_| {});
    let (id, tracker, event) = lab.gets();
    assert_eq!((tracker.as_str(), event.as_str()), ("http://a:80", "started"));
    lab.swarm(|_| {});
    assert!(lab.quiet(), "it has been asked");
    lab.says(id, GOOD);
    assert_eq!(lab.announcer.poll_output(), Some(Output::Done(id)));
    let peers = vec!["10.0.0.7:6881".parse().unwrap()];
    assert_eq!(lab.announcer.poll_output(), Some(Output::Peers { info_hash: lab.metainfo.info_hash(), peers }));
    assert_eq!(lab.announcer.said(&lab.metainfo.info_hash()), Some("http://a:80: 0 complete, 0 downloading"));
    assert_eq!(lab.advance(), 1800);
    let (id, _, event) = lab.gets();
    assert_eq!(event, "");
    lab.swarm(|a| (a.completed, a.left) = (true, 0));
    assert!(lab.quiet(), "one question at a time");
    lab.says(id, GOOD);
    let (id, _, event) = lab.gets();
    assert_eq!(event, "completed");
    lab.says(id, GOOD);
    lab.swarm(|a| a.completed = false);
    assert!(lab.quiet(), "said once");
    lab.swarm(|a| a.leaving = true);
    let (id, _, event) = lab.gets();
    assert_eq!(event, "stopped");
    lab.says(id, GOOD);
    assert!(lab.quiet());
    assert_eq!(lab.announcer.poll_timeout(), None);
}

#[test]
fn who_starves_asks_as_early_as_the_tracker_allows() {
    let mut lab = Lab::new(&[&["http://a/announce"]]);
    lab.swarm(|_| {});
    let (id, ..) = lab.gets();
    lab.says(id, GOOD);
    lab.swarm(|a| a.starving = true);
    assert!(lab.quiet());
    assert_eq!(lab.advance(), 600);
    lab.gets();
}

#[test]
fn tiers_are_tried_in_order_and_who_answers_goes_to_the_front() {
    let mut lab = Lab::new(&[&["http://a1/announce", "http://a2/announce"], &["http://b/announce"]]);
    lab.swarm(|_| {});
    let (first, one, _) = lab.gets();
    lab.fails(first);
    let (second, two, event) = lab.gets();
    assert_eq!(event, "started", "the other one does not know us");
    assert!(one != two && [&one, &two].iter().all(|t| t.starts_with("http://a")), "{one} {two}");
    lab.says(second, GOOD);
    lab.advance();
    let (id, tracker, event) = lab.gets();
    assert_eq!((tracker, event.as_str()), (two.clone(), ""), "it is the first of its tier now");
    lab.says(id, b"d14:failure reason4:gonee");
    let (id, tracker, _) = lab.gets();
    assert_eq!(tracker, one);
    lab.fails(id);
    let (id, tracker, event) = lab.gets();
    assert_eq!((tracker.as_str(), event.as_str()), ("http://b:80", "started"));
    lab.fails(id);
    assert!(lab.quiet(), "all have failed");
    // The list again, later and later.
    assert_eq!(lab.advance(), 30);
    for _ in 0..3 {
        let (id, ..) = lab.gets();
        lab.fails(id);
    }
    assert_eq!(lab.advance(), 60);
    lab.swarm(|a| a.leaving = true);
    let (_, tracker, _) = lab.asks();
    assert_eq!(tracker, two, "the question to it is ended");
    let (goodbye, tracker, event) = lab.gets();
    assert_eq!((tracker, event.as_str()), (two, "stopped"), "only who knows us is told");
    assert!(lab.quiet());
    lab.fails(goodbye);
    assert_eq!(lab.announcer.poll_timeout(), None);
}

#[test]
fn a_refusal_that_names_a_time_is_obeyed() {
    let mut lab = Lab::new(&[&["http://a/announce"]]);
    lab.swarm(|_| {});
    let (id, ..) = lab.gets();
    lab.says(id, b"d14:failure reason4:busy8:retry ini10ee");
    assert_eq!(lab.advance(), 600);
}

#[track_caller]
fn kind(request: &Request) -> (u8, u32) {
    let Request::Datagram(bytes) = request else { panic!("not over UDP") };
    (bytes[11], u32::from_be_bytes(bytes[12..16].try_into().unwrap()))
}

#[test]
fn over_udp_a_question_is_connected_first_and_repeated() {
    let mut lab = Lab::new(&[&["udp://a:80"]]);
    lab.swarm(|_| {});
    let (id, _, request) = lab.asks();
    let (connect, transaction) = kind(&request);
    assert_eq!(connect, 0);
    assert_eq!(lab.advance(), 15);
    assert_eq!(lab.asks(), (id, "udp://a:80".to_owned(), request));
    assert_eq!(lab.advance(), 30);
    lab.asks();
    let connected = |transaction: u32| [&[0; 4][..], &transaction.to_be_bytes(), &[7; 8]].concat();
    lab.says(id, &connected(transaction ^ 1));
    lab.says(id, b"noise");
    assert!(lab.quiet(), "not an answer to this question");
    lab.says(id, &connected(transaction));
    let (same, _, request) = lab.asks();
    let (announce, other) = kind(&request);
    assert_eq!((same, announce), (id, 1));
    lab.says(id, &connected(transaction));
    assert!(lab.quiet(), "twice");
    let told =
        [&[0, 0, 0, 1][..], &other.to_be_bytes(), &[0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2, 10, 0, 0, 7, 1, 1]].concat();
    lab.says(id, &told);
    assert_eq!(lab.announcer.said(&lab.metainfo.info_hash()), Some("udp://a:80: 2 complete, 1 downloading"));
    assert_eq!(lab.advance(), 1800);
}

#[test]
fn a_silent_tracker_is_given_up_after_three_datagrams() {
    let mut lab = Lab::new(&[&["udp://a:80"], &["http://b/announce"]]);
    lab.swarm(|_| {});
    lab.asks();
    assert_eq!((lab.advance(), lab.advance(), lab.advance()), (15, 30, 60));
    lab.asks();
    lab.asks();
    assert_eq!(lab.gets().1, "http://b:80");
    assert_eq!(lab.advance(), 60, "the driver must have something to say by then");
    assert!(lab.quiet());
}

#[test]
fn a_node_of_the_mesh_is_no_tracker_of_others() {
    let mut lab = Lab::new(&[&["http://10.0.0.1:6969/announce"], &["http://b/announce"]]);
    lab.swarm(|_| {});
    let (id, ..) = lab.gets();
    lab.announcer.handle_input(lab.now, Input::Ours(id));
    let (id, tracker, _) = lab.gets();
    assert_eq!(tracker, "http://b:80");
    lab.announcer.handle_input(lab.now, Input::Ours(id));
    assert!(lab.quiet());
    assert_eq!(lab.announcer.poll_timeout(), None);
    lab.swarm(|a| a.leaving = true);
    assert!(lab.quiet());
}

#[test]
fn five_hundred_torrents_are_a_queue() {
    let mut lab = Lab::new(&[]);
    for n in 0..500u64 {
        let metainfo = metainfo(100_000 + n, 16_384);
        lab.metainfo =
            Arc::new(Metainfo::parse(&metainfo.to_bytes(&[vec!["http://a/announce".into()]], None)).unwrap());
        lab.swarm(|_| {});
    }
    let mut asked = 0;
    loop {
        let now: Vec<RequestId> = std::iter::from_fn(|| lab.announcer.poll_output())
            .filter_map(|o| if let Output::Ask { id, .. } = o { Some(id) } else { None })
            .collect();
        if now.is_empty() {
            break;
        }
        assert!(now.len() <= TRACKER_QUESTIONS_MAX);
        assert!(lab.announcer.poll_timeout().is_some_and(|(at, _)| at > lab.now), "no deadline that never moves");
        asked += now.len();
        now.into_iter().for_each(|id| lab.says(id, GOOD));
    }
    assert_eq!(asked, 500);
}
