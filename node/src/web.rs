//! Every node's pages: who is here, what is offered, the tracker over HTTP, torrents, and numbers for programs.
//!
//! Rule: the web changes nothing, but for the names that people give to torrents of an open tracker ([`register`]).
//! Every other route answers `GET` and `HEAD` from a snapshot of the mind or by asking it, and gives up after
//! [`ANSWER_WITHIN`]; nothing here knows whether this node is the master. Torrents leave with their trackers rewritten
//! to those of this moment. Pages are made of what lies in this program and load nothing else.
//!
//! Not here: sockets, limits of connections and headers (`io::tracker`), how the pages look (`page`, `room`, `text`)
//! and what they count (`overview`), how a page is followed as it changes (`live`), the text of queries and answers
//! (`labmesh_proto::wire::http_tracker`).

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use labmesh_proto::id::InfoHash;
use labmesh_proto::io::{Command, Refusal, Reply};
use labmesh_proto::node::{ImageStatus, Status};
use labmesh_proto::wire::http_tracker;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::driver::{Ended, Handle};
use crate::io::tracker::{ANSWER_WITHIN, LATE, Policy};
use crate::metrics::{self, Counters};
use crate::view;

mod live;
mod overview;
mod page;
mod register;
mod room;
mod text;

use page::Page;

/// What bttrack says when it has no such torrent.
const NOT_HERE: &str = "your file may exist elsewhere in the universe\nbut alas, not here\n";
/// What bttrack says when it is told to keep its torrents to itself.
const NO_GET: &str = "get function is not available with this tracker.";
/// Pages come from here only, load nothing but their style, icon and script from here, and run nothing that stands in
/// them: a hostile name that got through as markup would still do nothing.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'",
);
/// Browsers that follow the page at once: one in every corner of a lab, and not a tenth of the connections.
pub(crate) const LISTENERS_MAX: usize = 64;
/// How long a browser may keep style, script and icon: a new version of this program should not be seen in old clothes.
const KEPT: HeaderValue = HeaderValue::from_static("max-age=60");

/// The address on which a client reached this node, for the trackers of the torrents it is handed.
#[derive(Clone, Copy, Debug)]
pub struct ReachedAt(pub SocketAddr);

/// What the mesh is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// By people.
    pub name: String,
    /// By browsers, without port: `labmesh.local`.
    pub host: String,
}

/// What the pages need to know of their node.
#[derive(Debug)]
pub struct Site {
    handle: Handle,
    mesh: Mesh,
    policy: Arc<Policy>,
    counters: Arc<Counters>,
    /// True when the node ends: nobody is told any more.
    stopping: watch::Receiver<bool>,
    listeners: Arc<Semaphore>,
    /// The latest page: a hundred browsers cost one rendering.
    latest: Mutex<Option<Latest>>,
}

/// A page, and what it shows.
#[derive(Debug)]
struct Latest {
    made: Instant,
    status: Arc<Status>,
    page: Arc<Page>,
}

impl Site {
    /// The pages of the node behind `handle`; whoever follows one lets go when `stopping` is true.
    pub fn new(
        handle: Handle,
        mesh: Mesh,
        policy: Arc<Policy>,
        counters: Arc<Counters>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let listeners = Arc::new(Semaphore::new(LISTENERS_MAX));
        Self { handle, mesh, policy, counters, stopping, listeners, latest: Mutex::new(None) }
    }

    /// The status page, at most `age` older than the status it could show.
    async fn page(&self, age: Duration) -> Result<Arc<Page>, Unanswered> {
        let latest = || self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = latest().as_ref().filter(|latest| latest.made.elapsed() < age) {
            return Ok(Arc::clone(&latest.page));
        }
        let status = self.status().await?;
        let mut latest = latest();
        let made = Instant::now();
        let page = match &*latest {
            Some(latest) if Arc::ptr_eq(&latest.status, &status) => Arc::clone(&latest.page),
            _ => Arc::new(Page::new(&status, &self.mesh.name)),
        };
        *latest = Some(Latest { made, status, page: Arc::clone(&page) });
        Ok(page)
    }

    async fn status(&self) -> Result<Arc<Status>, Unanswered> {
        answer(self.handle.status()).await
    }

    async fn torrent(&self, image: InfoHash, reached_at: ReachedAt) -> Result<Response, Unanswered> {
        if !self.policy.allow_get {
            return Ok((StatusCode::BAD_REQUEST, NO_GET).into_response());
        }
        let (status, reply) = tokio::try_join!(self.status(), answer(self.handle.command(Command::Torrent(image))))?;
        let metainfo = match reply {
            Reply::Torrent(metainfo) => metainfo,
            Reply::Refused(Refusal::NoTorrent(_)) => return Err(Unanswered::Late),
            Reply::Refused(_)
            | Reply::Started(_)
            | Reply::Changed(_)
            | Reply::Done
            | Reply::AlreadyHere(_)
            | Reply::Limits(_) => {
                return Ok(not_here());
            }
        };
        let name = status.images.iter().find(|i| i.info_hash == image).map_or(metainfo.name(), |i| &i.name);
        let tiers = tiers(&status.trackers, &self.mesh.host, reached_at.0);
        let headers = [
            (header::CONTENT_TYPE, "application/x-bittorrent".to_owned()),
            (header::CONTENT_DISPOSITION, attachment(name)),
            (header::CACHE_CONTROL, "no-cache".to_owned()),
        ];
        Ok((headers, metainfo.to_bytes(&tiers, metainfo.comment())).into_response())
    }
}

