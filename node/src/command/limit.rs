//! `labmesh limit`: how fast this node may send and receive.

use labmesh_proto::config::RateLimit;

use crate::cli::Context;
use crate::config::values::read;
use crate::io::socket::{Answer, Request, unexpected};
use crate::view;

/// Shows how fast this node may send and receive images, or changes it. What is changed holds until the schedule in the
/// configuration says something else, or the node ends.
#[derive(Debug, clap::Args)]
pub struct Limit {
    /// The most that it sends to peers in bytes a second, such as 2MiB; 0 = no limit
    #[arg(long, value_name = "RATE", value_parser = read::<RateLimit>)]
    up: Option<RateLimit>,
    /// The most that it fetches from them
    #[arg(long, value_name = "RATE", value_parser = read::<RateLimit>)]
    down: Option<RateLimit>,
}

impl Limit {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        let request = Request::Limit { upload: self.up, download: self.down };
        let limits = match context.node().await?.say(&request).await? {
            Answer::Limits(limits) => limits,
            other => return Err(unexpected(&other).into()),
        };
        context.out.json(&serde_json::json!({
            "upload_limit": limits.upload, "download_limit": limits.download,
        }))?;
        Ok(context.out.say(&view::limits(&limits))?)
    }
}
