//! `labmesh status`: the mesh, its nodes, and what this node transfers.

use std::io::IsTerminal as _;
use std::time::Duration;

use super::interrupted;
use crate::cli::Context;
use crate::io::socket::Client;
use crate::progress::{print, width};

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
            // Home and clear: nothing that would have to be undone.
            let clear = if self.watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            print(&format!("{clear}{}", status.table(width())))?;
        }
        Ok(())
    }
}
