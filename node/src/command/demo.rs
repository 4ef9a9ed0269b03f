//! `labmesh demo`: the whole thing on this machine.
//!
//! Rule: the nodes are real ones, copies of this program with addresses, folders and sockets of their own on the
//! loopback interface; what is shown is what their `status` says. Whatever happens, no process and no file stays: the
//! nodes die with this process, and the folder goes when it ends.
//!
//! The story: seven nodes elect a master, five of them fetch an image from the other two, the master is killed half
//! way, another takes over, and every copy is compared with the source. Not here: how any of that works.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::MultiProgress;
use tokio::time::{Instant, sleep, timeout};

use super::interrupted;
use crate::cli::Context;
use crate::io::cache::{self, Placement};
use crate::io::socket::{Answer, Request, unexpected};
use crate::progress::{Job, Out, bars, width};
use crate::view::{self, Exit, Failure, Status, Table, Transfer};

mod image;
mod nodes;

use nodes::Room;

/// Two that hold the image, five that fetch it.
const NODES: usize = 7;
/// How many hold it at the start: the master to be, and one that stays.
const HOLDERS: usize = 2;
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
    #[arg(long, default_value = "256MiB", value_name = "SIZE", value_parser = crate::config::values::read::<bytesize::ByteSize>)]
    size: bytesize::ByteSize,
    /// Show what the nodes log
    #[arg(long)]
    verbose: bool,
}

/// How one node did.
#[derive(Clone, Debug)]
struct Outcome {
    took: Option<Duration>,
    transfer: Option<Transfer>,
}

