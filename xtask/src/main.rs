//! The project's own commands, reached as `cargo xtask`: test, bench, broker, ci, docs.
#![expect(clippy::print_stdout, reason = "a program for people: its output is its purpose")]

mod args;
mod backends;
mod bench;
mod broker;
mod cargo;
mod ci;
mod docs;
mod error;
mod examples;
mod help;
mod json;
mod manifest;
mod region;
mod steps;
mod test;
mod workspace;

use std::env;
use std::process::ExitCode;

use args::Command;
use error::Result;
use workspace::Workspace;

fn main() -> ExitCode {
    let command = match args::parse(env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Help(text) => {
            print!("{text}");
            Ok(())
        }
        Command::Test(backends) => test::run(&Workspace::load()?, &backends),
        Command::Bench(options) => bench::run(&Workspace::load()?, &options),
        Command::Broker(action, named) => broker::run(&Workspace::load()?, action, &named),
        Command::Ci => ci::run(&Workspace::load()?),
        Command::Docs { check } => docs::run(&Workspace::load()?, check),
    }
}
