//! `labmesh-sim`: runs scenarios, replays seeds, compares results and draws them.
//!
//! Rule: results go to standard output, progress to standard error. Exit codes: 0 good, 1 a run failed or became
//! worse, 2 the question was wrong, 130 interrupted.
#![expect(clippy::print_stderr, reason = "printing is what it is for")]

use std::io;
use std::process::ExitCode;

use clap::Parser;

mod command;
mod progress;

use self::command::{compare, replay, report, run};

/// Whole rooms of the real protocol code in virtual time.
#[derive(Parser)]
#[command(version)]
enum Arguments {
    Run(run::Arguments),
    Replay(replay::Arguments),
    Compare(compare::Arguments),
    Report(report::Arguments),
}

fn main() -> ExitCode {
    let good = match Arguments::parse() {
        Arguments::Run(arguments) => run::run(&arguments),
        Arguments::Replay(arguments) => replay::replay(&arguments),
        Arguments::Compare(arguments) => compare::compare(&arguments),
        Arguments::Report(arguments) => report::report(&arguments),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Nobody reads on: `| head`.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("labmesh-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}
