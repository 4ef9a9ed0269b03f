//! Real sockets on 127.0.0.1 and real files. The driver of these tests answers as `proto` would, without any choice.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;

use labmesh_proto::config::{BLOCK_BYTES, HUGE_BLOCK_BYTES, LARGE_BLOCK_BYTES};
use labmesh_proto::id::{InfoHash, PeerId};
use labmesh_proto::io::Input;
use labmesh_proto::wire::peer::{Range, piece_header};
use rustix::fs::{Advice, fadvise};

use super::*;
use crate::io::Event;
use crate::io::buffers::Buffer;
use crate::io::disk::Disk;
use crate::io::testing::{Bench, IMAGE, Listener, NAME, PATIENCE, Sample, cache_with, sample};

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn handshake(info_hash: InfoHash, name: u8) -> Handshake {
    Handshake { info_hash, peer_id: PeerId([name; 20]), fast: true, extended: true }
}

/// Peers, a disk, and who listens to both.
struct Host {
    bench: Bench,
    peers: Peers,
}

impl Host {
    fn on(cache: &std::path::Path, limits: Limits) -> Self {
        Self::with(cache, limits, Buffers::new(16 << 20))
    }

    fn with(cache: &std::path::Path, limits: Limits, buffers: Buffers) -> Self {
        let (listener, events) = Listener::new();
        let peers = Peers::bind(listener.runtime.handle(), LOCALHOST, limits, buffers.clone(), events.clone()).unwrap();
        let folders = crate::io::disk::Folders { cache: cache.to_owned(), ..Default::default() };
        let disk = Disk::start(folders, buffers.clone(), events).unwrap();
        Self { bench: Bench { disk, listener, buffers }, peers }
    }

    /// Offers a whole image.
    fn seeding(sample: &Sample) -> (Self, tempfile::TempDir) {
        let cache = cache_with(sample);
        let mut host = Self::on(cache.path(), Limits::default());
        host.bench.open(sample, NAME, true).unwrap();
        (host, cache)
    }

    fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.peers.local_port()).into()
    }

    #[track_caller]
    fn next(&mut self) -> Event {
        self.bench.listener.next()
    }

    fn accept(&self, conn: ConnId, ours: Handshake) {
        self.peers.accept(conn, IMAGE, self.bench.disk.source(IMAGE).unwrap(), ours);
    }

    /// A foreign client whose connection is up and accepted.
    #[track_caller]
    fn visitor(&mut self, sample: &Sample) -> (TcpStream, ConnId) {
        let mut stream = knock(self.addr());
        let (ours, theirs) = (handshake(sample.metainfo.info_hash(), 1), handshake(sample.metainfo.info_hash(), 2));
        stream.write_all(&theirs.encode()).unwrap();
        let conn = match self.next() {
            Event::Input(Input::PeerUp { conn, handshake, outgoing: false, .. }) if handshake == theirs => conn,
            other => panic!("expected PeerUp, got {other:?}"),
        };
        self.accept(conn, ours);
        let mut answer = [0; Handshake::BYTES];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(Handshake::decode(&answer), Ok(ours));
        (stream, conn)
    }

    #[track_caller]
    fn expect_down(&mut self, conn: ConnId) {
        match self.next() {
            Event::Input(Input::PeerDown { conn: down }) => assert_eq!(down, conn),
            other => panic!("expected PeerDown, got {other:?}"),
        }
        self.peers.release(conn);
    }
}

fn knock(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether the other side has closed; a reset is as good as an end.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
    }
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

/// Answers every request until the other side goes away.
fn serve(mut host: Host, sample: &Sample) -> Host {
    loop {
        match host.next() {
            Event::Input(Input::PeerUp { conn, outgoing: false, .. }) => {
                host.accept(conn, handshake(sample.metainfo.info_hash(), 1));
            }
            Event::Input(Input::Peer { conn, message: Message::Request(range) }) => {
                let block = sample.metainfo.geometry().block(range.piece, range.offset, range.len).unwrap();
                host.peers.send_block(conn, block);
            }
            Event::Input(Input::Sent { .. } | Input::Peer { .. }) => {}
            Event::Input(Input::PeerDown { .. }) => return host,
            other => panic!("{other:?}"),
        }
    }
}

