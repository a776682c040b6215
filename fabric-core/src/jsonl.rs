//! Export and import: one event a line, in the form of [`cloudevents`](crate::cloudevents).
//!
//! ```
//! use fabric_core::{Event, Fabric, Result, jsonl};
//! use futures_util::TryStreamExt as _;
//! use tokio::io::{AsyncRead, AsyncWrite};
//!
//! async fn export(fabric: Fabric, mut out: impl AsyncWrite + Unpin + Send) -> Result<u64> {
//!     jsonl::write(&mut fabric.replay("#").await?, &mut out).await
//! }
//!
//! async fn import(fabric: Fabric, input: impl AsyncRead + Send) -> Result<()> {
//!     fabric.publish_all(jsonl::read(input)).try_for_each(async |_| Ok(())).await
//! }
//! ```
//!
//! Input and output are whatever tokio reads and writes: a file of `tokio::fs`, a socket, standard
//! input, `&[u8]` and `Vec<u8>`. Both sides buffer here, so they need no buffer of their own.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::cloudevents::{read_json, write_json};
use crate::event::Event;
use crate::{Error, ErrorKind, Result, RetryClass};

/// The longest line that is read unless told otherwise: 64 MiB.
pub const MAX_LINE: usize = 64 * 1024 * 1024;

/// How much is read or written at a time.
const CHUNK: usize = 64 * 1024;

/// Writes events until the stream ends, one JSON object a line, and returns how many.
///
/// What is written is handed on when the stream has nothing to offer, so that who follows the
/// output sees an event when it comes. Deliveries of a group are not settled.
///
/// # Errors
/// The first error of the stream: an export is whole or fails. `Codec` or `Unsupported` for a
/// payload that cannot be written; `Backend` where the output cannot take more. The context says
/// how many events were `written` before.
///
/// # Cancel safety
/// Some lines may have been written, the last one in part.
pub async fn write<S, E, W>(events: &mut S, out: &mut W) -> Result<u64>
where
    S: Stream<Item = Result<E>> + Unpin + Send + ?Sized,
    E: AsRef<Event> + Send,
    W: AsyncWrite + Unpin + Send + ?Sized,
{
    let mut written = 0;
    match copy(events, out, &mut written).await {
        Ok(()) => Ok(written),
        Err(error) => Err(error.with_operation("export").with("written", written)),
    }
}

async fn copy<S, E, W>(events: &mut S, out: &mut W, written: &mut u64) -> Result<()>
where
    S: Stream<Item = Result<E>> + Unpin + Send + ?Sized,
    E: AsRef<Event> + Send,
    W: AsyncWrite + Unpin + Send + ?Sized,
{
    let mut lines = Vec::with_capacity(CHUNK);
    loop {
        let next = match events.next().now_or_never() {
            Some(next) => next,
            None => {
                drain(out, &mut lines).await?;
                flush(out).await?;
                events.next().await
            }
        };
        let Some(event) = next else { break };
        write_json(event?.as_ref(), &mut lines)?;
        lines.push(b'\n');
        *written += 1;
        if lines.len() >= CHUNK {
            drain(out, &mut lines).await?;
        }
    }
    drain(out, &mut lines).await?;
    flush(out).await
}

async fn drain<W>(out: &mut W, lines: &mut Vec<u8>) -> Result<()>
where
    W: AsyncWrite + Unpin + Send + ?Sized,
{
    let mut rest = lines.as_slice();
    while !rest.is_empty() {
        match poll_fn(|cx| Pin::new(&mut *out).poll_write(cx, rest)).await.map_err(unwritable)? {
            0 => return Err(unwritable(io::ErrorKind::WriteZero.into())),
            written => rest = &rest[written..],
        }
    }
    lines.clear();
    Ok(())
}

async fn flush<W: AsyncWrite + Unpin + Send + ?Sized>(out: &mut W) -> Result<()> {
    poll_fn(|cx| Pin::new(&mut *out).poll_flush(cx)).await.map_err(unwritable)
}

fn unwritable(error: io::Error) -> Error {
    unusable("the output cannot be written", error)
}

