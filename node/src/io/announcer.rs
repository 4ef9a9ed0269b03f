//! Carries questions to trackers of others and brings their answers back.
//!
//! Rule: every exchange has an end, whatever the other side does: in time, in bytes, in datagrams. The mind asks a
//! bounded number at once (`TRACKER_QUESTIONS_MAX`, `TRACKER_GOODBYES_MAX` of `labmesh_proto`). Not here: whom to ask
//! when (`labmesh_proto::announcer`), what the bytes mean.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use labmesh_proto::announcer::{Answer, Request};
use labmesh_proto::config::TRACKER_ANSWER_BYTES_MAX;
use labmesh_proto::id::RequestId;
use labmesh_proto::io::Input;
use labmesh_proto::wire::tracker_client::TrackerUrl;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::http::{self, Get};
use super::{Event, Events};

/// For the whole of an answer over HTTP; a tracker that is busy may take some seconds.
const GET_WITHIN: Duration = Duration::from_secs(20);
/// How long the socket of one UDP exchange lives: twice what the mind repeats a question for.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(300);
/// Datagrams of one exchange that are passed on: the two answers, and some that came twice.
const DATAGRAMS_MAX: usize = 16;
/// Datagrams of ours that wait for a name to be looked up.
const UNSENT_MAX: usize = 4;
/// The longest datagram: two hundred peers have 1220 bytes.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// The exchanges under way.
#[derive(Debug)]
pub struct Trackers {
    runtime: tokio::runtime::Handle,
    /// Where to ask from: trackers hand out the address that they see.
    from: IpAddr,
    events: Events,
    open: BTreeMap<RequestId, Exchange>,
}

