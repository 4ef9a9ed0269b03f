//! `labmesh rm`: an image and what lies beside it, gone from this node.

use std::io::{BufRead as _, IsTerminal as _};

use super::settled;
use crate::cli::Context;
use crate::io::socket::Request;
use crate::view::Status;

/// Deletes an image, a partial copy of it and what lies beside it on this node. Asks first on a terminal.
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// NAME, NAME@HASH or an info hash
    image: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Rm {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let mut client = context.node().await?;
        if !self.yes && !context.out.json && std::io::stdin().is_terminal() && !self.agreed(&context).await? {
            return Ok(context.out.say("nothing was deleted")?);
        }
        let before = client.status().await?;
        client.say(&Request::Remove { image: self.image.clone() }).await?;
        // What `ls` says next must not be what was.
        let meant = |status: &Status| status.transfers.iter().filter(|t| t.is_called(&self.image)).count();
        let gone = |status: &Status| meant(status) < meant(&before).max(1);
        let words = match gone(&settled(&mut client, gone).await?) {
            true => format!("{} is deleted on this node", self.image),
            false => format!("{} is being deleted on this node: its files are still in use", self.image),
        };
        context.out.json(&serde_json::json!({ "event": "done" }))?;
        Ok(context.out.say(&words)?)
    }

    async fn agreed(&self, context: &Context) -> anyhow::Result<bool> {
        context.out.note(&format!("delete {} and what lies beside it on this node? [y/N]", self.image));
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        tokio::select! {
            line = line => Ok(matches!(line??.trim(), "y" | "Y" | "yes")),
            () = super::interrupted() => Ok(false),
        }
    }
}
