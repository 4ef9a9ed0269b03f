//! What was typed: the commands, what they have in common, and how they end.
//!
//! Rule: this file only says which words exist; each command is a struct with its own file under [`crate::command`].
//! Exit codes: 0 done, 1 failed, 2 usage, 3 no such image, 4 no mesh found, 5 not enough space, 6 damaged.
//!
//! Not here: what settings mean ([`crate::config`]).

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::command::{
    add, config, demo, get, inspect, limit, ls, master, mode, rescan, rm, run, start, status, stop, torrent,
};
use crate::config::Settings;
use crate::progress::Out;
use crate::view::{Exit, Failure};

/// Gets a disk image onto a roomful of computers.
#[derive(Debug, Parser)]
#[command(
    name = "labmesh",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, \
    3 no such image, 4 no mesh found, 5 not enough space, 6 damaged."
)]
pub struct Cli {
    /// The local node's socket
    #[arg(long, global = true, env = "LABMESH_SOCKET", value_name = "PATH", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// One JSON object per line, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order in which one needs them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node in the foreground
    Run(run::Run),
    /// Put an image into the cache and offer it to the mesh
    Add(add::Add),
    /// Fetch an image
    Get(get::Get),
    /// List the images of the mesh
    Ls(ls::Ls),
    /// Show the mesh, its nodes and what this node transfers
    Status(status::Status),
    /// Change the mode of a transfer: leecher, peer or seeder
    Mode(mode::Mode),
    /// Show or change how fast this node may send and receive
    Limit(limit::Limit),
    /// Leave an image's swarm and stay out, over restarts too
    Stop(stop::Stop),
    /// Undo `stop`
    Start(start::Start),
    /// Delete an image and what lies beside it on this node
    Rm(rm::Rm),
    /// Read the image folders again now
    Rescan(rescan::Rescan),
    /// Say who is master; claim or release it
    Master(master::Master),
    /// Show what a .torrent says, or check an image against its own
    Inspect(inspect::Inspect),
    /// Make, show and check .torrent files
    #[command(subcommand)]
    Torrent(torrent::Torrent),
    /// Print the default configuration with comments, or with --json the settings that hold
    Config(config::Config),
    /// Show the whole thing on this machine, in about ten seconds
    Demo(demo::Demo),
}

/// The settings of a node that a command runs.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArgs {
    /// The configuration file, instead of /etc/labmesh/labmesh.toml
    #[arg(long, env = "LABMESH_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// The settings that were typed.
    #[command(flatten)]
    pub settings: Settings,
}

/// The same for a command to which `--name` is the name of an image: the node's is `--node-name` there.
#[derive(Clone, Debug)]
pub struct UnnamedNodeArgs(pub NodeArgs);

impl FromArgMatches for UnnamedNodeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        NodeArgs::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for UnnamedNodeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let all = NodeArgs::augment_args(clap::Command::new(""));
        let heading = "If no node runs here, one is run for the length of the command";
        let args = all.get_arguments().cloned().map(|arg| arg.help_heading(heading));
        let renamed = args.map(|arg| if arg.get_id() == "name" { arg.long("node-name") } else { arg });
        command.args(renamed)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// What every command is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// Where words go.
    pub out: Out,
}

/// The program: parses what was typed, does it, and says how it ended.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures; if they cannot be printed there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let context = Context { socket: cli.socket, out: Out { json: cli.json } };
    let out = context.out;
    match dispatch(cli.command, context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(out, &error),
    }
}