/// Fetches an image from `from` in blocks of `len`, some requests at a time, through hash and disk.
fn fetch(sample: &Sample, cache: &std::path::Path, from: SocketAddr, len: u32) {
    let mut host = Host::on(cache, Limits::default());
    host.bench.open(sample, NAME, false).unwrap();
    let geometry = sample.metainfo.geometry();
    let ours = handshake(sample.metainfo.info_hash(), 3);
    host.peers.dial(IMAGE, from, ours);
    let mut wanted = geometry.all().flat_map(|piece| geometry.blocks(piece, len));
    let mut received = vec![0; geometry.pieces() as usize];
    let mut good = 0;
    let mut source = None;
    let ask = |host: &Host, conn, block: Option<Block>| {
        if let Some(Block { piece, offset, len }) = block {
            host.peers.send(conn, Message::Request(Range { piece: piece.get(), offset, len }));
        }
    };
    while good < geometry.pieces() {
        match host.next() {
            Event::Input(Input::PeerUp { conn, outgoing: true, .. }) => {
                host.accept(conn, ours);
                source = Some(conn);
                (0..8).for_each(|_| ask(&host, conn, wanted.next()));
            }
            Event::Block { conn, range, data } => {
                let block = geometry.block(range.piece, range.offset, range.len).unwrap();
                host.bench.disk.store(IMAGE, block, data);
                received[block.piece.index()] += block.len;
                if received[block.piece.index()] == geometry.piece_len(block.piece) {
                    host.bench.disk.verify(IMAGE, block.piece);
                }
                ask(&host, conn, wanted.next());
            }
            Event::OfImage { input: Input::Verified { piece, result, .. }, .. } => {
                assert_eq!(result, Ok(true));
                host.peers.have(source.as_slice(), piece);
                good += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(host.bench.finish(), Ok(()));
}

#[track_caller]
fn check_exchange(len: usize, piece_length: usize, block: u32) {
    let sample = sample(len, piece_length);
    let (seeder, _cache) = Host::seeding(&sample);
    let addr = seeder.addr();
    let target = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        let seeder = scope.spawn(|| serve(seeder, &sample));
        fetch(&sample, target.path(), addr, block);
        seeder.join().unwrap();
    });
    assert!(std::fs::read(target.path().join(NAME)).unwrap() == sample.bytes, "not the same bytes");
}

#[test]
fn an_image_crosses_the_wire_byte_for_byte_in_large_blocks() {
    check_exchange(64 << 20, 1 << 20, LARGE_BLOCK_BYTES);
    check_exchange((64 << 20) + 4321, 4 << 20, HUGE_BLOCK_BYTES);
}

#[test]
fn an_image_crosses_the_wire_byte_for_byte_in_small_blocks() {
    check_exchange((64 << 20) + 4321, 4 << 20, BLOCK_BYTES);
}

#[test]
fn an_image_of_odd_pieces_and_blocks_crosses_the_wire_byte_for_byte() {
    check_exchange(5_000_001, 100_003, 33_333);
}

#[test]
fn what_is_not_in_the_page_cache_is_sent_all_the_same() {
    let sample = sample(4 << 20, 1 << 20);
    let (mut host, _cache) = Host::seeding(&sample);
    let (mut stream, conn) = host.visitor(&sample);
    let source = host.bench.disk.source(IMAGE).unwrap();
    let file = source.file().unwrap();
    file.sync_all().unwrap();
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
    for piece in [3, 0] {
        let block = sample.metainfo.geometry().block(piece, 1000, 200_000).unwrap();
        host.peers.send_block(conn, block);
        let mut bytes = vec![0; 13 + 200_000];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..13], piece_header(&Range { piece, offset: 1000, len: 200_000 }));
        assert!(bytes[13..] == sample.piece_bytes(block.piece)[1000..201_000]);
        assert!(matches!(host.next(), Event::Input(Input::Sent { block: sent, .. }) if sent == block));
    }
}

