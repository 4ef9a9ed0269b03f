//! `labmesh mode`: another mode for a transfer that is under way.

use labmesh_proto::config::{Mode as TransferMode, SeedTime};

use crate::cli::Context;
use crate::config::values::read;
use crate::io::socket::Request;

/// Changes the mode of a transfer; its connections stay.
#[derive(Debug, clap::Args)]
pub struct Mode {
    /// NAME, NAME@HASH or an info hash
    image: String,
    /// leecher, peer or seeder
    #[arg(value_parser = read::<TransferMode>)]
    mode: TransferMode,
    /// How long it is seeded then: seconds, 90s, 10m, 2h, enough or forever
    #[arg(value_parser = read::<SeedTime>)]
    seed_time: Option<SeedTime>,
}

impl Mode {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let Self { image, mode, seed_time } = self;
        let words = format!("{image} is a {mode} now");
        context.order(&Request::Mode { image, mode, seed_time }).await?;
        Ok(context.out.say(&words)?)
    }
}
