//! `labmesh master`: who is it; become it; stop being it.

use super::settled;
use crate::cli::Context;
use crate::io::socket::Request;
use crate::view::{Exit, Failure};

/// Says who is master. With --claim this node becomes it, with --release it stops being it.
#[derive(Debug, clap::Args)]
pub struct Master {
    /// Become the master
    #[arg(long, conflicts_with = "release")]
    claim: bool,
    /// Stop being the master: the first deputy follows
    #[arg(long)]
    release: bool,
}

impl Master {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let mut client = context.node().await?;
        if self.claim || self.release {
            client.say(&Request::Master { claim: self.claim }).await?;
        }
        let status = settled(&mut client, |status| match (self.claim, self.release) {
            (true, _) => status.role == "master",
            (_, true) => status.role == "follower",
            _ => true,
        })
        .await?;
        context.out.json(&serde_json::json!({
            "node": status.node, "role": status.role, "term": status.term, "master": status.master,
        }))?;
        match &status.master {
            Some(master) => Ok(context.out.say(&format!("{master} is the master (term {})", status.term))?),
            None => Err(Failure::new(Exit::NoMesh, format!("{} knows no master yet", status.node)).into()),
        }
    }
}