/// One of them; its task ends with it.
#[derive(Debug)]
struct Exchange {
    task: AbortHandle,
    /// For more datagrams from the same port.
    datagrams: Option<mpsc::Sender<Vec<u8>>>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Trackers {
    /// `from` is the address that peers connect to; unspecified = whichever the route has.
    pub fn new(runtime: tokio::runtime::Handle, from: IpAddr, events: Events) -> Self {
        Self { runtime, from, events, open: BTreeMap::new() }
    }

    /// `Output::AskTracker`; answered by `Input::TrackerSaid`.
    pub fn ask(&mut self, id: RequestId, tracker: TrackerUrl, request: Request) {
        let (events, from) = (self.events.clone(), self.from);
        let exchange = match request {
            Request::Get(target) => {
                let task = self.runtime.spawn(async move {
                    let TrackerUrl { host, port, .. } = &tracker;
                    let (host, body_max) = (host.as_str(), TRACKER_ANSWER_BYTES_MAX);
                    let what =
                        Get { host, port: *port, target: &target, from: Some(from), body_max, within: GET_WITHIN };
                    let result = http::get(&what).await;
                    let result = result.map(|body| Answer { from: body.from, bytes: body.bytes });
                    report(&events, id, result.map_err(|e| e.to_string())).await;
                });
                Exchange { task: task.abort_handle(), datagrams: None }
            }
            Request::Datagram(bytes) => {
                if let Some(datagrams) = self.open.get(&id).and_then(|exchange| exchange.datagrams.as_ref()) {
                    // One that does not fit is lost like any datagram.
                    let _ = datagrams.try_send(bytes);
                    return;
                }
                let (datagrams, unsent) = mpsc::channel(UNSENT_MAX);
                let _ = datagrams.try_send(bytes);
                let task = self.runtime.spawn(async move {
                    let exchange = exchange(&tracker, from, unsent, |answer| report(&events, id, Ok(answer)));
                    if let Ok(Err(error)) = timeout(EXCHANGE_WITHIN, exchange).await {
                        report(&events, id, Err(error)).await;
                    }
                });
                Exchange { task: task.abort_handle(), datagrams: Some(datagrams) }
            }
        };
        self.open.insert(id, exchange);
    }

    /// `Output::TrackerDone`.
    pub fn done(&mut self, id: RequestId) {
        self.open.remove(&id);
    }

    /// Whether nobody is being asked.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }
}

async fn report(events: &Events, id: RequestId, result: Result<Answer, String>) {
    // A driver that has ended is nobody to tell.
    let _ = events.send(Event::Input(Input::TrackerSaid { id, result })).await;
}

/// Sends what comes from the mind and reports what comes from the tracker, until either has had enough.
async fn exchange<F: Future<Output = ()>>(
    tracker: &TrackerUrl,
    from: IpAddr,
    mut unsent: mpsc::Receiver<Vec<u8>>,
    mut say: impl FnMut(Answer) -> F,
) -> Result<(), String> {
    let addr = http::resolve(&tracker.host, tracker.port).await.map_err(|e| e.to_string())?;
    let any: IpAddr = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = if from.is_ipv4() == addr.is_ipv4() { from } else { any };
    let cannot = |e: std::io::Error| format!("cannot ask {addr}: {e}");
    let socket = UdpSocket::bind(SocketAddr::new(own, 0)).await.map_err(cannot)?;
    // From then on the kernel passes on nothing of others, and tells if nobody listens there.
    socket.connect(addr).await.map_err(cannot)?;
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    let mut received = 0;
    while received < DATAGRAMS_MAX {
        tokio::select! {
            bytes = unsent.recv() => match bytes {
                Some(bytes) => drop(socket.send(&bytes).await.map_err(cannot)?),
                None => return Ok(()),
            },
            len = socket.recv(&mut buffer) => {
                let len = len.map_err(cannot)?;
                received += 1;
                say(Answer { from: addr.ip().to_canonical(), bytes: buffer[..len].to_vec() }).await;
            }
        }
    }
    Err("it sends more datagrams than it was asked for".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::http::tests::serve;

    /// Far longer than anything takes, so that only a hang is a failure.
    const PATIENCE: Duration = Duration::from_secs(30);
    const ID: RequestId = RequestId(7);

    fn url(text: String) -> TrackerUrl {
        TrackerUrl::parse(&text).unwrap()
    }

    fn start(from: [u8; 4]) -> (Trackers, mpsc::Receiver<Event>) {
        let (events, reported) = mpsc::channel(16);
        (Trackers::new(tokio::runtime::Handle::current(), from.into(), events), reported)
    }

    async fn said(reported: &mut mpsc::Receiver<Event>) -> Result<Vec<u8>, String> {
        match timeout(PATIENCE, reported.recv()).await.expect("something is said").unwrap() {
            Event::Input(Input::TrackerSaid { id: ID, result }) => result.map(|answer| answer.bytes),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_over_http_comes_back() {
        let port = serve(b"HTTP/1.0 200 OK\r\n\r\nd8:intervali5ee".to_vec()).await;
        let (mut trackers, mut reported) = start([127, 0, 0, 1]);
        trackers.ask(ID, url(format!("http://127.0.0.1:{port}/announce")), Request::Get("/announce?x".to_owned()));
        assert_eq!(said(&mut reported).await, Ok(b"d8:intervali5ee".to_vec()));
        trackers.done(ID);
        assert!(trackers.is_idle());
    }

    #[tokio::test]
    async fn one_exchange_over_udp_has_one_port_and_the_address_of_the_node() {
        let tracker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = tracker.local_addr().unwrap().port();
        let (mut trackers, mut reported) = start([127, 0, 0, 7]);
        let mut clients = Vec::new();
        for question in [b"one", b"two"] {
            trackers.ask(ID, url(format!("udp://127.0.0.1:{port}")), Request::Datagram(question.to_vec()));
            let mut buffer = [0; 16];
            let (len, client) = timeout(PATIENCE, tracker.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..len], question);
            clients.push(client);
            tracker.send_to(b"answer", client).await.unwrap();
            assert_eq!(said(&mut reported).await, Ok(b"answer".to_vec()));
        }
        assert_eq!(clients[0], clients[1]);
        assert_eq!(clients[0].ip(), IpAddr::from([127, 0, 0, 7]));
    }

    #[tokio::test]
    async fn a_tracker_that_pours_datagrams_is_cut_off() {
        let tracker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = tracker.local_addr().unwrap().port();
        let (mut trackers, mut reported) = start([127, 0, 0, 1]);
        trackers.ask(ID, url(format!("udp://127.0.0.1:{port}")), Request::Datagram(b"?".to_vec()));
        let (_, client) = timeout(PATIENCE, tracker.recv_from(&mut [0; 16])).await.unwrap().unwrap();
        for _ in 0..DATAGRAMS_MAX {
            tracker.send_to(b"!", client).await.unwrap();
            assert_eq!(said(&mut reported).await, Ok(b"!".to_vec()));
        }
        assert!(said(&mut reported).await.unwrap_err().contains("more datagrams"));
    }

    #[tokio::test]
    async fn nobody_there_is_said_at_once() {
        let (mut trackers, mut reported) = start([0, 0, 0, 0]);
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        trackers.ask(ID, url(format!("udp://127.0.0.1:{free}")), Request::Datagram(b"?".to_vec()));
        assert!(said(&mut reported).await.is_err());
    }
}
