//! The one loop: the only caller of `proto::Node` and the only reader of the clock.

use std::sync::Arc;

use labmesh_proto::id::InfoHash;
use labmesh_proto::io::{Command, Event, Input, Reply};
use labmesh_proto::node::Status;
use labmesh_proto::wire::http_tracker::{Announce, Announced, Scraped};
use tokio::sync::{broadcast, mpsc, oneshot};

/// The node has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has ended")]
pub struct Ended;

/// Questions to the driver, from sockets and pages.
#[derive(Debug)]
pub enum Question {
    /// See [`Handle::command`].
    Command(Command, oneshot::Sender<Reply>),
    /// See [`Handle::announce`].
    Announce(Announce, oneshot::Sender<Result<Announced, &'static str>>),
    /// See [`Handle::scrape`].
    Scrape(Vec<InfoHash>, oneshot::Sender<Vec<Scraped>>),
    /// See [`Handle::status`].
    Status(oneshot::Sender<Arc<Status>>),
    /// See [`Handle::input`].
    Input(Input),
}

/// What the local socket, the pages and the cache hold of the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
    events: broadcast::Sender<Event>,
}

impl Handle {
    /// A handle on whoever answers `questions` and says `events`.
    pub fn new(questions: mpsc::Sender<Question>, events: broadcast::Sender<Event>) -> Self {
        Self { questions, events }
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn command(&self, command: Command) -> Result<Reply, Ended> {
        self.ask(|answer| Question::Command(command, answer)).await
    }

    /// Answers a client's announce; the inner error is the `failure reason`.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn announce(&self, announce: Announce) -> Result<Result<Announced, &'static str>, Ended> {
        self.ask(|answer| Question::Announce(announce, answer)).await
    }

    /// The counters of these images, or of all if none is named.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn scrape(&self, images: Vec<InfoHash>) -> Result<Vec<Scraped>, Ended> {
        self.ask(|answer| Question::Scrape(images, answer)).await
    }

    /// Everything to show, at most a fifth of a second old.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn status(&self) -> Result<Arc<Status>, Ended> {
        self.ask(Question::Status).await
    }

    /// Tells the node of something that happened, such as a change in the cache.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn input(&self, input: Input) -> Result<(), Ended> {
        self.questions.send(Question::Input(input)).await.map_err(|_| Ended)
    }

    /// Everything a person may want to know from now on. A slow reader loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Ended> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(question(answer)).await.map_err(|_| Ended)?;
        answered.await.map_err(|_| Ended)
    }
}
