//! The request to stop that a process gets from outside.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use futures_util::future::{Shared, select};

/// Resolves when this process is asked to stop: by Ctrl-C, or by SIGTERM where there are signals.
///
/// From its first poll on, neither ends the process by itself any more. It needs a tokio runtime
/// with I/O enabled.
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
    Shutdown(asked_to_stop().boxed().shared())
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

async fn asked_to_stop() {
    select(pin!(interrupted()), pin!(terminated())).await;
}

async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        deaf("Ctrl-C", &error).await;
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        Err(error) => deaf("SIGTERM", &error).await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending().await
}

/// Where the system refuses to tell, the other signal is still waited for.
async fn deaf(signal: &str, error: &std::io::Error) {
    tracing::warn!(%error, "{signal} will not shut this process down gracefully");
    std::future::pending().await
}