/// Why the mind said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unanswered {
    #[error("this node is ending, ask another")]
    Ended,
    #[error("{LATE}")]
    Late,
}

impl From<Ended> for Unanswered {
    fn from(Ended: Ended) -> Self {
        Self::Ended
    }
}

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        let retry = [(header::RETRY_AFTER, "2")];
        (StatusCode::SERVICE_UNAVAILABLE, retry, format!("{self}\n")).into_response()
    }
}

async fn answer<T>(question: impl Future<Output = Result<T, Ended>>) -> Result<T, Unanswered> {
    match tokio::time::timeout(ANSWER_WITHIN, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Unanswered::Late),
    }
}

type Shared = State<Arc<Site>>;
type Asker = axum::Extension<ReachedAt>;

/// All routes. Requests carry [`axum::extract::ConnectInfo`] and [`ReachedAt`] as extensions.
pub fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/index.html", get(index))
        .route("/events", get(events))
        .route("/style.css", get(asset("text/css; charset=utf-8", include_str!("web/style.css"))))
        .route("/live.js", get(asset("text/javascript; charset=utf-8", include_str!("web/live.js"))))
        .route("/icon.svg", get(asset("image/svg+xml", include_str!("web/icon.svg"))))
        .route("/announce", get(no_announce))
        .route("/scrape", get(scrape))
        .route("/scrape.php", get(scrape))
        .route("/tracker.php/scrape", get(scrape))
        .route("/register", get(register::form).post(register::by_form))
        .route("/api/register", post(register::by_json))
        .route("/api/torrents", get(register::list))
        .route("/file", get(file))
        .route("/images", get(Redirect::permanent("/images/")))
        .route("/images/", get(images))
        .route("/images/{*name}", get(image))
        .route("/metrics", get(prometheus))
        .route("/api/status", get(api_status))
        .route("/api/images", get(api_images))
        .fallback((StatusCode::NOT_FOUND, "no such page; try /\n"))
        .with_state(site)
}

async fn index(State(site): Shared) -> Result<Response, Unanswered> {
    Ok(html_page(site.page(Duration::ZERO).await?.html.clone(), PAGE_POLICY))
}

async fn events(State(site): Shared) -> Response {
    live::follow(site)
}

/// A file that is part of this program.
fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse + Clone {
    let kind = HeaderValue::from_static(kind);
    let nosniff = HeaderValue::from_static("nosniff");
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, KEPT), (header::X_CONTENT_TYPE_OPTIONS, nosniff)], text)
}

/// Announces are answered before they come here (`io::tracker`); this is something else, such as `HEAD` or a body.
async fn no_announce() -> impl IntoResponse {
    (StatusCode::BAD_REQUEST, "an announce is a GET without a body\n")
}

async fn scrape(State(site): Shared, query: RawQuery) -> Response {
    site.counters.http_scrapes.add_one();
    let allowed = site.policy.scrape_allowed;
    let scraped = match http_tracker::parse_info_hashes(query.0.as_deref().unwrap_or_default()) {
        Err(bad) => Err(http_tracker::garbage(&bad)),
        Ok(images) => {
            let refused = if images.is_empty() { allowed.full() } else { allowed.specific() };
            if let Err(reason) = refused {
                return (StatusCode::BAD_REQUEST, bencoded(http_tracker::encode_failure(reason))).into_response();
            }
            answer(site.handle.scrape(images)).await.map_err(|e| e.to_string())
        }
    };
    bencoded(match scraped {
        Ok(scraped) => http_tracker::encode_scrape(&scraped),
        Err(reason) => http_tracker::encode_failure(&reason),
    })
}

async fn file(State(site): Shared, axum::Extension(reached_at): Asker, query: RawQuery) -> Response {
    let query = query.0.unwrap_or_default();
    match http_tracker::parse_info_hashes(&query).as_deref() {
        _ if !site.policy.allow_get => (StatusCode::BAD_REQUEST, NO_GET).into_response(),
        Ok([image]) => site.torrent(*image, reached_at).await.into_response(),
        Ok(_) | Err(_) => {
            (StatusCode::BAD_REQUEST, "which? /file?info_hash= or /file?hash= and 40 hex digits\n").into_response()
        }
    }
}

async fn images(State(site): Shared) -> Result<Response, Unanswered> {
    Ok(html_page(page::listing(&*site.status().await?).into(), PAGE_POLICY))
}

