//! `labmesh mode`: another mode for a transfer that is under way.

use labmesh_proto::config::{Mode as TransferMode, SeedTime};
use labmesh_proto::wire::control::TransferState;

use crate::cli::Context;
use crate::config::values::read;
use crate::io::socket::{Answer, Request, unexpected};
use crate::view::{Transfer, state};

/// Changes the mode of a transfer; its connections stay. The seed time of a copy that is complete counts from now.
#[derive(Debug, clap::Args)]
pub struct Mode {
    /// NAME, NAME@HASH or an info hash
    image: String,
    /// leecher, peer or seeder
    #[arg(value_parser = read::<TransferMode>)]
    mode: TransferMode,
    /// How long it is seeded, from now on or from when it is complete: seconds, 90s, 10m, 2h, enough or forever
    #[arg(value_parser = read::<SeedTime>)]
    seed_time: Option<SeedTime>,
}

impl Mode {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let Self { image, mode, seed_time } = self;
        let mut client = context.node().await?;
        let hash = match client.say(&Request::Mode { image: image.clone(), mode, seed_time }).await? {
            Answer::Changed { info_hash } => info_hash,
            other => return Err(unexpected(&other).into()),
        };
        let transfer = client.status().await?.transfers.into_iter().find(|t| t.info_hash == hash);
        context.out.json(&serde_json::json!({
            "event": "done", "info_hash": hash, "mode": mode, "state": transfer.as_ref().map(|t| state(t.state)),
            "seed_left_s": transfer.as_ref().and_then(|t| t.seed_left_s),
        }))?;
        let then = transfer.as_ref().and_then(what_follows).map(|words| format!(", {words}")).unwrap_or_default();
        Ok(context.out.say(&format!("{image} is a {mode} now{then}"))?)
    }
}

/// What the new mode leads to, if that is not what one would think.
fn what_follows(transfer: &Transfer) -> Option<String> {
    match transfer.state {
        TransferState::Stopped => Some(format!("and stays stopped (labmesh start {} undoes that)", transfer.image)),
        TransferState::Idle => Some("and idle, since its seed time is over".to_owned()),
        TransferState::Failed => Some("but has failed (labmesh status says why)".to_owned()),
        _ => transfer.seeding(),
    }
}
