//! `labmesh config`: the default configuration with comments, or the settings that hold here.

use std::path::PathBuf;

use crate::cli::Context;
use crate::config::origin::settings_in_force;
use crate::config::printed_default;
use crate::progress::print;
use crate::view::{Exit, Failure};

/// Prints the default configuration with comments: `labmesh config > /etc/labmesh/labmesh.toml` is a good beginning.
/// With `--json` the settings that hold for a node here, each as `{value, from}`; `from` is default, file, environment
/// or flag.
#[derive(Debug, clap::Args)]
pub struct Config {
    /// With --json: the configuration file, instead of /etc/labmesh/labmesh.toml
    #[arg(long, env = "LABMESH_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl Config {
    pub(crate) fn run(self, context: Context) -> anyhow::Result<()> {
        if !context.out.json {
            return Ok(print(&printed_default())?);
        }
        let settings = settings_in_force(self.config.as_deref(), context.socket)
            .map_err(|e| Failure::new(Exit::Usage, format!("{e:#}")))?;
        Ok(context.out.json(&settings)?)
    }
}
