//! `labmesh master`: who is it; become it; stop being it.

use super::settled;
use crate::cli::Context;
use crate::io::socket::Request;
use crate::view::{Exit, Failure, Status};

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
        let before = client.status().await?;
        let rules = |status: &Status| matches!(status.role.as_str(), "master" | "solo");
        let status = if self.release || self.claim && !rules(&before) {
            client.say(&Request::Master { claim: self.claim }).await?;
            let done = |status: &Status| if self.claim { rules(status) } else { status.role == "follower" };
            let after = settled(&mut client, done).await?;
            if !done(&after) {
                let master = after.master.as_deref().unwrap_or("nobody");
                let what = if self.claim { "did not become the master" } else { "is not replaced" };
                return Err(Failure::new(Exit::Failed, format!("{} {what}: {master} is the master", after.node)).into());
            }
            after
        } else {
            before
        };
        context.out.json(&serde_json::json!({
            "node": status.node, "role": status.role, "term": status.term, "master": status.master,
        }))?;
        match &status.master {
            Some(master) if status.role == "solo" => {
                Ok(context.out.say(&format!("{master} is alone, so it is its own master (term {})", status.term))?)
            }
            Some(master) => Ok(context.out.say(&format!("{master} is the master (term {})", status.term))?),
            None => Err(Failure::new(Exit::NoMesh, format!("{} knows no master yet", status.node)).into()),
        }
    }
}
