//! `labmesh ls`: the images of the mesh.

use crate::cli::Context;
use crate::io::socket::{Answer, Request, unexpected};
use crate::progress::width;
use crate::view::Image;

/// Lists the images of the mesh: size, whether a copy is here, and who holds one.
#[derive(Debug, clap::Args)]
pub struct Ls {}

impl Ls {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        match context.node().await?.say(&Request::List).await? {
            Answer::Images { images } => {
                context.out.json(&images)?;
                Ok(context.out.say(&Image::table(&images, width()))?)
            }
            other => Err(unexpected(&other).into()),
        }
    }
}
