//! `labmesh rm`: an image and what lies beside it, gone from this node.

use std::io::{BufRead as _, IsTerminal as _};

use crate::cli::Context;
use crate::io::socket::Request;

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
        client.say(&Request::Remove { image: self.image.clone() }).await?;
        context.out.json(&serde_json::json!({ "event": "done" }))?;
        Ok(context.out.say(&format!("{} is deleted on this node", self.image))?)
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