#[test]
fn messages_and_blocks_arrive_however_they_are_cut() {
    let sample = sample(1 << 20, 1 << 20);
    let (mut host, _cache) = Host::seeding(&sample);
    let (mut stream, conn) = host.visitor(&sample);
    let range = Range { piece: 0, offset: 64, len: 10_000 };
    let mut bytes = encoded(&[Message::HaveNone, Message::Interested]);
    for _ in 0..3 {
        bytes.extend_from_slice(&piece_header(&range));
        bytes.extend_from_slice(&sample.bytes[64..10_064]);
        bytes.extend_from_slice(&encoded(&[Message::Have(7), Message::KeepAlive]));
    }
    for cut in [1, 7, 4096, 4097, 10_013, bytes.len()] {
        let bytes = bytes.clone();
        let mut stream = stream.try_clone().unwrap();
        let sender = thread::spawn(move || bytes.chunks(cut).for_each(|part| stream.write_all(part).unwrap()));
        let mut expect = |message| match host.next() {
            Event::Input(Input::Peer { conn: from, message: got }) => assert_eq!((from, got), (conn, message)),
            other => panic!("expected {message:?}, got {other:?}"),
        };
        expect(Message::HaveNone);
        expect(Message::Interested);
        for _ in 0..3 {
            match host.next() {
                Event::Block { range: got, data, .. } => {
                    assert_eq!(got, range);
                    assert!(data[..] == sample.bytes[64..10_064], "cut {cut}");
                }
                other => panic!("{other:?}"),
            }
            let mut expect = |message| match host.next() {
                Event::Input(Input::Peer { message: got, .. }) => assert_eq!(got, message),
                other => panic!("expected {message:?}, got {other:?}"),
            };
            expect(Message::Have(7));
            expect(Message::KeepAlive);
        }
        sender.join().unwrap();
    }
    stream.write_all(&[0, 0, 0, 5]).unwrap();
    drop(stream);
    host.expect_down(conn);
}

/// A peer sends four blocks of the longest kind to a node that has room for one.
fn with_one_buffer(buffer_wait: Duration, read: impl FnOnce(&Sample, &mut Host)) {
    let sample = sample(4 << 20, 4 << 20);
    let cache = cache_with(&sample);
    let mut host =
        Host::with(cache.path(), Limits { buffer_wait, ..Limits::default() }, Buffers::new(HUGE_BLOCK_BYTES.into()));
    host.bench.open(&sample, NAME, true).unwrap();
    let (mut stream, _) = host.visitor(&sample);
    let len = HUGE_BLOCK_BYTES;
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..4 {
                stream.write_all(&piece_header(&Range { piece: 0, offset: n * len, len })).unwrap();
                stream.write_all(&sample.bytes[(n * len) as usize..][..len as usize]).unwrap();
            }
        });
        read(&sample, &mut host);
    });
}

#[track_caller]
fn next_huge_block(sample: &Sample, host: &mut Host, number: u32) -> Buffer {
    let Event::Block { range, data, .. } = host.next() else { panic!("expected a block") };
    assert_eq!(range.offset, number * HUGE_BLOCK_BYTES);
    assert!(data[..] == sample.bytes[range.offset as usize..][..range.len as usize]);
    data
}

#[test]
fn when_buffers_are_used_up_the_reader_waits_and_goes_on() {
    with_one_buffer(PATIENCE, |sample, host| {
        for number in 0..4 {
            let block = next_huge_block(sample, host, number);
            assert!(host.bench.listener.events.is_empty(), "there is no second buffer");
            drop(block);
        }
    });
}

#[test]
fn when_all_buffers_are_kept_more_are_given_in_the_end() {
    with_one_buffer(Duration::from_millis(50), |sample, host| {
        let _kept: Vec<_> = (0..4).map(|number| next_huge_block(sample, host, number)).collect();
    });
}

#[test]
fn everything_that_is_sent_arrives_in_order() {
    let sample = sample(1 << 20, 1 << 20);
    let (mut host, _cache) = Host::seeding(&sample);
    let (mut stream, conn) = host.visitor(&sample);
    let block = sample.metainfo.geometry().block(0, 5, 100).unwrap();
    host.peers.send(conn, Message::Unchoke);
    host.peers.have(&[conn], block.piece);
    host.peers.send_block(conn, block);
    host.peers.send(conn, Message::Choke);
    let mut expected = encoded(&[Message::Unchoke, Message::Have(0)]);
    expected.extend_from_slice(&piece_header(&Range { piece: 0, offset: 5, len: 100 }));
    expected.extend_from_slice(&sample.bytes[5..105]);
    expected.extend_from_slice(&encoded(&[Message::Choke]));
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, expected);
    assert!(matches!(host.next(), Event::Input(Input::Sent { .. })));
    host.peers.close(conn, &CloseReason::NothingToDo);
    host.expect_down(conn);
    assert!(is_closed(stream));
}