/// Reads events, one JSON object a line, as a stream for
/// [`publish_all`](crate::Fabric::publish_all).
///
/// A line that is no event is an `Err` that names the line, and the next lines go on; a line longer
/// than [`MAX_LINE`] is skipped without being kept. Empty lines are passed over. The stream ends
/// with the input, or after the error that the input ended with.
///
/// Reading is cancel safe: an event is returned by exactly one poll.
pub fn read<R: AsyncRead>(input: R) -> Read<R> {
    Read {
        input: Some(Box::pin(input)),
        chunk: vec![0; CHUNK].into_boxed_slice(),
        kept: Vec::new(),
        start: 0,
        searched: 0,
        number: 0,
        skipping: false,
        max_line: MAX_LINE,
    }
}

/// A stream of the events in a file; see [`read`].
pub struct Read<R> {
    /// None once it has ended.
    input: Option<Pin<Box<R>>>,
    chunk: Box<[u8]>,
    kept: Vec<u8>,
    /// Where the line begins.
    start: usize,
    /// Up to where no end of the line was found.
    searched: usize,
    number: u64,
    /// The line was refused as too long, and its rest is still to come.
    skipping: bool,
    max_line: usize,
}

impl<R> Read<R> {
    /// Sets the longest line in bytes.
    #[must_use]
    pub const fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// The event in the next line that is there as a whole; lines without one are passed over.
    fn next_line(&mut self) -> Option<Result<Event>> {
        loop {
            let end = self.kept[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.kept.len();
                return self.refuse_long();
            };
            let begin = std::mem::replace(&mut self.start, end + 1);
            self.searched = self.start;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if let Some(event) = self.line(begin, end) {
                return Some(event);
            }
        }
    }

    /// What follows the last line break.
    fn last_line(&mut self) -> Option<Result<Event>> {
        let (begin, end) = (std::mem::replace(&mut self.start, self.kept.len()), self.kept.len());
        if std::mem::take(&mut self.skipping) { None } else { self.line(begin, end) }
    }

    fn line(&mut self, begin: usize, end: usize) -> Option<Result<Event>> {
        self.number += 1;
        let mut line = &self.kept[begin..end];
        if self.number == 1 {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.trim_ascii().is_empty() {
            return None;
        }
        if line.len() > self.max_line {
            return Some(Err(self.too_long()));
        }
        Some(read_json(line).map_err(|refusal| {
            let error = refusal.error.with("line", self.number).with("column", refusal.at + 1);
            error.with_operation("import")
        }))
    }

    /// Refuses the line as soon as it is too long, so that it is never held as a whole.
    fn refuse_long(&mut self) -> Option<Result<Event>> {
        if self.skipping || self.kept.len() - self.start <= self.max_line {
            return None;
        }
        self.skipping = true;
        self.number += 1;
        Some(Err(self.too_long()))
    }

    fn too_long(&self) -> Error {
        let max = self.max_line;
        Error::new(
            ErrorKind::TooLarge,
            format!("the line has more than {max} bytes; `max_line` allows more"),
        )
        .with("line", self.number)
        .with_operation("import")
    }

    /// Forgets what was returned or is to be skipped.
    fn compact(&mut self) {
        if self.skipping {
            self.kept.clear();
        } else {
            self.kept.drain(..self.start);
        }
        self.searched = self.kept.len();
        self.start = 0;
    }
}

impl<R: AsyncRead> Read<R> {
    /// Reads more; `false` at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        let Some(input) = &mut self.input else { return Poll::Ready(Ok(false)) };
        let mut chunk = ReadBuf::new(&mut self.chunk);
        let read = ready!(input.as_mut().poll_read(cx, &mut chunk));
        if let Err(error) = read {
            self.input = None;
            let error = unusable("the input cannot be read", error);
            return Poll::Ready(Err(error.with("line", self.number + 1).with_operation("import")));
        }
        let more = chunk.filled();
        if more.is_empty() {
            self.input = None;
            return Poll::Ready(Ok(false));
        }
        self.kept.extend_from_slice(more);
        Poll::Ready(Ok(true))
    }
}

impl<R: AsyncRead> Stream for Read<R> {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.next_line() {
                return Poll::Ready(Some(event));
            }
            self.compact();
            match ready!(self.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(self.last_line()),
                Err(error) => {
                    // What was cut off is not taken for a line.
                    self.kept.clear();
                    self.searched = 0;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl<R> fmt::Debug for Read<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read").field("line", &self.number).finish_non_exhaustive()
    }
}

/// Nothing was published: whatever the event was, it may be tried again.
fn unusable(what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Backend, format!("{what}: {error}"))
        .with_retry(RetryClass::Never)
        .with_source(error)
}

#[cfg(test)]
mod tests;
