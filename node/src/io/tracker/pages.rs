//! Connections of browsers, and of whoever else asks for more than an announce: HTTP by `hyper`, answered by `web`.
//!
//! Rule: a head must come in time and in bounds; who does not read is cut off by the kernel; no connection lives for
//! ever. Not here: which connections come here ([`super::desk`]), what the pages say (`web`).

use std::io::Cursor;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::debug;

use super::limits::Seat;
use crate::metrics::Counters;
use crate::web::ReachedAt;

/// A request's head: a scrape of a hundred images has 7 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a head may take, and how long a connection may idle between two requests. The tests are less patient.
const HEAD_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// After this a connection gets its present answer and is closed.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
/// How long that last answer may take.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long answers may take when the node ends.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

/// A connection that the desk hands over.
pub(super) struct Visitor {
    pub(super) stream: TcpStream,
    pub(super) addr: SocketAddr,
    pub(super) seat: Seat,
    /// What the desk has read of it.
    pub(super) read: Vec<u8>,
}

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) router: Router,
    pub(super) counters: Arc<Counters>,
    pub(super) stopping: watch::Receiver<bool>,
}

impl Pages {
    /// Serves visitors until the node ends.
    pub(super) async fn serve(self, mut visitors: mpsc::Receiver<Visitor>) {
        let mut stopping = self.stopping.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(visitor) = visitors.recv() => drop(connections.spawn(connection(visitor, self.clone()))),
                Some(_) = connections.join_next() => {}
                _ = stopping.wait_for(|stop| *stop) => break,
            }
        }
        let ends = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE_WITHIN, ends).await.is_err() {
            connections.abort_all();
        }
    }
}

async fn connection(visitor: Visitor, mut pages: Pages) {
    let Visitor { stream, addr, seat: _seat, read } = visitor;
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let Ok(reached_at) = stream.local_addr() else { return };
    let reached_at = ReachedAt(SocketAddr::new(reached_at.ip().to_canonical(), reached_at.port()));
    let counters = pages.counters;
    let router = TowerToHyperService::new(pages.router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        counters.http_requests.add_one();
        request.extensions_mut().insert(ConnectInfo(addr));
        request.extensions_mut().insert(reached_at);
        router.call(request)
    });
    let mut http = http1::Builder::new();
    // Some clients close their half once they have asked.
    http.half_close(true);
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES_MAX);
    let (rest, answers) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(read).chain(rest), answers);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = old_or(&mut pages.stopping) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER_WITHIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%addr, %error, "an HTTP connection ended");
    }
}

/// Until the connection has lived long enough, or the node ends.
async fn old_or(stopping: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(CONNECTION_AGE_MAX) => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}
