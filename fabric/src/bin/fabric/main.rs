//! The program `fabric`.

mod broker;
mod logs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use logs::LogArgs;

/// Event Fabric on the command line.
#[derive(Debug, Parser)]
#[command(name = "fabric", version, about, disable_help_subcommand = true)]
struct Args {
    #[command(flatten)]
    logs: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a broker, for transports that have none of their own.
    #[command(subcommand)]
    Broker(broker::Command),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = logs::init(&args.logs).and_then(|()| match args.command {
        Command::Broker(command) => broker::run(command),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// For whoever started the program.
#[expect(clippy::print_stderr, reason = "a program says on standard error why it ends")]
fn say(text: &str) {
    eprintln!("{text}");
}
