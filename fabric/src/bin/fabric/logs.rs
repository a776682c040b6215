//! What the program logs, and how.

use clap::{Args, ValueEnum};
use fabric::{Error, ErrorKind, Result};
use tracing_subscriber::EnvFilter;

/// Logging, on standard error.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What is logged: a level, or levels by target, such as `info,fabric_zmq=debug`.
    #[arg(long, global = true, env = "AGI_FABRIC_LOG", default_value = "info")]
    log: String,
    /// How it is written.
    #[arg(long, global = true, env = "AGI_FABRIC_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

pub(crate) fn init(args: &LogArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        Error::new(ErrorKind::Config, format!("`--log {}` is no filter: {error}", args.log))
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match args.log_format {
        Format::Text => logs.with_ansi(false).try_init(),
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| Error::new(ErrorKind::Config, format!("the log cannot be set up: {error}")))
}
