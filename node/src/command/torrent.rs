//! `labmesh torrent`: `.torrent` files made, shown and checked, without a node.
//!
//! Rule: files in, files out; no command here asks a node. What they say is what other makers and readers of torrents
//! say of the same file.

use crate::cli::Context;

mod create;
mod show;
mod verify;

pub(super) use verify::check;

/// Makes, shows and checks .torrent files; needs no node.
#[derive(Debug, clap::Subcommand)]
pub enum Torrent {
    /// Make the .torrent of a file
    Create(create::Create),
    /// Show what a .torrent says
    Show(show::Show),
    /// Check a file against its .torrent, piece by piece
    Verify(verify::Verify),
}

impl Torrent {
    pub(crate) async fn run(self, context: Context) -> anyhow::Result<()> {
        match self {
            Self::Create(c) => c.run(context.out),
            Self::Show(c) => c.run(context.out).await,
            Self::Verify(c) => c.run(context.out).await,
        }
    }
}

fn is_url(torrent: &str) -> bool {
    torrent.contains("://")
}

/// A URL as it is; a path in full, so that it cannot be taken for the name of an image.
fn place(torrent: &str) -> String {
    let path = std::path::absolute(torrent).unwrap_or_default();
    if is_url(torrent) { torrent.to_owned() } else { path.display().to_string() }
}
