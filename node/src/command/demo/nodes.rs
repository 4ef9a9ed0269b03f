//! The demo's nodes: processes of this program on 127.0.0.2 and up.
//!
//! Rule: every node has its own address, folders and socket, so that the usual ports need not be free on this machine's
//! own addresses; and it is tied to this process, so that it cannot outlive it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{LOOK_EVERY, NODES};
use crate::io::socket::Client;
use crate::view::{Exit, Failure, Status};

/// What is shown of a node's log when the demo fails.
const LAST_LINES: usize = 5;
/// How long the nodes may take to do what they are waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// All nodes and their folder.
pub(super) struct Room {
    folder: TempDir,
    mesh: String,
    verbose: bool,
    nodes: Vec<Node>,
}

struct Node {
    process: Child,
    /// `None` once it was killed.
    client: Option<Client>,
}

impl Room {
    /// An empty room.
    ///
    /// # Errors
    /// If there is no place for the copies.
    pub(super) fn new(size: u64, verbose: bool) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("labmesh-demo-").tempdir().context("cannot make a folder")?;
        let space = rustix::fs::statvfs(folder.path()).context("cannot look at the disk")?;
        // One copy for each node and the source, and room for everybody else.
        let needed = size * (NODES as u64 + 1);
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if let Some(missing) = needed.checked_sub(free).filter(|missing| *missing > 0) {
            let place = std::env::temp_dir();
            let words = format!(
                "not enough space: {missing} more bytes are needed in {} (TMPDIR names another place, --size a smaller \
                 image)",
                place.display()
            );
            return Err(Failure::new(Exit::NoSpace, words).into());
        }
        let unique = folder.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let mesh = unique.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>();
        Ok(Self { folder, mesh: mesh.trim_matches('-').to_owned(), verbose, nodes: Vec::new() })
    }

    /// Where everything lies.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a node is called.
    pub(super) fn name(&self, n: usize) -> String {
        format!("pc{:02}", n + 1)
    }

    /// Which node has that name.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        (0..NODES).find(|n| self.name(*n) == name)
    }

    /// A node's cache.
    pub(super) fn cache(&self, n: usize) -> PathBuf {
        self.place(n, "cache")
    }

    fn place(&self, n: usize, what: &str) -> PathBuf {
        self.folder().join(self.name(n)).join(what)
    }

    /// Starts all nodes; returns when their sockets answer.
    ///
    /// # Errors
    /// If one does not start.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut processes = Vec::new();
        for n in 0..NODES {
            std::fs::create_dir_all(self.place(n, "")).context("cannot make a folder")?;
            processes.push(self.spawn(&program, n)?);
        }
        for (n, mut process) in processes.into_iter().enumerate() {
            let socket = self.place(n, "socket");
            let until = Instant::now() + PATIENCE;
            let client = loop {
                if let Ok(client) = Client::connect(std::slice::from_ref(&socket)).await {
                    break client;
                }
                if let Some(status) = process.try_wait()? {
                    bail!("{} ended with {status}", self.name(n));
                }
                if Instant::now() > until {
                    bail!("{} does not answer", self.name(n));
                }
                sleep(LOOK_EVERY).await;
            };
            self.nodes.push(Node { process, client: Some(client) });
        }
        Ok(())
    }

    fn spawn(&self, program: &Path, n: usize) -> anyhow::Result<Child> {
        let log = std::fs::File::create(self.place(n, "log")).context("cannot make a log")?;
        let config = self.place(n, "labmesh.toml");
        // An empty file, so that the settings of this machine's own node play no part.
        std::fs::write(&config, "").context("cannot make a configuration")?;
        // The first node is the likeliest master.
        let weight = if n == 0 { 60 } else { 50 };
        let mut command = Command::new(program);
        command.arg("run").args(["--with-parent", &std::process::id().to_string()]);
        command.arg("--config").arg(config).arg("--socket").arg(self.place(n, "socket"));
        command.arg("--cache").arg(self.cache(n)).arg("--state").arg(self.place(n, "state"));
        command.args(["--mesh", &self.mesh, "--name", &self.name(n), "--weight", &weight.to_string()]);
        command.args(["--bind", &format!("127.0.0.{}", n + 2), "--seed-time", "forever"]);
        // Seven nodes share this machine's memory.
        command.args(["--piece-buffer", "64MiB"]);
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"LABMESH_") {
                command.env_remove(variable);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        // A terminal's Ctrl-C is for this process, which then ends the nodes.
        command.process_group(0);
        command.stderr(if self.verbose { Stdio::inherit() } else { Stdio::from(log) });
        command.spawn().context("cannot start a node")
    }

    /// The sockets of the nodes that live, with their numbers.
    pub(super) fn clients(&mut self) -> impl Iterator<Item = (usize, &mut Client)> {
        self.nodes.iter_mut().enumerate().filter_map(|(n, node)| Some((n, node.client.as_mut()?)))
    }

    /// What every node says; `None` of one that was killed.
    ///
    /// # Errors
    /// If one that should live does not answer.
    pub(super) async fn statuses(&mut self) -> anyhow::Result<Vec<Option<Status>>> {
        let asked = self.nodes.iter_mut().map(|node| async {
            match &mut node.client {
                Some(client) => client.status().await.map(Some),
                None => Ok(None),
            }
        });
        let answers = futures::future::join_all(asked).await;
        let named = answers.into_iter().enumerate().map(|(n, answer)| answer.with_context(|| self.name(n)));
        named.collect()
    }

    /// Waits until the nodes are as they should be.
    ///
    /// # Errors
    /// If they are not in time.
    pub(super) async fn until(&mut self, what: &str, good: impl Fn(&[Status]) -> bool) -> anyhow::Result<Vec<Status>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let all: Vec<Status> = self.statuses().await?.into_iter().flatten().collect();
            if good(&all) {
                return Ok(all);
            }
            if Instant::now() > until {
                let said =
                    |s: &Status| format!("{} is {} of {:?} and sees {}", s.node, s.role, s.master, s.nodes.len());
                let said: Vec<String> = all.iter().map(said).collect();
                bail!("waited in vain for {what}: {}", said.join("; "));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// SIGKILL: no goodbye.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[n];
        node.client = None;
        node.process.start_kill().context("cannot kill the master")?;
        Ok(())
    }

    /// The last lines of every node's log, for a demo that failed.
    pub(super) fn last_words(&self) -> Option<String> {
        let words = |n: usize| {
            let text = std::fs::read_to_string(self.place(n, "log")).ok()?;
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            (!last.is_empty()).then(|| format!("{}:\n  {}", self.name(n), last.join("\n  ")))
        };
        let all: Vec<String> = (0..NODES).filter_map(words).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }

    /// Ends every node and removes the folder.
    pub(super) async fn clear(self) {
        let mut nodes = self.nodes;
        // They may be dead already.
        let ends = nodes.iter_mut().map(|node| node.process.kill());
        let _ = futures::future::join_all(ends).await;
        if let Err(e) = self.folder.close() {
            tracing::warn!("the demo's folder stays: {e}");
        }
    }
}
