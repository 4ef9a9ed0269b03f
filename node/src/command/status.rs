//! `labmesh status`: the mesh, its nodes, and what this node transfers.

use std::io::IsTerminal as _;
use std::time::Duration;

use super::interrupted;
use crate::cli::Context;
use crate::io::socket::Client;
use crate::progress::{height, print, width};

/// Shows the mesh, its nodes and what this node transfers.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Show it again every second until Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

impl Status {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let mut client = context.node().await?;
        if !self.watch {
            return self.show(&context, &mut client).await;
        }
        let watching = async {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tick.tick().await;
                self.show(&context, &mut client).await?;
            }
        };
        tokio::select! {
            result = watching => result,
            () = interrupted() => Ok(()),
        }
    }

    async fn show(&self, context: &Context, client: &mut Client) -> anyhow::Result<()> {
        let status = client.status().await?;
        context.out.json(&status)?;
        if !context.out.json {
            print(&match height().filter(|_| self.watch && std::io::stdout().is_terminal()) {
                // Home, and each line over the one before: nothing flickers, nothing would have to be undone.
                Some(height) => {
                    let lines = status.table(width(), Some(height.saturating_sub(1))).replace('\n', "\x1b[K\n");
                    format!("\x1b[H{lines}\x1b[J")
                }
                None => status.table(width(), None),
            })?;
        }
        Ok(())
    }
}