#[test]
fn a_file_that_shrinks_ends_the_sending_and_says_so() {
    let sample = sample(1 << 20, 1 << 18);
    let (mut host, cache) = Host::seeding(&sample);
    let (stream, conn) = host.visitor(&sample);
    OpenOptions::new().write(true).open(cache.path().join(NAME)).unwrap().set_len(100_000).unwrap();
    for (piece, offset) in [(0, 0), (3, 0)] {
        host.peers.send_block(conn, sample.metainfo.geometry().block(piece, offset, 1 << 18).unwrap());
    }
    match host.bench.report() {
        Input::ReadFailed { image: IMAGE, error } => assert!(error.to_string().contains("changed"), "{error}"),
        other => panic!("{other:?}"),
    }
    host.expect_down(conn);
    assert!(is_closed(stream));
}

#[test]
fn dials_that_lead_nowhere_are_reported() {
    let sample = sample(1 << 16, 1 << 16);
    let (mut host, _cache) = Host::seeding(&sample);
    let ours = handshake(sample.metainfo.info_hash(), 1);
    let nobody = std::net::TcpListener::bind(LOCALHOST).unwrap().local_addr().unwrap();
    host.peers.dial(IMAGE, nobody, ours);
    let other = std::net::TcpListener::bind(LOCALHOST).unwrap();
    let other_image = other.local_addr().unwrap();
    assert!(matches!(host.next(), Event::Input(Input::PeerUnreachable { image: IMAGE, addr }) if addr == nobody));
    host.peers.dial(IMAGE, other_image, ours);
    let (mut stream, _) = other.accept().unwrap();
    stream.write_all(&handshake(InfoHash([9; 20]), 2).encode()).unwrap();
    assert!(matches!(host.next(), Event::Input(Input::PeerUnreachable { addr, .. }) if addr == other_image));
}

#[test]
fn garbage_closes_the_connection_before_and_after_the_handshake() {
    let sample = sample(1 << 16, 1 << 16);
    let (mut host, _cache) = Host::seeding(&sample);
    let mut stream = knock(host.addr());
    stream.write_all(&[b'G'; 68]).unwrap();
    assert!(is_closed(stream), "no PeerUp either: the next event is another's");
    for garbage in [&[0xff; 100][..], &[0, 16, 0, 10, 7, 0, 0, 0, 0, 0, 0, 0, 0], b"GET / HTTP/1.1\r\n\r\n"] {
        let (mut stream, conn) = host.visitor(&sample);
        stream.write_all(garbage).unwrap();
        host.expect_down(conn);
        assert!(is_closed(stream));
    }
}

#[test]
fn who_dawdles_over_the_handshake_is_closed() {
    let limits = Limits { handshake: Duration::from_millis(100), ..Limits::default() };
    let sample = sample(1 << 16, 1 << 16);
    let cache = cache_with(&sample);
    let mut host = Host::on(cache.path(), limits);
    let mut slow = knock(host.addr());
    slow.write_all(b"\x13Bit").unwrap();
    let silent = knock(host.addr());
    assert!(is_closed(slow) && is_closed(silent));
    // Nor does a driver that does not answer keep a connection for ever.
    let mut unanswered = knock(host.addr());
    unanswered.write_all(&handshake(sample.metainfo.info_hash(), 2).encode()).unwrap();
    let Event::Input(Input::PeerUp { conn, .. }) = host.next() else { panic!("expected PeerUp") };
    host.expect_down(conn);
    assert!(is_closed(unanswered));
}

#[test]
fn silence_is_broken_by_us_and_ends_the_connection_if_it_is_theirs() {
    let limits =
        Limits { silence: Duration::from_millis(300), keep_alive: Duration::from_millis(50), ..Limits::default() };
    let sample = sample(1 << 16, 1 << 16);
    let cache = cache_with(&sample);
    let mut host = Host::on(cache.path(), limits);
    host.bench.open(&sample, NAME, true).unwrap();
    let (mut stream, conn) = host.visitor(&sample);
    let mut kept_alive = [1; 4];
    stream.read_exact(&mut kept_alive).unwrap();
    assert_eq!(kept_alive, [0; 4]);
    host.expect_down(conn);
}

