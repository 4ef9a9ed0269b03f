//! `labmesh run`: a node in the foreground, until a signal.

use std::process::exit;

use anyhow::Context as _;

use super::{interrupted, log, resolve};
use crate::cli::{Context, NodeArgs};
use crate::driver;

/// Runs a node in the foreground until SIGINT, SIGTERM or SIGHUP; a second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The node's settings.
    #[command(flatten)]
    node: NodeArgs,
    /// End when the process of this id does
    #[arg(long, hide = true, value_name = "PID")]
    with_parent: Option<i32>,
}

impl Run {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        if let Some(parent) = self.with_parent {
            tie_to(parent)?;
        }
        let config = resolve(&context, &self.node)?;
        log("info");
        tracing::info!(
            mesh = config.mesh,
            node = config.name,
            cache = %config.cache.display(),
            version = env!("CARGO_PKG_VERSION"),
            "labmesh starts"
        );
        let shutdown = async {
            interrupted().await;
            tracing::info!("ends: says goodbye to the mesh");
            tokio::spawn(async {
                interrupted().await;
                exit(130);
            });
        };
        driver::run(config, |_| tracing::info!("is ready for commands"), shutdown).await
    }
}

/// Dies with its parent, even if that one is killed: the demo's nodes must not outlive it.
fn tie_to(parent: i32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("cannot tie this process to its parent")?;
    let is_there = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent);
    anyhow::ensure!(is_there, "the parent process {parent} has ended");
    Ok(())
}