/// How the whole went.
struct Story {
    outcomes: Vec<Outcome>,
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
    out.note(&format!("an image of {} random bytes is made, and given to two of {NODES} nodes", view::size(size)));
    let source = image::make(room.folder(), size).await?;
    let started = Instant::now();
    room.start().await?;
    let statuses = room.until("a master everybody follows", one_master).await?;
    let master = statuses[0].master.clone().unwrap_or_default();
    out.note(&format!("{master} is the master of {NODES} nodes after {:.1} s", started.elapsed().as_secs_f64()));
    event(out, "elected", &serde_json::json!({ "master": master, "nodes": NODES }))?;
    offer(room, &source).await?;
    let story = fetch(out, room, size).await?;
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
async fn offer(room: &mut Room, source: &Path) -> anyhow::Result<()> {
    let file = source.to_owned();
    for n in 0..HOLDERS {
        // A link: what is shown here is how the others get it.
        let add = cache::Add { file: file.clone(), name: Some(IMAGE.into()), placement: Placement::InPlace };
        match room.client(n).ask(&Request::Add(add), &[], |_| {}).await? {
            Answer::Added { .. } => {}
            other => return Err(unexpected(&other).into()),
        }
    }
    Ok(())
}

/// The others fetch; the master is killed half way.
async fn fetch(out: Out, room: &mut Room, size: u64) -> anyhow::Result<Story> {
    let began = Instant::now();
    for n in HOLDERS..NODES {
        begin(room, n).await?;
    }
    let shown = bars(out);
    let mut jobs: Vec<Job> = (HOLDERS..NODES).map(|n| Job::new(out, &shown, &room.name(n), size)).collect();
    let mut outcomes = vec![Outcome { took: None, transfer: None }; NODES];
    let mut killed: Option<(usize, f64, Instant)> = None;
    let mut successor: Option<(String, Duration)> = None;
    loop {
        let all = room.statuses().await?;
        watch(&all, began, &mut outcomes, &mut jobs);
        let fetched: u64 = outcomes[HOLDERS..].iter().filter_map(|o| o.transfer.as_ref()).map(|t| t.bytes_have).sum();
        let percent = fetched as f64 * 100.0 / (size * (NODES - HOLDERS) as u64) as f64;
        match &killed {
            None if percent >= 45.0 => {
                let master =
                    all.iter().flatten().find(|status| status.role == "master").context("the master is gone")?;
                let n = room.number(&master.node).context("the master is none of ours")?;
                room.kill(n).await?;
                killed = Some((n, percent, Instant::now()));
                say(out, &shown, &format!("{} is killed (SIGKILL) with {percent:.0} % fetched", room.name(n)));
                event(out, "killed", &serde_json::json!({ "node": room.name(n), "percent": percent }))?;
            }
            Some((_, _, at)) if successor.is_none() => {
                if let Some(new) = all.iter().flatten().find(|status| status.role == "master") {
                    let took = at.elapsed();
                    say(out, &shown, &format!("{} is the master, {} ms later", new.node, took.as_millis()));
                    event(out, "failover", &serde_json::json!({ "master": new.node, "ms": took.as_millis() }))?;
                    successor = Some((new.node.clone(), took));
                }
            }
            _ => {}
        }
        let missing = |n: &usize| outcomes[*n].took.is_none() && killed.as_ref().is_none_or(|(dead, _, _)| dead != n);
        if let (Some((killed, at, _)), Some((successor, failover))) = (&killed, &successor)
            && (HOLDERS..NODES).find(missing).is_none()
        {
            jobs.iter().for_each(Job::clear);
            return Ok(Story { outcomes, killed: *killed, at: *at, successor: successor.clone(), failover: *failover });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Says `get` until the catalogue has the image.
async fn begin(room: &mut Room, n: usize) -> anyhow::Result<()> {
    let get = Request::Get { image: IMAGE.into(), torrent_bytes: 0, mode: None, seed_time: None, replace: false };
    loop {
        match room.client(n).say(&get).await {
            Ok(Answer::Fetching { .. }) => return Ok(()),
            Ok(other) => return Err(unexpected(&other).into()),
            Err(failure) if failure.exit == Exit::NoSuchImage => sleep(LOOK_EVERY).await,
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Books and shows how far everybody is.
fn watch(all: &[Option<Status>], began: Instant, outcomes: &mut [Outcome], jobs: &mut [Job]) {
    for (n, status) in all.iter().enumerate() {
        let Some(transfer) = status.as_ref().and_then(|s| s.transfers.iter().find(|t| t.image == IMAGE)) else {
            continue;
        };
        if n >= HOLDERS {
            let complete = transfer.is_complete();
            if complete && outcomes[n].took.is_none() {
                outcomes[n].took = Some(began.elapsed());
            }
            let words = if complete { "complete".to_owned() } else { view::rate(transfer.down_bps) };
            jobs[n - HOLDERS].set(transfer.bytes_have, &words);
        }
        outcomes[n].transfer = Some(transfer.clone());
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

/// Every copy, byte by byte as SHA-256 sees it.
async fn compare(room: &Room, source: &Path, story: &Story) -> anyhow::Result<()> {
    let copies: Vec<(String, PathBuf)> =
        (HOLDERS..NODES).filter(|n| *n != story.killed).map(|n| (room.name(n), room.cache(n).join(IMAGE))).collect();
    let expected = image::digest(source.to_owned()).await?;
    for (name, path) in copies {
        if image::digest(path).await? != expected {
            return Err(Failure::new(Exit::Damaged, format!("the copy of {name} is not the source")).into());
        }
    }
    Ok(())
}

fn show(out: Out, room: &Room, story: &Story) -> anyhow::Result<()> {
    let mut table = Table::new(&["NODE", "MODE", "TIME", "FROM WHOM"]);
    for (n, outcome) in story.outcomes.iter().enumerate() {
        let time = match outcome.took {
            _ if n == story.killed => format!("killed at {:.0} %", story.at),
            _ if n < HOLDERS => "had it".to_owned(),
            Some(took) => format!("{:.2} s", took.as_secs_f64()),
            None => "-".to_owned(),
        };
        let transfer = outcome.transfer.as_ref();
        let mode = transfer.map_or_else(|| "-".to_owned(), |t| t.mode.to_string());
        let mut sources: Vec<_> = transfer.map(|t| t.sources.clone()).unwrap_or_default();
        sources.retain(|source| source.downloaded > 0);
        sources.sort_by_key(|source| std::cmp::Reverse(source.downloaded));
        let from: Vec<String> = sources.iter().map(|s| format!("{} {}", s.peer, view::size(s.downloaded))).collect();
        let from = if from.is_empty() { "-".to_owned() } else { from.join(", ") };
        table.row([&room.name(n), &mode, &time, &from]);
        event(
            out,
            "node",
            &serde_json::json!({
                "node": room.name(n), "mode": mode, "killed": n == story.killed,
                "seconds": outcome.took.map(|took| took.as_secs_f64()), "sources": sources,
            }),
        )?;
    }
    out.say(&format!("\n{}", table.fit(width(), &[3])))?;
    out.say(&format!(
        "master {} was killed; {} was master {} ms later, and no transfer stopped",
        room.name(story.killed),
        story.successor,
        story.failover.as_millis()
    ))?;
    event(
        out,
        "complete",
        &serde_json::json!({
            "killed": room.name(story.killed), "master": story.successor, "failover_ms": story.failover.as_millis(),
        }),
    )
}
