//! `fabric broker zmq`.

use std::sync::Arc;

use fabric::zmq::broker::Broker;
use fabric::{Error, ErrorKind, Result};
use tokio::net::TcpListener;

use super::admin;
use super::settings::{Settings, ZmqArgs, new_keys};

#[expect(clippy::print_stdout, reason = "keys are what is asked for")]
pub(crate) fn run(args: &ZmqArgs) -> Result<()> {
    if args.generate_keys {
        print!("{}", new_keys()?);
        return Ok(());
    }
    let settings = Settings::of(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Backend, format!("no runtime: {error}")))?;
    runtime.block_on(serve(settings))
}

/// Runs until the process is asked to stop.
async fn serve(settings: Settings) -> Result<()> {
    let stop = fabric::shutdown_signal();
    let listener = match settings.admin {
        Some(at) => Some(TcpListener::bind(at).await.map_err(|error| {
            let text = format!("the administration cannot listen on {at}: {error}");
            Error::new(ErrorKind::AlreadyExists, text)
        })?),
        None => None,
    };
    let hwm = settings.broker.hwm;
    let broker = Arc::new(Broker::start(&settings.broker)?);
    let served = async {
        match listener {
            Some(listener) => admin::serve(listener, Arc::clone(&broker), hwm).await,
            None => std::future::pending().await,
        }
    };
    // The loop of the broker runs on a thread of its own; should it fail, there is nothing to serve.
    let failed = async {
        let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            look.tick().await;
            if !broker.is_alive().0 {
                return;
            }
        }
    };
    let (mut served, failed) = (std::pin::pin!(served), std::pin::pin!(failed));
    tokio::select! {
        () = stop => tracing::info!(drain = ?settings.drain, "the broker is asked to stop"),
        result = &mut served => return result,
        () = failed => {
            return Err(Error::new(ErrorKind::Backend, "the loop of the broker does not turn any more"));
        }
    }
    let drain = settings.drain;
    let stopping = tokio::task::spawn_blocking({
        let broker = Arc::clone(&broker);
        move || broker.stop(drain)
    });
    // Whoever asks meanwhile is told that it is no longer ready, and still alive.
    tokio::select! {
        stopped = stopping => {
            stopped.map_err(|panic| Error::new(ErrorKind::Backend, panic.to_string()))?
        }
        result = served => result,
    }
}
