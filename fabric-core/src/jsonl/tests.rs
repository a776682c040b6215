use futures_util::stream;
use proptest::prelude::*;

use super::*;
use crate::cloudevents::tests::{assert_same, events};

/// Input that comes in pieces of the given sizes, with waits between them.
struct Pieces {
    left: Vec<u8>,
    sizes: Vec<usize>,
    waits: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.waits = !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = self.sizes.pop().unwrap_or(CHUNK).min(self.left.len()).min(out.remaining());
        out.put_slice(&self.left[..size]);
        self.left.drain(..size);
        Poll::Ready(Ok(()))
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn written(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    let count = write(&mut stream::iter(events.iter().cloned().map(Ok)), &mut out).await.unwrap();
    assert_eq!(count, events.len() as u64);
    out
}

const GOOD: &str = r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#;

async fn all(input: impl AsyncRead, max_line: usize) -> Vec<Result<Event>> {
    read(input).max_line(max_line).collect().await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_exported_is_imported(
        events in prop::collection::vec(events(), 0..6),
        sizes in prop::collection::vec(1..200_usize, 0..60),
    ) {
        let lines = block_on(written(&events));
        prop_assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), events.len());
        let read = block_on(all(Pieces { left: lines, sizes, waits: false }, MAX_LINE));
        prop_assert_eq!(read.len(), events.len());
        for (read, event) in read.iter().zip(&events) {
            assert_same(read.as_ref().unwrap(), event);
        }
    }

    /// Whatever the pieces are and wherever the limit lies: a line is an event, too long, or bad,
    /// and the numbers in the errors are those of the lines.
    #[test]
    fn every_line_is_answered_by_itself(
        lines in prop::collection::vec(prop::sample::select(vec!["", " ", GOOD, "{", "x", "\u{fe0f}"]), 0..12),
        long in prop::collection::vec(0..400_usize, 0..4),
        sizes in prop::collection::vec(1..120_usize, 0..40),
        ended in any::<bool>(),
    ) {
        let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
        for (n, len) in long.into_iter().enumerate() {
            lines.insert(n.min(lines.len()), "y".repeat(len));
        }
        let mut text = lines.join("\n");
        if ended {
            text.push('\n');
        }
        let expected: Vec<_> = lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(n, line)| match line.as_str() {
                GOOD => None,
                long if long.len() > 100 => Some((n + 1, ErrorKind::TooLarge)),
                _ => Some((n + 1, ErrorKind::Codec)),
            })
            .collect();
        let read = block_on(all(Pieces { left: text.into_bytes(), sizes, waits: true }, 100));
        let read: Vec<_> = read
            .into_iter()
            .map(|event| {
                event.err().map(|error| {
                    (error.context("line").unwrap().parse().unwrap(), error.kind())
                })
            })
            .collect();
        prop_assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn a_bad_line_is_named_and_the_next_ones_go_on() {
    let input =
        format!("\u{feff}{GOOD}\r\n\n{{\"specversion\":\"1.0\"}}\n  {{\"id\": 7 oops}}\n{GOOD}");
    let mut events = read(input.as_bytes());
    assert_eq!(events.next().await.unwrap().unwrap().id(), &"1");
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "import: the event has no `type` (line: 3, column: 1)");
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!((error.context("line"), error.context("column")), (Some("4"), Some("12")));
    assert!(events.next().await.unwrap().is_ok());
    assert!(events.next().await.is_none());
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_line_without_end_takes_no_memory() {
    struct Endless(usize);
    impl AsyncRead for Endless {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let size = out.remaining().min(self.0);
            out.put_slice(&vec![b'x'; size]);
            self.0 -= size;
            Poll::Ready(Ok(()))
        }
    }
    let mut events = read(Endless(64 * 1024 * 1024)).max_line(1024 * 1024);
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(events.next().await.is_none());
    assert!(events.kept.capacity() < 4 * 1024 * 1024, "{}", events.kept.capacity());
}

#[tokio::test]
async fn input_that_breaks_off_is_an_error_and_not_a_line() {
    struct Broken(bool);
    impl AsyncRead for Broken {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(Err(io::Error::other("the disk is gone")));
            }
            out.put_slice(GOOD.as_bytes());
            out.put_slice(b"\n{\"spec");
            Poll::Ready(Ok(()))
        }
    }
    let events: Vec<_> = read(Broken(false)).collect().await;
    assert_eq!(events.len(), 2);
    let error = events[1].as_ref().unwrap_err();
    assert_eq!(error.retry(), RetryClass::Never);
    assert_eq!(error.to_string(), "import: the input cannot be read: the disk is gone (line: 2)");
}

#[tokio::test]
async fn an_error_in_the_stream_ends_the_export() {
    let event = || Event::to("a.b").id("1").text("x").build();
    let mut events = stream::iter([event(), Err(Error::lagged(3)), event()]);
    let mut out = Vec::new();
    let error = write(&mut events, &mut out).await.unwrap_err();
    assert_eq!((error.kind(), error.context("written")), (ErrorKind::Lagged, Some("1")));
    assert_eq!(error.missed(), Some(3));
}

#[tokio::test]
async fn output_that_takes_nothing_is_an_error() {
    let mut full: &mut [u8] = &mut [0; 10];
    let events = std::iter::repeat_with(|| Event::to("a.b").text("x").build()).take(3);
    struct Small<'a, 'b>(&'a mut &'b mut [u8]);
    impl AsyncWrite for Small<'_, '_> {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(io::Write::write(self.get_mut().0, bytes))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let error = write(&mut stream::iter(events), &mut Small(&mut full)).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Backend, Some("export")));
}

#[tokio::test]
async fn what_is_written_is_handed_on_when_nothing_more_is_there() {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let mut events = stream::poll_fn(move |cx| events.poll_recv(cx));
    let (mut out, mut copy) = (Vec::new(), Vec::new());
    let mut writing = Box::pin(write(&mut events, &mut out));
    sender.send(Event::to("a.b").id("1").text("x").build()).unwrap();
    assert!(writing.as_mut().now_or_never().is_none());
    drop(writing);
    std::mem::swap(&mut out, &mut copy);
    assert!(copy.ends_with(b"\"data\":\"x\"}\n"));
}
