//! `labmesh demo`: the whole thing on this machine.
//!
//! Rule: the nodes are real ones, copies of this program with addresses, folders and sockets of their own on the
//! loopback interface; what is shown is what their `status` says. Whatever happens, no process and no file stays: the
//! nodes die with this process, and the folder goes when it ends.
//!
//! The story: seven nodes elect a master, five of them fetch an image from the other two, the master is killed half
//! way, another takes over, and every copy is compared with the source. Not here: how any of that works.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::MultiProgress;
use tokio::time::{Instant, sleep, timeout};

use super::interrupted;
use crate::cli::Context;
use crate::config::values::read;
use crate::io::cache::{self, Placement};
use crate::io::socket::{Answer, Client, Request, unexpected};
use crate::progress::{Job, Out, bars, width};
use crate::view::{self, Exit, Failure, Status, Table, Transfer};

mod image;
mod nodes;

use nodes::Room;

/// The master and another hold the image, five fetch it.
const NODES: usize = 7;
/// The master is killed when so much is fetched, in percent: what is shown is a fifth of a second old.
const KILL_AT: f64 = 35.0;
/// The image's name.
const IMAGE: &str = "demo.img";
/// Between two looks at every node: fine enough to find the middle, and to time a failover.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Everything together takes about ten seconds; this long means that something is wrong.
const PATIENCE: Duration = Duration::from_secs(90);

/// Shows the whole thing on this machine, in about ten seconds: seven nodes elect a master, five fetch an image, the
/// master is killed half way, and every copy is checked. Nothing stays behind.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// The size of the image
    #[arg(long, default_value = "256MiB", value_name = "SIZE", value_parser = read::<bytesize::ByteSize>)]
    size: bytesize::ByteSize,
    /// Show what the nodes log
    #[arg(long)]
    verbose: bool,
}

/// How one node did.
struct Outcome {
    /// Of those that fetch.
    job: Option<Job>,
    took: Option<Duration>,
    transfer: Option<Transfer>,
}

/// How the whole went.
struct Story {
    outcomes: Vec<Outcome>,
    holders: [usize; 2],
    killed: usize,
    /// How much the room had fetched then, in percent.
    at: f64,
    successor: String,
    failover: Duration,
}

impl Demo {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let out = context.out;
        let size = self.size.as_u64();
        if size < 1 << 20 {
            return Err(Failure::new(Exit::Usage, "the image must have at least 1 MiB").into());
        }
        let mut room = Room::new(size, self.verbose)?;
        let told = timeout(PATIENCE, tell(out, &mut room, size));
        let result = tokio::select! {
            result = told => result.unwrap_or_else(|_| Err(anyhow::anyhow!("not done in {} s", PATIENCE.as_secs()))),
            () = interrupted() => Err(anyhow::anyhow!("ended; nothing stays behind")),
        };
        let result = result.map_err(|e| match room.last_words() {
            Some(words) => e.context(format!("what the nodes said last:\n{words}\nthe demo failed")),
            None => e,
        });
        room.clear().await;
        result
    }
}

async fn tell(out: Out, room: &mut Room, size: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    out.note(&format!("{NODES} nodes are started on 127.0.0.2 and up, and an image of {} is made", view::size(size)));
    let folder = room.folder().to_owned();
    let (source, statuses) = tokio::join!(image::make(&folder, size), async {
        room.start().await?;
        room.until("a master everybody follows", one_master).await
    });
    let (source, statuses) = (source?, statuses?);
    let master =
        statuses[0].master.as_deref().and_then(|name| room.number(name)).context("the master is none of ours")?;
    out.note(&format!("{} is the master after {:.1} s", room.name(master), began.elapsed().as_secs_f64()));
    event(out, "elected", &serde_json::json!({ "master": room.name(master), "nodes": NODES }))?;
    let holders = [master, (master + 1) % NODES];
    offer(room, &holders, &source).await?;
    let names = holders.map(|n| room.name(n)).join(" and ");
    out.note(&format!("{names} have the image, the others fetch it"));
    let story = fetch(out, room, holders, size).await?;
    out.note("every copy is compared with the source");
    compare(room, &source, &story).await?;
    show(out, room, &story)?;
    out.note(&format!("done in {:.1} s; every copy is the same as the source", began.elapsed().as_secs_f64()));
    Ok(())
}

