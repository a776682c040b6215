//! Requests that wait for their answers, over one connection.
//!
//! The library could do that too, but it keeps a place for each request that was never answered, and
//! drops an answer that comes late without a word.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use fabric_core::{Error, ErrorKind, Result, RetryClass};
use futures_util::Stream;

use crate::connection::lacking;
use crate::error;
use crate::text::numbered;

/// What one connection asks.
///
/// Nobody but those who ask listens for answers: who looks last hears of the next one, hands it to
/// whom it belongs, and when its own has come, leaves that to another. An answer so takes no way but
/// the one from the connection to whoever waits for it.
#[derive(Debug)]
pub(crate) struct Asking<S = Subscriber> {
    /// What answers go to: this and a number.
    inbox: String,
    answers: Mutex<S>,
    table: Mutex<Table>,
    /// Answers that nobody waited for any more.
    late: Arc<AtomicU64>,
}

/// Who waits for which answer.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    /// Who hears of the next answer.
    listener: Option<u64>,
    /// The connection is gone.
    over: bool,
}

#[derive(Debug)]
struct Waiting {
    subject: Subject,
    waker: Option<Waker>,
    answer: Option<Result<Message>>,
}

/// One request; nobody waits for its answer once this is dropped.
#[derive(Debug)]
pub(crate) struct Asked<'a, S: Stream<Item = Message> + Unpin = Subscriber> {
    asking: &'a Asking<S>,
    number: u64,
}

impl Asking {
    /// Listens for answers; those that come late are counted in `late`.
    ///
    /// # Errors
    /// `Connect`.
    pub(crate) async fn begin(client: &Client, late: Arc<AtomicU64>) -> Result<Self> {
        let inbox = format!("{}.", client.new_inbox());
        let answers = client.subscribe(format!("{inbox}*")).await;
        let answers = answers.map_err(|_| error::disconnected())?;
        Ok(Self::over(inbox, answers, late))
    }
}

impl<S: Stream<Item = Message> + Unpin> Asking<S> {
    fn over(inbox: String, answers: S, late: Arc<AtomicU64>) -> Self {
        Self { inbox, answers: Mutex::new(answers), table: Mutex::default(), late }
    }

    /// A request to `subject` that is about to be sent.
    pub(crate) fn ask(&self, subject: Subject) -> Asked<'_, S> {
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.waiting.insert(number, Waiting { subject, waker: None, answer: None });
        Asked { asking: self, number }
    }

    /// Ends the wait of those who asked where the user lacks the right to.
    pub(crate) fn refuse(&self, subject: &str) {
        self.tell_all(|waiting| (*waiting.subject == *subject).then(|| lacking(subject)));
    }

    /// Tells those who wait why they need not any more, where there is a reason.
    fn tell_all(&self, why: impl Fn(&Waiting) -> Option<Error>) {
        let mut wakers = Vec::new();
        for waiting in self.lock().waiting.values_mut() {
            if let Some(error) = why(waiting) {
                wakers.extend(waiting.tell(Err(error)));
            }
        }
        // With the table free: who is woken may look at once.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Counts what came late while nobody listened.
    pub(crate) fn look(&self) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lock().waiting.is_empty() {
            self.take_all(answers, &mut Context::from_waker(Waker::noop()), None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what has come; `listener` hears of what comes next.
    fn take_all(
        &self,
        mut answers: MutexGuard<'_, S>,
        cx: &mut Context<'_>,
        listener: Option<u64>,
    ) {
        loop {
            match Pin::new(&mut *answers).poll_next(cx) {
                Poll::Ready(Some(answer)) => self.take(answer),
                Poll::Ready(None) => return self.end(),
                Poll::Pending => break,
            }
        }
        // Before anybody else may look at the answers.
        self.lock().listener = listener;
    }

    fn take(&self, answer: Message) {
        let number = answer.subject.strip_prefix(&*self.inbox).and_then(|text| text.parse().ok());
        let Some(number) = number else { return };
        let nobody = answer.status == Some(StatusCode::NO_RESPONDERS);
        let mut table = self.lock();
        match table.waiting.get_mut(&number).filter(|waiting| waiting.answer.is_none()) {
            Some(waiting) => {
                let waker = waiting.tell(if nobody { Err(unanswered()) } else { Ok(answer) });
                drop(table);
                waker.into_iter().for_each(Waker::wake);
            }
            None if nobody => {}
            None => {
                self.late.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(number, "an answer came late and was dropped");
            }
        }
    }

    /// Nobody will answer any more.
    fn end(&self) {
        self.lock().over = true;
        self.tell_all(|_| Some(broken()));
    }
}

impl Waiting {
    /// Answers, unless that was done; returns who is to be woken.
    fn tell(&mut self, answer: Result<Message>) -> Option<Waker> {
        self.answer.get_or_insert(answer);
        self.waker.take()
    }
}

impl<S: Stream<Item = Message> + Unpin> Asked<'_, S> {
    /// Where it is to be answered.
    pub(crate) fn reply(&self) -> Subject {
        numbered(&self.asking.inbox, self.number).into()
    }

    /// The answer.
    ///
    /// # Errors
    /// `NoResponders`, `Unauthorized`, and `Connect` where the connection broke first.
    ///
    /// # Cancel safety
    /// The answer is late from then on.
    pub(crate) async fn answer(self) -> Result<Message> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Message>> {
        if let Some(answer) = self.told(cx) {
            return Poll::Ready(answer);
        }
        let answers = self.asking.answers.lock().unwrap_or_else(PoisonError::into_inner);
        self.asking.take_all(answers, cx, Some(self.number));
        match self.told(cx) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }

    /// The answer, if it came; else whom to tell.
    fn told(&self, cx: &Context<'_>) -> Option<Result<Message>> {
        let mut table = self.asking.lock();
        let over = table.over;
        let waiting = table.waiting.get_mut(&self.number)?;
        if let Some(answer) = waiting.answer.take() {
            return Some(answer);
        }
        if over {
            return Some(Err(broken()));
        }
        match &mut waiting.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        None
    }
}

impl<S: Stream<Item = Message> + Unpin> Drop for Asked<'_, S> {
    fn drop(&mut self) {
        let mut table = self.asking.lock();
        let waiting = table.waiting.remove(&self.number);
        if waiting.is_some_and(|waiting| matches!(waiting.answer, Some(Ok(_)))) {
            // It came, and nobody took it.
            self.asking.late.fetch_add(1, Ordering::Relaxed);
        }
        if table.listener == Some(self.number) {
            // Somebody else listens from now on: it looks as soon as it is woken.
            let next = table.waiting.iter_mut().find(|(_, waiting)| waiting.waker.is_some());
            let next = next.and_then(|(number, waiting)| Some((*number, waiting.waker.take()?)));
            table.listener = next.as_ref().map(|(number, _)| *number);
            drop(table);
            if let Some((_, waker)) = next {
                waker.wake();
            }
        }
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::Connect, "the connection broke before the answer came")
        .with_backend("nats")
        .with_retry(RetryClass::Ambiguous)
}