fn dispatch(command: Command, context: Context) -> anyhow::Result<()> {
    // A few threads are enough for sockets and pages: hashing and the disk have their own, and
    // threads that pass tasks to each other for nothing cost more than they bring.
    let threads = (std::thread::available_parallelism().map_or(2, std::num::NonZero::get) / 2).clamp(1, 4);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Run(c) => c.run(context).await,
            Command::Add(c) => c.run(context).await,
            Command::Get(c) => c.run(context).await,
            Command::Ls(c) => c.run(context).await,
            Command::Status(c) => c.run(context).await,
            Command::Mode(c) => c.run(context).await,
            Command::Limit(c) => c.run(context).await,
            Command::Stop(c) => c.run(context).await,
            Command::Start(c) => c.run(context).await,
            Command::Rm(c) => c.run(context).await,
            Command::Rescan(c) => c.run(context).await,
            Command::Master(c) => c.run(context).await,
            Command::Inspect(c) => c.run(&context),
            Command::Torrent(c) => c.run(context).await,
            Command::Config(c) => c.run(context),
            Command::Demo(c) => c.run(context).await,
        }
    });
    // A thread that waits for a slow disk must not keep the command from ending.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    result
}

fn report(out: Out, error: &anyhow::Error) -> ExitCode {
    if let Some(e) = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())
        && e.kind() == io::ErrorKind::BrokenPipe
    {
        // `labmesh ls | head`: the reader has seen enough.
        return ExitCode::SUCCESS;
    }
    let exit = exit_of(error);
    out.note(&format!("labmesh: {error:#}"));
    // Standard output may be the thing that failed.
    let _ = out.json(&serde_json::json!({ "event": "failed", "error": format!("{error:#}"), "exit": exit as u8 }));
    ExitCode::from(exit as u8)
}

/// The exit code of an error: that of the [`Failure`] in its chain, or 1.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Exit::Failed, |failure| failure.exit)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[track_caller]
    fn exits(words: &[&str], expected: u8) {
        let all = std::iter::once("labmesh").chain(words.iter().copied()).map(OsString::from);
        assert_eq!(format!("{:?}", run(all)), format!("{:?}", ExitCode::from(expected)), "{words:?}");
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_not_said_right_exits_with_2() {
        for words in [
            &["frobnicate"][..],
            &["get"],
            &["run", "--weight", "100"],
            &["run", "--bind", "10.0.0.1", "--interface", "eth0"],
            &["get", "x", "--mode", "giver"],
            &["mode", "x"],
            &["limit", "--up", "fast"],
            &["limit", "--down", "1"],
            &["run", "--upload-limit", "1 KiB"],
            &["add", "x", "--move", "--copy"],
            &["master", "--claim", "--release"],
            &["torrent"],
            &["torrent", "create", "x", "--piece-length", "100KB"],
            &["torrent", "create", "x", "--announce", "tracker.example"],
            &["torrent", "create", "x", "--web-seed", "udp://w/x.img"],
            &["get", ""],
            &["add", "x.img", "--weight", "100"],
        ] {
            exits(words, 2);
        }
        exits(&["--help"], 0);
        exits(&["get", "--help"], 0);
    }

    #[test]
    fn commands_without_a_node_exit_with_4() {
        for words in
            [&["ls"][..], &["status"], &["stop", "x"], &["rescan"], &["master"], &["mode", "x", "peer"], &["limit"]]
        {
            let mut all = words.to_vec();
            all.extend(["--socket", "/nonexistent/labmesh.sock"]);
            exits(&all, 4);
        }
    }

    #[test]
    fn a_bad_configuration_exits_with_2() {
        exits(&["run", "--config", "/nonexistent/labmesh.toml"], 2);
        exits(&["run", "--weight", "61"], 2);
        exits(&["config", "--json", "--config", "/nonexistent/labmesh.toml"], 2);
        exits(&["config", "--json"], 0);
    }

    #[test]
    fn a_failure_deep_in_the_chain_decides_the_exit_code() {
        let error = anyhow::Error::new(Failure::new(Exit::NoSpace, "full")).context("while copying");
        assert_eq!(exit_of(&error), Exit::NoSpace);
        assert_eq!(exit_of(&anyhow::anyhow!("other")), Exit::Failed);
    }
}
