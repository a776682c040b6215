//! The command line, parsed by hand.

use std::path::PathBuf;

use crate::backends::{self, Backend};
use crate::error::{Error, Result};
use crate::help;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help(&'static str),
    Test(Vec<&'static Backend>),
    Bench(BenchOptions),
    Broker(BrokerAction, Vec<&'static Backend>),
    Ci,
    Docs { check: bool },
}

/// What `cargo xtask broker` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerAction {
    Up,
    Down,
    Status,
    /// Be the process that holds a broker: `up` starts it.
    Hold,
}

/// The flags of `cargo xtask bench`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BenchOptions {
    pub(crate) backends: Vec<&'static Backend>,
    pub(crate) quick: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) micro: bool,
}

pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Command> {
    let mut args = args.into_iter();
    let Some(command) = args.next() else {
        return Ok(Command::Help(help::MAIN));
    };
    let rest: Vec<String> = args.collect();
    let wants_help = rest.iter().any(|arg| arg == "--help" || arg == "-h");
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Command::Help(help::MAIN)),
        "test" if wants_help => Ok(Command::Help(help::TEST)),
        "bench" if wants_help => Ok(Command::Help(help::BENCH)),
        "broker" if wants_help => Ok(Command::Help(help::BROKER)),
        "ci" if wants_help => Ok(Command::Help(help::CI)),
        "docs" if wants_help => Ok(Command::Help(help::DOCS)),
        "test" => test(rest),
        "bench" => bench(rest),
        "broker" => broker(rest),
        "ci" => ci(&rest),
        "docs" => docs(&rest),
        other => Err(Error::new(format!(
            "unknown command `{other}`; the commands are test, bench, broker, ci and docs \
             (`cargo xtask --help` tells more)"
        ))),
    }
}

fn test(args: Vec<String>) -> Result<Command> {
    args.into_iter()
        .map(|arg| backend(&arg, "test", "no flag"))
        .collect::<Result<_>>()
        .map(Command::Test)
}

fn bench(args: Vec<String>) -> Result<Command> {
    let mut options = BenchOptions::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--micro" => options.micro = true,
            "--json" => {
                let missing = || Error::new("`--json` needs the name of the file to write");
                let file = args.next().filter(|next| !next.starts_with("--"));
                options.json = Some(PathBuf::from(file.ok_or_else(missing)?));
            }
            _ => options.backends.push(backend(&arg, "bench", "--quick, --json FILE, --micro")?),
        }
    }
    if options.micro && (options.json.is_some() || !options.backends.is_empty()) {
        return Err(Error::new("`--micro` goes alone or with `--quick`"));
    }
    Ok(Command::Bench(options))
}

fn broker(args: Vec<String>) -> Result<Command> {
    let mut args = args.into_iter();
    let action = match args.next().as_deref() {
        Some("up") => BrokerAction::Up,
        Some("down") => BrokerAction::Down,
        Some("status") => BrokerAction::Status,
        Some("hold") => BrokerAction::Hold,
        Some(other) => return Err(unexpected(other, "broker", "up, down or status first")),
        None => return Err(Error::new("`cargo xtask broker` needs to know: up, down or status")),
    };
    let named = args.map(|arg| backend(&arg, "broker", "no flag")).collect::<Result<_>>()?;
    Ok(Command::Broker(action, named))
}

fn ci(args: &[String]) -> Result<Command> {
    match args {
        [] => Ok(Command::Ci),
        [other, ..] => Err(unexpected(other, "ci", "nothing")),
    }
}

fn docs(args: &[String]) -> Result<Command> {
    match args {
        [] => Ok(Command::Docs { check: false }),
        [flag] if flag == "--check" => Ok(Command::Docs { check: true }),
        [flag, other, ..] if flag == "--check" => Err(unexpected(other, "docs", "--check")),
        [other, ..] => Err(unexpected(other, "docs", "--check")),
    }
}

fn backend(arg: &str, command: &str, flags: &str) -> Result<&'static Backend> {
    if arg.starts_with('-') {
        return Err(unexpected(arg, command, &format!("names of backends and {flags}")));
    }
    backends::find(arg)
}

fn unexpected(arg: &str, command: &str, accepted: &str) -> Error {
    Error::new(format!("unexpected `{arg}`: `cargo xtask {command}` takes {accepted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Command> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn nothing_and_help_print_help() {
        assert_eq!(words(""), Ok(Command::Help(help::MAIN)));
        assert_eq!(words("--help"), Ok(Command::Help(help::MAIN)));
        assert_eq!(words("bench --quick -h"), Ok(Command::Help(help::BENCH)));
    }

    #[test]
    fn each_command_takes_its_own_arguments() {
        let memory = backends::find("memory").unwrap();
        assert_eq!(words("test"), Ok(Command::Test(vec![])));
        assert_eq!(words("test memory"), Ok(Command::Test(vec![memory])));
        assert_eq!(words("broker up"), Ok(Command::Broker(BrokerAction::Up, vec![])));
        let nats = backends::find("nats").unwrap();
        assert_eq!(words("broker down nats"), Ok(Command::Broker(BrokerAction::Down, vec![nats])));
        assert_eq!(words("ci"), Ok(Command::Ci));
        assert_eq!(words("docs"), Ok(Command::Docs { check: false }));
        assert_eq!(words("docs --check"), Ok(Command::Docs { check: true }));
        let options = BenchOptions {
            backends: vec![memory],
            quick: true,
            json: Some(PathBuf::from("out.json")),
            micro: false,
        };
        assert_eq!(words("bench memory --quick --json out.json"), Ok(Command::Bench(options)));
    }

    #[test]
    fn what_is_unknown_is_refused_with_the_list() {
        for (line, part) in [
            ("tset", "test, bench, broker, ci and docs"),
            ("broker", "up, down or status"),
            ("broker sideways", "up, down or status first"),
            ("broker up pigeon", "memory, zmq, redis"),
            ("test --fast", "names of backends and no flag"),
            ("test pigeon", "memory, zmq, redis"),
            ("bench --fast", "--quick, --json FILE, --micro"),
            ("bench --json", "needs the name of the file"),
            ("bench --json --quick", "needs the name of the file"),
            ("bench --micro memory", "`--micro` goes alone"),
            ("ci now", "takes nothing"),
            ("docs --check twice", "takes --check"),
        ] {
            let error = words(line).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