/// One node says that it is master, and all others name it.
fn one_master(all: &[Status]) -> bool {
    let masters: Vec<&Status> = all.iter().filter(|status| status.role == "master").collect();
    let [master] = masters[..] else { return false };
    all.iter().all(|status| status.master.as_ref() == Some(&master.node) && status.nodes.len() == all.len())
}

/// The holders get the image into their caches.
async fn offer(room: &mut Room, holders: &[usize], source: &Path) -> anyhow::Result<()> {
    // A link: what is shown here is how the others get it.
    let add = cache::Add { file: source.to_owned(), name: Some(IMAGE.into()), placement: Placement::InPlace };
    let request = Request::Add(add);
    let asked = room.clients().filter(|(n, _)| holders.contains(n)).map(|(_, client)| client.say(&request));
    for answer in futures::future::join_all(asked).await {
        match answer? {
            Answer::Added { .. } => {}
            other => return Err(unexpected(&other).into()),
        }
    }
    Ok(())
}

/// The others fetch; the master is killed half way.
async fn fetch(out: Out, room: &mut Room, holders: [usize; 2], size: u64) -> anyhow::Result<Story> {
    let began = Instant::now();
    let asked = room.clients().filter(|(n, _)| !holders.contains(n)).map(|(_, client)| begin(client));
    futures::future::try_join_all(asked).await?;
    let shown = bars(out);
    let mut show = Show { began, outcomes: Vec::new() };
    for n in 0..NODES {
        let job = (!holders.contains(&n)).then(|| Job::new(out, &shown, &room.name(n), size));
        show.outcomes.push(Outcome { job, took: None, transfer: None });
    }
    while show.percent(size) < KILL_AT {
        show.look(&room.statuses().await?);
        sleep(LOOK_EVERY).await;
    }
    let (killed, at) = (holders[0], show.percent(size));
    room.kill(killed)?;
    let dead_since = Instant::now();
    say(out, &shown, &format!("{} is killed (SIGKILL) with {at:.0} % fetched", room.name(killed)));
    event(out, "killed", &serde_json::json!({ "node": room.name(killed), "percent": at.round() }))?;
    let mut successor = None;
    loop {
        let all = room.statuses().await?;
        show.look(&all);
        if successor.is_none()
            && let Some(new) = all.iter().flatten().find(|status| status.role == "master")
        {
            let took = dead_since.elapsed();
            say(out, &shown, &format!("{} is the master, {} ms later", new.node, took.as_millis()));
            event(out, "failover", &serde_json::json!({ "master": new.node, "ms": took.as_millis() }))?;
            successor = Some((new.node.clone(), took));
        }
        match &successor {
            Some((successor, failover)) if show.is_complete() => {
                let (successor, failover) = (successor.clone(), *failover);
                show.outcomes.iter().filter_map(|outcome| outcome.job.as_ref()).for_each(Job::clear);
                return Ok(Story { outcomes: show.outcomes, holders, killed, at, successor, failover });
            }
            _ => sleep(LOOK_EVERY).await,
        }
    }
}

