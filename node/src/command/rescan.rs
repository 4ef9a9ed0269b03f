//! `labmesh rescan`: the image folders, read again now.

use crate::cli::Context;
use crate::io::socket::{Answer, Request, unexpected};

/// Reads the image folders again now, and gives images another chance that were left alone.
#[derive(Debug, clap::Args)]
pub struct Rescan {}

impl Rescan {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        match context.node().await?.say(&Request::Rescan {}).await? {
            Answer::Rescanned { images } => {
                let offered = if images == 1 { "1 image is".to_owned() } else { format!("{images} images are") };
                context.out.json(&serde_json::json!({ "event": "done", "images": images }))?;
                Ok(context.out.say(&format!("{offered} offered; new ones follow when they are hashed"))?)
            }
            other => Err(unexpected(&other).into()),
        }
    }
}
