//! What each command does: one file per command, one struct with `run`.
//!
//! Rule: a command talks to the local node over its socket and knows nothing that the socket does not tell. Here is
//! what they share: finding the node, starting one for the length of a command, ending in order.
//!
//! Not here: which words exist ([`crate::cli`]), how things look ([`crate::view`], [`crate::progress`]).

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::cli::{Context, NodeArgs};
use crate::config::{Config, SocketConfig};
use crate::driver;
use crate::io::cache::Step;
use crate::io::socket::{Answer, Client, Request, places};
use crate::progress::{Job, Out};
use crate::view::{self, Exit, Failure, Status};

pub mod add;
pub mod config;
pub mod demo;
pub mod get;
pub mod inspect;
pub mod limit;
pub mod ls;
pub mod master;
pub mod mode;
pub mod rescan;
pub mod rm;
pub mod run;
pub mod start;
pub mod status;
pub mod stop;
pub mod torrent;

mod fetch;
mod output;

/// How long a node for one command looks for others: mDNS and an election take at most 2.5 s.
const LOOK_FOR: Duration = Duration::from_secs(6);
/// Between two looks at the node's status.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Context {
    /// The node that runs here.
    async fn node(&self) -> Result<Client, Failure> {
        Client::connect(&places(self.socket.as_deref())).await
    }

    /// The node that runs here, or one for the length of this command.
    async fn node_or_own(&self, args: &NodeArgs) -> anyhow::Result<(Client, Option<Own>)> {
        let none = match self.node().await {
            Ok(client) => return Ok((client, None)),
            Err(failure) => failure,
        };
        if none.message.contains("you may not use") {
            return Err(none.into());
        }
        let config = resolve(self, args)?;
        let place = self.socket.as_ref().map_or_else(|| "here".to_owned(), |socket| format!("at {}", socket.display()));
        self.out.note(&format!("no node runs {place}: one is run for this command, in the mesh {:?}", config.mesh));
        let own = Own::start(config).await?;
        let client = Client::connect(std::slice::from_ref(&own.socket)).await?;
        Ok((client, Some(own)))
    }

    /// Says one thing to the node that runs here.
    async fn order(&self, request: &Request) -> anyhow::Result<()> {
        match self.node().await?.say(request).await? {
            Answer::Done => Ok(self.out.json(&serde_json::json!({ "event": "done" }))?),
            other => Err(crate::io::socket::unexpected(&other).into()),
        }
    }
}

/// The settings of a node that this command runs; what is wrong with them is a matter of usage.
fn resolve(context: &Context, args: &NodeArgs) -> Result<Config, Failure> {
    let mut settings = args.settings.clone();
    settings.socket.clone_from(&context.socket);
    Config::resolve(args.config.as_deref(), settings).map_err(|e| Failure::new(Exit::Usage, format!("{e:#}")))
}

/// Logs to standard error: what `RUST_LOG` says, or ours from this level on and other people's warnings.
fn log(level: &str) {
    let usual = || EnvFilter::new(format!("warn,labmesh={level},labmesh_proto={level}"));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| usual());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // A second one is refused: the first is as good.
    let _ = lines.with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).try_init();
}

/// Resolves at the first SIGINT, SIGTERM or SIGHUP.
async fn interrupted() {
    let Ok([mut int, mut term, mut hup]) = signals() else { return std::future::pending().await };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
}

fn signals() -> std::io::Result<[tokio::signal::unix::Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}

/// A node in this process, for the length of one command.
#[derive(Debug)]
struct Own {
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Own {
    /// Starts it; returns when it answers commands.
    async fn start(mut config: Config) -> anyhow::Result<Self> {
        log("warn");
        config.transient = true;
        let socket = reachable(&mut config.socket);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let shutdown = async {
            // A dropped sender says the same.
            let _ = stopped.await;
        };
        // Nobody waits for it any more if it comes too late.
        let ready = move |_| ready.send(()).unwrap_or_default();
        let mut task = tokio::spawn(driver::run(config, ready, shutdown));
        tokio::select! {
            Ok(()) = is_ready => Ok(Self { socket, stop, task }),
            ended = &mut task => {
                ended.context("the node for this command ended in an unexpected way")??;
                anyhow::bail!("the node for this command ended before it was ready")
            }
        }
    }

    /// Says goodbye to the mesh and ends.
    async fn end(self) -> anyhow::Result<()> {
        // It may have ended by itself.
        let _ = self.stop.send(());
        self.task.await.context("the node for this command ended in an unexpected way")?
    }
}

/// A place for the socket that can be written to: a user without `/run` still gets a node for one command.
fn reachable(socket: &mut SocketConfig) -> PathBuf {
    let folder = socket.path.parent().unwrap_or(std::path::Path::new("/"));
    if std::fs::create_dir_all(folder).is_err() || rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() {
        socket.path = std::env::temp_dir().join(format!("labmesh-{}.sock", std::process::id()));
    }
    socket.path.clone()
}

/// The steps of a long answer, shown as they come.
struct Steps {
    out: Out,
    title: String,
    job: Option<(String, Job)>,
}

impl Steps {
    fn of(out: Out, title: String) -> Self {
        Self { out, title, job: None }
    }

    fn show(&mut self, step: &Step) {
        if self.out.json {
            // The answer will say that standard output is closed.
            let _ = self.out.json(&serde_json::json!({
                "event": "progress", "what": step.what, "done": step.done, "total": step.total,
            }));
        } else if !step.what.is_empty() {
            if self.job.as_ref().is_none_or(|(what, _)| *what != step.what) {
                self.job = Some((step.what.clone(), self.out.job(&self.title, step.total)));
            }
            if let Some((_, job)) = &mut self.job {
                job.set(step.done, &step.what, &view::size(step.done));
            }
        }
    }

    fn clear(self) {
        if let Some((_, job)) = self.job {
            job.clear();
        }
    }
}

/// Waits until a node that has just started knows its place in the mesh.
async fn settled(client: &mut Client, enough: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
    let until = tokio::time::Instant::now() + LOOK_FOR;
    loop {
        let status = client.status().await?;
        if enough(&status) || tokio::time::Instant::now() >= until {
            return Ok(status);
        }
        client.wait(LOOK_EVERY).await?;
    }
}
