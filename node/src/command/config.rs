//! `labmesh config`: the default configuration with comments.

use crate::config::printed_default;
use crate::progress::print;

/// Prints the default configuration with comments: `labmesh config > /etc/labmesh/labmesh.toml` is a good beginning.
#[derive(Debug, clap::Args)]
pub struct Config {}

impl Config {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        Ok(print(&printed_default())?)
    }
}