fn unanswered() -> Error {
    Error::new(ErrorKind::NoResponders, "nobody answers requests on this topic")
        .with_backend("nats")
        .with_retry(RetryClass::Safe)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use futures_util::stream::poll_fn;
    use tokio::sync::mpsc;

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(30);

    type Tell = mpsc::UnboundedSender<Message>;

    fn asking() -> (Tell, Arc<Asking<impl Stream<Item = Message> + Unpin>>) {
        let (tell, mut told) = mpsc::unbounded_channel();
        let answers = poll_fn(move |cx| told.poll_recv(cx));
        (tell, Arc::new(Asking::over("_INBOX.x.".to_owned(), answers, Arc::default())))
    }

    fn message(subject: &str, status: Option<StatusCode>) -> Message {
        let (subject, payload, length) = (subject.into(), "answer".into(), 6);
        let (reply, headers, description) = (None, None, None);
        Message { subject, reply, payload, headers, status, description, length }
    }

    fn answer(tell: &Tell, number: u64) {
        tell.send(message(&format!("_INBOX.x.{number}"), None)).unwrap();
    }

    #[tokio::test]
    async fn who_waits_gets_the_answer_and_who_has_gone_leaves_nothing_behind() {
        let (tell, asking) = asking();
        let ask = || asking.ask("ask.a".into());
        let (first, second, third) = (ask(), ask(), ask());
        assert_eq!(first.reply().as_str(), "_INBOX.x.0");
        drop(second);
        [0, 1, 0].into_iter().for_each(|number| answer(&tell, number));
        for (subject, status) in [
            ("_INBOX.x.2", Some(StatusCode::NO_RESPONDERS)),
            ("_INBOX.x.1", Some(StatusCode::NO_RESPONDERS)),
            ("_INBOX.y.1", None),
        ] {
            tell.send(message(subject, status)).unwrap();
        }
        assert_eq!(&first.answer().await.unwrap().payload[..], b"answer");
        assert_eq!(third.answer().await.unwrap_err().kind(), ErrorKind::NoResponders);
        assert_eq!(asking.late.load(Ordering::Relaxed), 2, "1 is late, and 0 came twice");
        assert!(asking.lock().waiting.is_empty());
        answer(&tell, 2);
        asking.look();
        assert_eq!(asking.late.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_right_that_is_lacking_and_a_connection_that_broke_end_the_wait() {
        let (tell, asking) = asking();
        let (refused, lost) = (asking.ask("ask.a".into()), asking.ask("ask.b".into()));
        asking.refuse("ask.a");
        assert_eq!(refused.answer().await.unwrap_err().kind(), ErrorKind::Unauthorized);
        drop(tell);
        let again = asking.ask("ask.b".into());
        for asked in [lost, again] {
            let error = asked.answer().await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Connect, RetryClass::Ambiguous));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn whoever_stops_listening_leaves_it_to_another() {
        let (tell, asking) = asking();
        let mut waiting = Vec::new();
        for number in 0..2000_u64 {
            let asking = Arc::clone(&asking);
            waiting.push(tokio::spawn(async move {
                let asked = asking.ask("ask.a".into());
                let limit = Duration::from_micros(number % 7 * 100);
                match number % 5 {
                    // Some give up, whether they listened just then or not.
                    0 => tokio::time::timeout(limit, asked.answer()).await.is_ok(),
                    _ => asked.answer().await.is_ok(),
                }
            }));
        }
        let asked = Arc::clone(&asking);
        let answering = tokio::spawn(async move {
            while asked.lock().next < 2000 {
                tokio::task::yield_now().await;
            }
            // In no order, and from another thread.
            for number in (0..2000).rev() {
                answer(&tell, number);
                tokio::task::yield_now().await;
            }
            tell
        });
        let answered = tokio::time::timeout(WATCHDOG, join_all(waiting)).await;
        let answered = answered.unwrap().into_iter().filter(|told| *told.as_ref().unwrap()).count();
        assert!(answered >= 1600, "{answered}");
        drop(answering.await.unwrap());
        assert!(asking.lock().waiting.is_empty());
    }
}
