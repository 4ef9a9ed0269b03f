//! `labmesh get`: an image onto this machine.
//!
//! Rule: the node does it, this only watches; what is shown comes from the node's status, so it is the same whether the
//! node is a service or was started for this command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use labmesh_proto::wire::control::TransferState;
use tokio::time::{Instant, sleep};

use super::output::{self, Delivered};
use super::{LOOK_EVERY, Own, Steps, fetch, interrupted, settled};
use crate::cli::{Context, NodeArgs};
use crate::io::socket::{Answer, Client, Request, unexpected};
use crate::progress::{Job, Out};
use crate::view::{self, Exit, Failure, Transfer};

/// A transfer that is not in the status for so long was removed by somebody.
const MISSING_MAX: Duration = Duration::from_secs(5);
/// What is shown is at most this old, but for the end, which is seen at once.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// A node that has just joined may not have the catalogue yet.
const CATALOGUE_AFTER: Duration = Duration::from_secs(3);

/// Fetches an image. Returns when the copy is complete and verified; the node goes on seeding.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// NAME, NAME@HASH, an info hash, or the path or URL of a .torrent
    image: String,
    /// Put the image there when it is complete
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// If other content has that name here, set it aside as NAME.ant
    #[arg(long)]
    replace: bool,
    /// The mode and seed time, and the node that is run if none runs here.
    #[command(
        flatten,
        next_help_heading = "Mode and seed time; the rest is for the node that is run if none runs here"
    )]
    node: NodeArgs,
}

/// A copy that is complete and verified.
struct Complete {
    transfer: Transfer,
    took: Duration,
    /// There was nothing to do.
    was_here: bool,
}