async fn image(
    State(site): Shared,
    axum::Extension(reached_at): Asker,
    Path(path): Path<String>,
) -> Result<Response, Unanswered> {
    let Some(name) = path.strip_suffix(".torrent") else { return Ok(not_here()) };
    let status = site.status().await?;
    match named(&status.images, name)[..] {
        [] => Ok(not_here()),
        [image] => site.torrent(image.info_hash, reached_at).await,
        ref several => {
            let page = html_page(page::choices(name, several).into(), PAGE_POLICY);
            Ok((StatusCode::MULTIPLE_CHOICES, page).into_response())
        }
    }
}

async fn prometheus(State(site): Shared) -> Result<Response, Unanswered> {
    let text = metrics::text(&*site.status().await?, &site.mesh.name, &site.counters);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

async fn api_status(State(site): Shared) -> Result<Response, Unanswered> {
    // Where the cache lies on this machine is nobody's business: a path is told as the name of the image.
    Ok(json(&view::Status::new(&site.mesh.name, &*site.status().await?, |name| name.into())))
}

async fn api_images(State(site): Shared) -> Result<Response, Unanswered> {
    Ok(json(&site.status().await?.images.iter().map(view::Image::new).collect::<Vec<_>>()))
}

/// The images of that name; `NAME@HASHPREFIX` says which of several.
fn named<'a>(images: &'a [ImageStatus], name: &str) -> Vec<&'a ImageStatus> {
    let plain: Vec<_> = images.iter().filter(|i| i.name == name).collect();
    match name.rsplit_once('@') {
        Some((name, prefix)) if plain.is_empty() => {
            let prefix = prefix.to_ascii_lowercase();
            images.iter().filter(|i| i.name == name && i.info_hash.to_string().starts_with(&prefix)).collect()
        }
        _ => plain,
    }
}

/// One tier an address (BEP 12), so that clients try them in this order: the present master, the deputies, this node
/// as the client reached it; last the mesh's host name, for those who can resolve it.
fn tiers(trackers: &[SocketAddr], host: &str, reached_at: SocketAddr) -> Vec<Vec<String>> {
    let mut addresses = Vec::with_capacity(trackers.len() + 1);
    for &tracker in trackers.iter().filter(|a| !a.ip().is_unspecified()) {
        if !addresses.contains(&tracker) {
            addresses.push(tracker);
        }
    }
    if addresses.is_empty() || (is_portable(reached_at.ip()) && !addresses.contains(&reached_at)) {
        addresses.push(reached_at);
    }
    let port = addresses[0].port();
    let mut tiers: Vec<_> = addresses.iter().map(|a| vec![format!("http://{a}/announce")]).collect();
    tiers.push(vec![format!("http://{host}:{port}/announce")]);
    tiers
}

/// Whether an address means the same machine to whoever carries a torrent elsewhere.
fn is_portable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

/// `Content-Disposition` that suggests `NAME.torrent`: for old programs in plain characters, for others in full
/// (RFC 6266).
fn attachment(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._ ".contains(c);
    let plain: String = file.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let full = utf8_percent_encode(file, NON_ALPHANUMERIC);
    format!("attachment; filename=\"{plain}.torrent\"; filename*=UTF-8''{full}.torrent")
}

fn html_page(html: Bytes, policy: HeaderValue) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // Not `no-referrer`: with it a browser hides whose page a form was sent from, which `register` asks for.
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from(html)).into_response()
}

fn json(value: &impl serde::Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("names, numbers and lists always have a JSON form");
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

fn bencoded(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

fn not_here() -> Response {
    (StatusCode::NOT_FOUND, NOT_HERE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_tiers(trackers: &[&str], reached_at: &str, expected: &[&str]) {
        let trackers: Vec<_> = trackers.iter().map(|a| a.parse().unwrap()).collect();
        let got = tiers(&trackers, "labmesh.local", reached_at.parse().unwrap());
        let expected: Vec<_> = expected.iter().map(|a| vec![format!("http://{a}/announce")]).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn each_tracker_has_a_tier_and_the_host_name_is_last() {
        let (a, b) = ("10.0.0.1:6969", "10.0.0.2:7000");
        check_tiers(&[a, b, a], b, &[a, b, "labmesh.local:6969"]);
        check_tiers(&[b], a, &[b, a, "labmesh.local:7000"]);
        check_tiers(&["0.0.0.0:6969"], a, &[a, "labmesh.local:6969"]);
        check_tiers(&[a], "[2001:db8::1]:6969", &[a, "[2001:db8::1]:6969", "labmesh.local:6969"]);
    }

    #[test]
    fn addresses_that_mean_nothing_elsewhere_are_used_only_if_there_is_no_other() {
        let (a, here) = ("10.0.0.1:6969", "127.0.0.1:6969");
        check_tiers(&[a], here, &[a, "labmesh.local:6969"]);
        check_tiers(&[a], "[fe80::1]:6969", &[a, "labmesh.local:6969"]);
        check_tiers(&[], here, &[here, "labmesh.local:6969"]);
    }

    #[test]
    fn a_file_name_cannot_leave_its_header_nor_its_folder() {
        let header = attachment("ou1/a\"\r\nX: é.img");
        assert_eq!(
            header,
            "attachment; filename=\"a___X_ _.img.torrent\"; filename*=UTF-8''a%22%0D%0AX%3A%20%C3%A9%2Eimg.torrent"
        );
    }
}
