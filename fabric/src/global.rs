//! One fabric for the whole process, for programs that cannot hand a handle around.
//!
//! ```
//! use std::time::Duration;
//! use fabric::{Event, global};
//!
//! # #[tokio::main]
//! # async fn main() -> fabric::Result<()> {
//! global::init(fabric::connect("memory://").await?)?;
//! global::get()?.publish(Event::to("orders.created").text("o-42")).await?;
//! global::shutdown(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabric_core::{Error, ErrorKind, Fabric, Result};

static FABRIC: Mutex<Option<Fabric>> = Mutex::new(None);

/// Makes `fabric` the one that [`get`] returns, until [`shutdown`].
///
/// # Errors
/// `AlreadyExists` if there is one; it stays, and `fabric` is dropped.
pub fn init(fabric: Fabric) -> Result<()> {
    let mut current = lock();
    if let Some(there) = &*current {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "this process has a fabric already, on `{}`; shut it down first",
                there.info().name
            ),
        )
        .with_operation("init"));
    }
    *current = Some(fabric);
    Ok(())
}

/// The process's fabric.
///
/// # Errors
/// `NotFound` before [`init`] and after [`shutdown`].
pub fn get() -> Result<Fabric> {
    lock().clone().ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "this process has no fabric; give it one by `fabric::global::init`",
        )
        .with_operation("get")
    })
}

/// Closes the process's fabric `within` that time; afterwards there is none. Without one it is
/// `Ok` at once.
///
/// # Errors
/// As [`Fabric::close`].
///
/// # Cancel safety
/// From the first poll on the process has no fabric; the rest is as in [`Fabric::close`].
pub async fn shutdown(within: Duration) -> Result<()> {
    let Some(fabric) = lock().take() else { return Ok(()) };
    fabric.close(within).await
}

fn lock() -> MutexGuard<'static, Option<Fabric>> {
    FABRIC.lock().unwrap_or_else(PoisonError::into_inner)
}