impl Get {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        if self.image.trim().is_empty() {
            return Err(Failure::new(Exit::Usage, "no image was named (labmesh ls lists them)").into());
        }
        self.output.as_deref().map(output::check).transpose()?;
        let torrent = fetch::torrent(&self.image).await?.unwrap_or_default();
        let (mut client, own) = context.node_or_own(&self.node).await?;
        let is_own = own.is_some();
        let limits = [self.node.settings.upload_limit, self.node.settings.download_limit];
        if !is_own && limits.iter().any(Option::is_some) {
            context.out.note("the limits of the node that runs here stay as they are (labmesh limit changes them)");
        }
        let result = self.work(context.out, &mut client, &torrent, is_own).await;
        match own {
            // What went wrong first is what counts.
            Some(own) => end(own, result).await,
            None => result,
        }
    }

    async fn work(&self, out: Out, client: &mut Client, torrent: &[u8], own: bool) -> anyhow::Result<()> {
        // One for all of it, so that no signal is lost in between.
        let mut interrupt = std::pin::pin!(interrupted());
        let fetch = async {
            let done = self.fetch(out, client, torrent, own).await?;
            self.deliver(out, &done, own).map(|moved| (done, moved))
        };
        let (done, moved) = tokio::select! {
            done = fetch => done?,
            () = &mut interrupt => return Err(given_up(&self.image, own)),
        };
        if !own {
            self.say_how_it_is_seeded(out, &done);
        } else if !done.was_here || self.asks_how() {
            tokio::select! {
                stayed = stay(out, client, &done.transfer.info_hash) => stayed?,
                // The copy is complete, which is what was asked for.
                () = &mut interrupt => {}
            }
        }
        if moved {
            client.say(&Request::Remove { image: done.transfer.info_hash }).await?;
        }
        Ok(())
    }

    /// The person said how the copy is to be seeded.
    fn asks_how(&self) -> bool {
        self.node.settings.mode.is_some() || self.node.settings.seed_time.is_some()
    }

    /// A copy that lay in the cache of a node for this command is seeded as the person said.
    async fn seed_as_asked(&self, client: &mut Client, info_hash: &str) -> anyhow::Result<()> {
        let status = client.status().await?;
        let Some(present) = status.transfers.iter().find(|t| t.info_hash == info_hash) else { return Ok(()) };
        let (mode, seed_time) = (self.node.settings.mode.unwrap_or(present.mode), self.node.settings.seed_time);
        client.say(&Request::Mode { image: info_hash.to_owned(), mode, seed_time }).await?;
        Ok(())
    }

    /// What was asked of a service and counts for nothing is not passed over in silence.
    fn say_how_it_is_seeded(&self, out: Out, done: &Complete) {
        let image = &done.transfer.image;
        match done.transfer.seeding().filter(|_| self.asks_how()) {
            Some(_) if done.was_here => {
                out.note(&format!("it is seeded as before (labmesh mode {image} changes that)"))
            }
            Some(words) if done.transfer.seeds_as_master => out.note(&format!("{image} is {words}")),
            _ => {}
        }
    }

    async fn fetch(&self, out: Out, client: &mut Client, torrent: &[u8], own: bool) -> anyhow::Result<Complete> {
        let began = Instant::now();
        let (info_hash, was_here) = self.begin(out, client, torrent, own).await?;
        if was_here && own && self.asks_how() {
            self.seed_as_asked(client, &info_hash).await?;
        }
        let mut job: Option<Job> = None;
        let (mut seen, mut said) = (Instant::now(), serde_json::Value::Null);
        loop {
            let status = client.status().await?;
            match status.transfers.into_iter().find(|t| t.info_hash == info_hash) {
                Some(transfer) if transfer.is_complete() => {
                    if let Some(job) = job {
                        job.clear();
                    }
                    return Ok(Complete { transfer, took: began.elapsed(), was_here });
                }
                Some(transfer) => {
                    seen = Instant::now();
                    follow(out, &transfer, &mut job, &mut said)?;
                }
                None if seen.elapsed() > MISSING_MAX => {
                    anyhow::bail!("the transfer of {} was removed on this node", self.image);
                }
                None => {}
            }
            client.wait(SHOW_EVERY).await?;
        }
    }

    /// Says `get` to the node; again for a while if it has just joined. The image's info hash, and whether it is here
    /// already.
    async fn begin(&self, out: Out, client: &mut Client, torrent: &[u8], own: bool) -> anyhow::Result<(String, bool)> {
        let request = Request::Get {
            image: self.image.clone(),
            torrent_bytes: torrent.len(),
            mode: self.node.settings.mode,
            seed_time: self.node.settings.seed_time,
            replace: self.replace,
        };
        // A torrent says what it is about; of a name the mesh must have told first.
        if own && torrent.is_empty() {
            settled(client, |status| status.role == "follower" || status.nodes.len() > 1).await?;
        }
        let until = Instant::now() + CATALOGUE_AFTER;
        loop {
            let mut steps = Steps::of(out, view::printable(&self.image));
            let answer = client.ask(&request, torrent, |step| steps.show(step)).await;
            steps.clear();
            match answer {
                Ok(Answer::Fetching { info_hash, here }) => return Ok((info_hash, here)),
                Ok(other) => return Err(unexpected(&other).into()),
                Err(failure) if failure.exit == Exit::NoSuchImage && own => {
                    if Instant::now() < until {
                        sleep(LOOK_EVERY).await;
                        continue;
                    }
                    let status = client.status().await?;
                    if status.nodes.len() > 1 {
                        return Err(failure.into());
                    }
                    let words = format!(
                        "no other node was found in the mesh {:?}: does one run, with this mesh name, on a network \
                         that carries multicast? (--join ADDR names one, --mesh NAME the mesh)",
                        status.mesh
                    );
                    return Err(Failure::new(Exit::NoMesh, words).into());
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Brings it to `--output` if that is asked for, and says that it is complete. Whether the cache is to let go of it.
    fn deliver(&self, out: Out, done: &Complete, own: bool) -> anyhow::Result<bool> {
        let Complete { transfer, took, was_here } = done;
        let Delivered { path, moved } = match &self.output {
            None => Delivered { path: PathBuf::from(&transfer.path), moved: false },
            Some(output) => output::deliver(out, Path::new(&transfer.path), output, transfer.size, own && !was_here)?,
        };
        let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        out.json(&serde_json::json!({
            "event": "complete", "image": transfer.image, "info_hash": transfer.info_hash, "path": path,
            "seconds": seconds, "bytes": transfer.size,
        }))?;
        if *was_here {
            out.say(&format!("{} is here already, verified: {}", transfer.image, path.display()))?;
            return Ok(moved);
        }
        let words = format!("{} is complete and verified: {}", transfer.image, path.display());
        let speed = (transfer.size as f64 / took.as_secs_f64().max(0.001)) as u64;
        let how = format!("{} in {seconds:.1} s, {}", view::size(transfer.size), view::rate(speed));
        out.say(&if transfer.downloaded == 0 { words } else { format!("{words} ({how})") })?;
        Ok(moved)
    }
}

/// Shows where a transfer is.
fn follow(out: Out, t: &Transfer, job: &mut Option<Job>, said: &mut serde_json::Value) -> anyhow::Result<()> {
    if t.state == TransferState::Failed {
        let exit = t.error_kind.unwrap_or(Exit::Failed);
        let error = t.error.as_deref().unwrap_or("it failed");
        return Err(Failure::new(exit, error)).with_context(|| t.image.clone());
    }
    let now = serde_json::json!({
        "event": view::state(t.state), "image": t.image, "info_hash": t.info_hash, "percent": t.percent,
        "down_bps": t.down_bps, "up_bps": t.up_bps, "missing_pieces": t.missing_pieces, "last_seen_on": t.last_seen_on,
        "detail": t.trouble(),
    });
    if now != *said {
        out.json(&now)?;
        *said = now;
    }
    let job = job.get_or_insert_with(|| out.job(&t.image, t.size));
    let left = t.left_s.map(|left| view::span(Duration::from_secs(left)));
    let figures = left.map(|left| format!("{}, {left} left", view::rate(t.down_bps))).unwrap_or_default();
    let doing = match t.trouble() {
        Some(trouble) => trouble,
        None if t.state == TransferState::Stopped => format!("stopped (labmesh start {} goes on)", t.image),
        None => view::state(t.state).to_owned(),
    };
    job.set(t.bytes_have, &doing, &figures);
    Ok(())
}

/// Seeds for the seed time, or until somebody ends it.
async fn stay(out: Out, client: &mut Client, info_hash: &str) -> anyhow::Result<()> {
    let mut told = false;
    loop {
        let status = client.status().await?;
        let transfer = status.transfers.into_iter().find(|t| t.info_hash == info_hash);
        match transfer {
            Some(t) if t.state == TransferState::Seeding => {
                if !told {
                    let long = t
                        .seed_left_s
                        .map_or_else(|| "until Ctrl-C".to_owned(), |s| format!("for {s} s (Ctrl-C ends it)"));
                    out.note(&format!("{} is seeded {long}", t.image));
                    told = true;
                }
            }
            _ => return Ok(()),
        }
        client.wait(SHOW_EVERY).await?;
    }
}

fn given_up(image: &str, own: bool) -> anyhow::Error {
    if own {
        anyhow::anyhow!("ended; what is here of {image} is kept, and the same command goes on with it")
    } else {
        anyhow::anyhow!("not watching any more; the node goes on with {image} (labmesh stop {image} stops it)")
    }
}

async fn end(own: Own, result: anyhow::Result<()>) -> anyhow::Result<()> {
    let ended = own.end().await;
    result.and(ended)
}