/// Says `get` until the catalogue has the image.
async fn begin(client: &mut Client) -> anyhow::Result<()> {
    let get = Request::Get { image: IMAGE.into(), torrent_bytes: 0, mode: None, seed_time: None, replace: false };
    loop {
        match client.say(&get).await {
            Ok(Answer::Fetching { .. }) => return Ok(()),
            Ok(other) => return Err(unexpected(&other).into()),
            Err(failure) if failure.exit == Exit::NoSuchImage => sleep(LOOK_EVERY).await,
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// What is shown while it goes on.
struct Show {
    began: Instant,
    outcomes: Vec<Outcome>,
}

impl Show {
    /// Books and shows how far everybody is.
    fn look(&mut self, all: &[Option<Status>]) {
        for (outcome, status) in self.outcomes.iter_mut().zip(all) {
            let transfer = status.as_ref().and_then(|s| s.transfers.iter().find(|t| t.image == IMAGE));
            let Some(transfer) = transfer else { continue };
            outcome.transfer = Some(transfer.clone());
            let Some(job) = &mut outcome.job else { continue };
            if !transfer.is_complete() {
                job.set(transfer.bytes_have, view::state(transfer.state), &view::rate(transfer.down_bps));
            } else if outcome.took.is_none() {
                outcome.took = Some(self.began.elapsed());
                job.set(transfer.bytes_have, "complete", "");
            }
        }
    }

    /// How much of everything is fetched.
    fn percent(&self, size: u64) -> f64 {
        let fetching: Vec<&Outcome> = self.outcomes.iter().filter(|outcome| outcome.job.is_some()).collect();
        let fetched: u64 = fetching.iter().filter_map(|outcome| outcome.transfer.as_ref()).map(|t| t.bytes_have).sum();
        fetched as f64 * 100.0 / (size * fetching.len() as u64) as f64
    }

    fn is_complete(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.job.is_none() || outcome.took.is_some())
    }
}

fn say(out: Out, bars: &MultiProgress, words: &str) {
    if bars.is_hidden() {
        out.note(words);
    } else {
        // Above the bars; nobody is left to tell if standard error is closed.
        let _ = bars.println(words);
    }
}

fn event(out: Out, event: &str, facts: &serde_json::Value) -> anyhow::Result<()> {
    let mut line = facts.clone();
    line["event"] = event.into();
    Ok(out.json(&line)?)
}

/// Every copy, as SHA-256 sees it.
async fn compare(room: &Room, source: &Path, story: &Story) -> anyhow::Result<()> {
    let fetched: Vec<usize> = (0..NODES).filter(|n| !story.holders.contains(n)).collect();
    let copies = fetched.iter().map(|n| image::digest(room.cache(*n).join(IMAGE)));
    let expected = image::digest(source.to_owned()).await?;
    for (n, digest) in fetched.iter().zip(futures::future::try_join_all(copies).await?) {
        if digest != expected {
            return Err(Failure::new(Exit::Damaged, format!("the copy of {} is not the source", room.name(*n))).into());
        }
    }
    Ok(())
}

fn show(out: Out, room: &Room, story: &Story) -> anyhow::Result<()> {
    let mut table = Table::new(&["NODE", "MODE", "TIME", "FROM WHOM"]);
    for (n, outcome) in story.outcomes.iter().enumerate() {
        let killed = n == story.killed;
        let time = match outcome.took {
            _ if killed => format!("killed at {:.0} %", story.at),
            Some(took) => format!("{:.2} s", took.as_secs_f64()),
            None => "had it".to_owned(),
        };
        let mode = outcome.transfer.as_ref().map_or_else(|| "-".to_owned(), |t| t.mode.to_string());
        let mut sources = outcome.transfer.as_ref().map(|t| t.sources.clone()).unwrap_or_default();
        sources.retain(|source| source.downloaded > 0);
        sources.sort_by_key(|source| std::cmp::Reverse(source.downloaded));
        let all: u64 = sources.iter().map(|source| source.downloaded).sum();
        let share = |source: &view::Source| format!("{} {} %", source.peer, source.downloaded * 100 / all.max(1));
        let from = sources.iter().map(share).collect::<Vec<_>>().join(", ");
        table.row([&room.name(n), &mode, &time, if from.is_empty() { "-" } else { &from }]);
        let seconds = outcome.took.map(|took| took.as_secs_f64());
        let facts = serde_json::json!({
            "node": room.name(n), "mode": mode, "killed": killed, "seconds": seconds, "sources": sources,
        });
        event(out, "node", &facts)?;
    }
    let (killed, failover) = (room.name(story.killed), story.failover.as_millis());
    out.say(&format!("\n{}", table.fit(width(), &[3])))?;
    out.say(&format!("{killed} was killed; {} was master {failover} ms later, and no copy was lost", story.successor))?;
    let facts = serde_json::json!({ "killed": killed, "master": story.successor, "failover_ms": failover });
    event(out, "complete", &facts)
}
