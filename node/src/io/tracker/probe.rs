//! Whether a BitTorrent client answers at the port that it has announced: bttrack's "NAT check".
//!
//! Rule: only the address that announced is dialled, once for each time the mind asks, and nothing is believed of what it
//! says but that it speaks BitTorrent. A client that takes the connection and says nothing, or hangs up, counts as
//! reachable: it may be busy, or want its peers encrypted. One that says something else does not.
//!
//! Not here: what follows from it (`labmesh_proto::tracker`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::id::{InfoHash, PeerId};
use labmesh_proto::io::Input;
use labmesh_proto::wire::peer::Handshake;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::io::{Event, Events};

/// Looks at once; a room of 300 is through in a few round trips.
const LOOKS_MAX: usize = 64;
/// Looks that wait for their turn. Beyond that clients are handed out unseen, as by most trackers: a flood of liars
/// must not keep the honest from each other.
const WAITING_MAX: usize = 4096;
/// How long a connection may take: one lost packet, twice.
const CONNECTED_WITHIN: Duration = Duration::from_secs(4);
/// How long the client may take to say something.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// What BitTorrent begins with (BEP 3, "peer protocol").
const BEGINNING: &[u8] = b"\x13BitTorrent protocol";

/// Looks at ports, off the driver's thread.
#[derive(Clone, Debug)]
pub struct Probes {
    me: PeerId,
    runtime: tokio::runtime::Handle,
    events: Events,
    waiting: Arc<Semaphore>,
    looking: Arc<Semaphore>,
}

impl Probes {
    /// `me` is what this node calls itself to those that it looks at.
    pub fn new(me: PeerId, runtime: tokio::runtime::Handle, events: Events) -> Self {
        let (waiting, looking) = (Arc::new(Semaphore::new(WAITING_MAX)), Arc::new(Semaphore::new(LOOKS_MAX)));
        Self { me, runtime, events, waiting, looking }
    }

    /// Looks at a port; the answer is an [`Input::Probed`].
    pub fn look(&self, info_hash: InfoHash, addr: SocketAddr) {
        let place = self.waiting.clone().try_acquire_owned();
        let Self { me, events, looking, .. } = self.clone();
        self.runtime.spawn(async move {
            let reachable = match place {
                Err(_) => true,
                Ok(_place) => {
                    let _turn = looking.acquire().await;
                    is_client(addr, Handshake { info_hash, peer_id: me, fast: false, extended: false }).await
                }
            };
            // The node may be ending.
            let _ = events.send(Event::Input(Input::Probed { info_hash, addr, reachable })).await;
        });
    }
}

async fn is_client(addr: SocketAddr, handshake: Handshake) -> bool {
    let connected = tokio::time::timeout(CONNECTED_WITHIN, TcpStream::connect(addr)).await;
    let Ok(Ok(mut stream)) = connected else { return false };
    let mut said = [0; BEGINNING.len()];
    let mut len = 0;
    let listen = async {
        // It may hang up without a word.
        let _ = stream.write_all(&handshake.encode()).await;
        while len < said.len() {
            match stream.read(&mut said[len..]).await {
                Ok(more @ 1..) => len += more,
                Ok(_) | Err(_) => return,
            }
        }
    };
    // Silence is an answer too.
    let _ = tokio::time::timeout(ANSWERED_WITHIN, listen).await;
    BEGINNING.starts_with(&said[..len])
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// What is found at a port where this is said to whoever connects; `None` = nobody listens.
    async fn found(says: Option<&'static [u8]>) -> bool {
        let (events, mut seen) = mpsc::channel(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = says.map(|says| {
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; Handshake::BYTES];
                stream.read_exact(&mut asked).await.unwrap();
                assert_eq!(Handshake::decode(&asked).unwrap().info_hash, InfoHash([7; 20]));
                stream.write_all(says).await.unwrap();
            })
        });
        Probes::new(PeerId([1; 20]), tokio::runtime::Handle::current(), events).look(InfoHash([7; 20]), addr);
        let Some(Event::Input(Input::Probed { info_hash, addr: of, reachable })) = seen.recv().await else { panic!() };
        assert_eq!((info_hash, of), (InfoHash([7; 20]), addr));
        if let Some(task) = task {
            task.await.unwrap();
        }
        reachable
    }

    #[tokio::test]
    async fn a_client_is_told_from_a_closed_port_and_from_other_programs() {
        assert!(found(Some(b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0")).await);
        assert!(found(Some(b"\x13BitTor")).await, "it hung up in the middle");
        assert!(found(Some(b"")).await, "it wants its peers encrypted");
        assert!(!found(Some(b"SSH-2.0-OpenSSH_9.2\r\n")).await);
        assert!(!found(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await);
        assert!(!found(None).await);
    }
}
