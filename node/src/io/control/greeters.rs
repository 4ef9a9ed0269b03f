//! Incoming control connections whose handshake is under way.
//!
//! Rule: whoever says nothing makes room for whoever does, as at the peer port. libp2p's own limit refuses the newest,
//! so that a few hundred silent connections would keep every newcomer out until their time is up. Not here: how long
//! a handshake may take, and what it proves (the transport that is wrapped).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, Transport};
use tokio::sync::oneshot;

/// Accepts whoever comes; of those that have not finished their handshake, the one that began first makes room.
pub(super) struct Greeters<T> {
    transport: Boxed<T>,
    /// The oldest first; some have ended. Dropping one ends its handshake.
    waiting: VecDeque<oneshot::Sender<Infallible>>,
    limit: usize,
}

impl<T> Greeters<T> {
    /// At most `limit` of them. Who had to make room is gone when its task has had its next turn.
    pub(super) fn new(transport: Boxed<T>, limit: usize) -> Self {
        Self { transport, waiting: VecDeque::with_capacity(limit), limit }
    }

    /// A place for a newcomer. Resolves when it has to make room itself.
    fn admit(&mut self) -> oneshot::Receiver<Infallible> {
        if self.waiting.len() >= self.limit {
            self.waiting.retain(|waiting| !waiting.is_closed());
        }
        if self.waiting.len() >= self.limit {
            self.waiting.pop_front();
        }
        let (waiting, told) = oneshot::channel();
        self.waiting.push_back(waiting);
        told
    }
}

impl<T: Send + 'static> Transport for Greeters<T> {
    type Output = T;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<T>>;
    type Dial = <Boxed<T> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.transport.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        self.transport.dial(addr, opts)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.transport).poll(cx));
        Poll::Ready(event.map_upgrade(|handshake| {
            let told = self.admit();
            async move {
                // A handshake that is done counts, however long it took.
                match select(handshake, told).await {
                    Either::Left((done, _)) => done,
                    Either::Right(_) => Err(io::Error::other("it was silent while others came")),
                }
            }
            .boxed()
        }))
    }
}
