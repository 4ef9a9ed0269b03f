//! `labmesh stop`: out of an image's swarm.

use crate::cli::Context;
use crate::io::socket::Request;

/// Leaves an image's swarm and stays out, over restarts too; the files stay.
#[derive(Debug, clap::Args)]
pub struct Stop {
    /// NAME, NAME@HASH or an info hash
    image: String,
}

impl Stop {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let words = format!("{0} is stopped (labmesh start {0} undoes it)", self.image);
        context.order(&Request::Stop { image: self.image }).await?;
        Ok(context.out.say(&words)?)
    }
}