#[test]
fn who_does_not_read_is_closed() {
    let sample = sample(1 << 16, 1 << 16);
    let (mut host, _cache) = Host::seeding(&sample);
    let (stream, conn) = host.visitor(&sample);
    // Faster than any socket takes it in.
    for _ in 0..3_000_000 {
        host.peers.send(conn, Message::Request(Range { piece: 0, offset: 0, len: 1 }));
    }
    host.expect_down(conn);
    drop(stream);
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once_and_a_number_is_free_only_after_its_release() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let sample = sample(1 << 16, 1 << 16);
    let cache = cache_with(&sample);
    let mut host = Host::on(cache.path(), limits);
    host.bench.open(&sample, NAME, true).unwrap();
    let (first, one) = host.visitor(&sample);
    let (_second, two) = host.visitor(&sample);
    assert_ne!(one, two);
    let addr = host.addr();
    let greeted = || {
        let mut stream = knock(addr);
        stream.write_all(&handshake(sample.metainfo.info_hash(), 3).encode()).unwrap();
        stream
    };
    assert!(is_closed(greeted()));
    drop(first);
    match host.next() {
        Event::Input(Input::PeerDown { conn }) => assert_eq!(conn, one),
        other => panic!("{other:?}"),
    }
    assert!(is_closed(greeted()), "the seat is taken until the release");
    host.peers.dial(IMAGE, host.addr(), handshake(sample.metainfo.info_hash(), 1));
    assert!(matches!(host.next(), Event::Input(Input::PeerUnreachable { .. })));
    host.peers.release(one);
    host.peers.release(one);
    let (_third, three) = host.visitor(&sample);
    assert_eq!(three, one);
}

/// Ten silent ones at a door for four: the oldest six are closed before their time is up, a speaker gets through,
/// and one that has said half keeps its place in the queue like the others.
#[test]
fn the_longest_silent_newcomers_make_room_for_others() {
    let limits = Limits { greetings: 4, handshake: Duration::from_secs(600), ..Limits::default() };
    let sample = sample(1 << 16, 1 << 16);
    let cache = cache_with(&sample);
    let mut host = Host::on(cache.path(), limits);
    host.bench.open(&sample, NAME, true).unwrap();
    let mut half = knock(host.addr());
    half.write_all(&handshake(sample.metainfo.info_hash(), 4).encode()[..40]).unwrap();
    let mut silent: Vec<TcpStream> = (0..9).map(|_| knock(host.addr())).collect();
    assert!(is_closed(half));
    for early in silent.drain(..5) {
        assert!(is_closed(early));
    }
    let (_speaker, _) = host.visitor(&sample);
    assert!(is_closed(silent.remove(0)), "the speaker came in the place of the oldest");
    for stream in &mut silent {
        stream.set_nonblocking(true).unwrap();
        assert!(stream.read(&mut [0; 1]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock), "still waited for");
    }
}

#[test]
fn a_thousand_quick_connections_leave_nothing_behind() {
    let sample = sample(1 << 16, 1 << 16);
    let (mut host, _cache) = Host::seeding(&sample);
    let (addr, theirs) = (host.addr(), handshake(sample.metainfo.info_hash(), 2));
    let visitors = thread::spawn(move || {
        for n in 0..1000 {
            let mut stream = knock(addr);
            // A third says nothing, a third half of it.
            let _ = stream.write_all(&theirs.encode()[..[68, 0, 30][n % 3]]);
        }
    });
    let (mut up, mut down, mut highest) = (0, 0, 0);
    while up < 334 || down < up {
        match host.next() {
            Event::Input(Input::PeerUp { conn, .. }) => {
                host.accept(conn, theirs);
                up += 1;
                highest = highest.max(conn.0);
            }
            Event::Input(Input::PeerDown { conn }) => {
                host.peers.release(conn);
                down += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    visitors.join().unwrap();
    assert!(highest < PEERS_MAX as u32);
    assert_eq!(host.peers.shared.slots().slots.iter().flatten().count(), 0);
    let (_stream, _) = host.visitor(&sample);
}

#[test]
fn dropping_the_peers_closes_everything() {
    let sample = sample(1 << 16, 1 << 16);
    let (mut host, _cache) = Host::seeding(&sample);
    let (stream, _) = host.visitor(&sample);
    let greeting = knock(host.addr());
    let addr = host.addr();
    drop(host.peers);
    assert!(is_closed(stream) && is_closed(greeting));
    // The listener's task has ended too; its socket is closed by then or soon after.
    while let Ok(stream) = TcpStream::connect(addr) {
        drop(stream);
    }
}
