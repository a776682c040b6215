//! The request to stop that a process gets from outside.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
#[cfg(unix)]
use std::pin::pin;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
#[cfg(unix)]
use futures_util::future::select;
use tokio::runtime::Handle;

/// Resolves when this process is asked to stop: by Ctrl-C, or by SIGTERM where there are signals.
///
/// From the call on neither ends the process by itself any more; outside of a tokio runtime, from
/// the first poll on. The runtime needs I/O enabled.
///
/// ```no_run
/// # #[tokio::main]
/// # async fn main() -> fabric::Result<()> {
/// let fabric = fabric::connect("memory://").await?;
/// let stop = fabric::shutdown_signal();
/// // … hand clones of `stop` to whatever has to end …
/// stop.await;
/// fabric.close(std::time::Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Dropping the future changes nothing; a clone of it still resolves.
pub fn shutdown_signal() -> Shutdown {
    let asked = match Handle::try_current() {
        Ok(_) => asked_to_stop().boxed(),
        Err(_) => async { asked_to_stop().await }.boxed(),
    };
    Shutdown(asked.shared())
}

/// The moment at which this process is asked to stop; see [`shutdown_signal`].
///
/// Clones resolve together, also those polled only afterwards.
#[derive(Clone)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Shutdown(Shared<BoxFuture<'static, ()>>);

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(cx)
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shutdown")
    }
}

/// Begins to listen when it is called, not when it is polled.
#[cfg(unix)]
fn asked_to_stop() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};

    let listen = |name: &'static str, kind: SignalKind| {
        let signals = signal(kind).inspect_err(|error| deaf(name, error));
        async move {
            match signals {
                Ok(mut signals) => drop(signals.recv().await),
                Err(_) => std::future::pending().await,
            }
        }
    };
    let interrupted = listen("Ctrl-C", SignalKind::interrupt());
    let terminated = listen("SIGTERM", SignalKind::terminate());
    async {
        select(pin!(interrupted), pin!(terminated)).await;
    }
}

#[cfg(not(unix))]
async fn asked_to_stop() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        deaf("Ctrl-C", &error);
        std::future::pending().await
    }
}

/// Where the system refuses to tell, the other signal is still waited for.
fn deaf(signal: &str, error: &std::io::Error) {
    tracing::warn!(%error, "{signal} will not shut this process down gracefully");
}
