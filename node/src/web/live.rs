//! The status page as it changes, by server-sent events (WHATWG HTML, "Server-sent events").
//!
//! Rule: a listener is told once a second which parts of the page are other than those it was sent last, and nothing
//! else; all listeners share one rendering. Nothing is queued for anybody: the next state is made when the listener has
//! taken the last, and who is slow at that is dropped; of [`super::LISTENERS_MAX`] and one, the last is turned away. A
//! browser comes back by itself.
//!
//! Not here: what the page shows (`page`), what a browser does with it (`live.js`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::page::{PARTS, Page};
use super::{Site, Unanswered};

/// What a person can follow, and what nodes tell each other anyway.
const EVERY: Duration = Duration::from_secs(1);
/// Something is said at least so often, so that both ends notice when the other is gone.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Who has not taken a state for so long is dropped.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// A listener comes anew before its connection is too old for the port (`io::tracker`).
const AGE_MAX: Duration = Duration::from_secs(240);
/// First of all, how long a browser waits before it comes back, in milliseconds.
const RETRY: &[u8] = b"retry: 2000\n\n";

/// Starts to tell one more listener, or says that there are too many.
pub(super) fn follow(site: Arc<Site>) -> Response {
    let Ok(seat) = Arc::clone(&site.listeners).try_acquire_owned() else {
        site.counters.page_listeners_refused.add_one();
        let retry = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry, "too many listeners; / shows the same\n").into_response();
    };
    site.counters.page_listeners.add_one();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let now = Instant::now();
    let stopping = site.stopping.clone();
    let listener = Listener { site, stopping, ticks, began: now, told: now, shown: None, _seat: seat };
    let states = stream::unfold(listener, |mut listener| async {
        let state = listener.next().await?;
        Some((Ok::<_, Infallible>(state), listener))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(states)).into_response()
}

struct Listener {
    site: Arc<Site>,
    stopping: watch::Receiver<bool>,
    ticks: Interval,
    began: Instant,
    /// When it was last told something.
    told: Instant,
    shown: Option<Arc<Page>>,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    /// What it is told next; `None` = goodbye.
    async fn next(&mut self) -> Option<Bytes> {
        // Asked for when it has taken the last.
        if self.told.elapsed() > TAKEN_WITHIN || self.began.elapsed() > AGE_MAX {
            return None;
        }
        loop {
            tokio::select! {
                _ = self.ticks.tick() => {}
                _ = self.stopping.wait_for(|stop| *stop) => return None,
            }
            match self.site.page(EVERY / 2).await {
                Ok(page) => {
                    let first = self.shown.is_none();
                    let news = news(self.shown.as_deref(), &page);
                    self.shown = Some(page);
                    if first || !news.is_empty() || self.told.elapsed() > QUIET_MAX {
                        self.told = Instant::now();
                        return Some(match (first, news.is_empty()) {
                            (true, _) => [RETRY, &news].concat().into(),
                            (false, true) => Bytes::from_static(b":\n\n"),
                            (false, false) => news.into(),
                        });
                    }
                }
                Err(Unanswered::Late) => {}
                Err(Unanswered::Ended) => return None,
            }
        }
    }
}

/// One event for each part that is not as it was shown.
fn news(shown: Option<&Page>, page: &Page) -> Vec<u8> {
    let mut events = Vec::new();
    for n in 0..PARTS {
        if shown.is_none_or(|shown| shown.parts[n] != page.parts[n]) {
            events.extend_from_slice(b"event: part\n");
            for line in page.parts[n].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                events.extend_from_slice(b"data: ");
                events.extend_from_slice(line);
                events.push(b'\n');
            }
            events.push(b'\n');
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(parts: [&'static str; PARTS]) -> Page {
        Page { html: Bytes::new(), parts: parts.map(|part| Bytes::from_static(part.as_bytes())) }
    }

    #[test]
    fn only_what_changed_is_told_line_by_line() {
        let before = page(["<title>a", "b\n", "c\nd\n", "", "e", "f", "g"]);
        let after = page(["<title>a", "b\n", "c\n\nx\n", "", "e", "f", "y"]);
        let told = |shown, page| String::from_utf8(news(shown, page)).unwrap();
        assert_eq!(told(None, &before).matches("event: part\n").count(), PARTS);
        assert_eq!(told(Some(&before), &before), "");
        assert_eq!(told(Some(&before), &after), "event: part\ndata: c\ndata: x\n\nevent: part\ndata: y\n\n");
    }
}
