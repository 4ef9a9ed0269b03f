//! `labmesh start`: undoes `stop`.

use crate::cli::Context;
use crate::io::socket::Request;

/// Undoes `stop`: the image is fetched on or offered again.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// NAME, NAME@HASH or an info hash
    image: String,
}

impl Start {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let words = format!("{} is started", self.image);
        context.order(&Request::Start { image: self.image }).await?;
        Ok(context.out.say(&words)?)
    }
}
