//! Requests that wait for their answers, over one connection.
//!
//! The library could do that too, but it keeps a place for each request that was never answered, and
//! drops an answer that comes late without a word.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use fabric_core::{Error, ErrorKind, Result, RetryClass};
use futures_util::StreamExt as _;
use tokio::sync::{oneshot, watch};

use crate::connection::lacking;
use crate::error;
use crate::hub::{Task, at_once};
use crate::text::numbered;

/// How many answers are taken in at once.
const AT_ONCE: usize = 64;

/// What one connection asks.
#[derive(Debug)]
pub(crate) struct Asking {
    table: Arc<Table>,
    _hearing: Task,
}

/// Who waits for which answer.
#[derive(Debug)]
struct Table {
    /// What answers go to: this and a number.
    inbox: String,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// Answers that nobody waited for any more.
    late: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Waiting {
    subject: Subject,
    tell: oneshot::Sender<Result<Message>>,
}

/// One request; nobody waits for its answer once this is dropped.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    table: &'a Table,
    number: u64,
    told: oneshot::Receiver<Result<Message>>,
}

impl Asking {
    /// Listens for answers; those that come late are counted in `late`.
    ///
    /// # Errors
    /// `Connect`.
    pub(crate) async fn begin(
        client: &Client,
        denied: watch::Receiver<Vec<String>>,
        late: Arc<AtomicU64>,
    ) -> Result<Self> {
        let inbox = format!("{}.", client.new_inbox());
        let answers = client.subscribe(format!("{inbox}*")).await;
        let answers = answers.map_err(|_| error::disconnected())?;
        let (next, waiting) = (AtomicU64::new(0), Mutex::default());
        let table = Arc::new(Table { inbox, next, waiting, late });
        let hearing = Task::spawn(Arc::clone(&table).hear(answers, denied));
        Ok(Self { table, _hearing: hearing })
    }

    /// A request to `subject` that is about to be sent.
    pub(crate) fn ask(&self, subject: Subject) -> Asked<'_> {
        let table = &*self.table;
        let number = table.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        table.lock().insert(number, Waiting { subject, tell });
        Asked { table, number, told }
    }
}

impl Asked<'_> {
    /// Where it is to be answered.
    pub(crate) fn reply(&self) -> Subject {
        numbered(&self.table.inbox, self.number).into()
    }

    /// The answer.
    ///
    /// # Errors
    /// `NoResponders`, `Unauthorized`, and `Connect` where the connection broke first.
    ///
    /// # Cancel safety
    /// The answer is late from then on.
    pub(crate) async fn answer(mut self) -> Result<Message> {
        (&mut self.told).await.unwrap_or_else(|_| {
            let text = "the connection broke before the answer came";
            let error = Error::new(ErrorKind::Connect, text).with_backend("nats");
            Err(error.with_retry(RetryClass::Ambiguous))
        })
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.table.lock().remove(&self.number);
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands answers to those who wait for them, as long as the connection lasts.
    async fn hear(
        self: Arc<Self>,
        mut answers: Subscriber,
        mut denied: watch::Receiver<Vec<String>>,
    ) {
        loop {
            tokio::select! {
                biased;
                answer = answers.next() => {
                    let Some(first) = answer else { break };
                    let more = std::iter::from_fn(|| at_once(answers.next()).flatten());
                    let all = std::iter::once(first).chain(more.take(AT_ONCE - 1));
                    all.for_each(|answer| self.take(answer));
                }
                Ok(()) = denied.changed() => {
                    let subjects = denied.borrow_and_update().clone();
                    self.refuse(&subjects);
                }
            }
        }
        // Nobody will answer any more.
        self.lock().clear();
    }

    fn take(&self, answer: Message) {
        let number = answer.subject.strip_prefix(&*self.inbox).and_then(|text| text.parse().ok());
        let Some(number) = number else { return };
        let nobody = answer.status == Some(StatusCode::NO_RESPONDERS);
        let waiting = self.lock().remove(&number);
        match waiting {
            Some(Waiting { subject, tell }) => {
                let result = if nobody { Err(unanswered(&subject)) } else { Ok(answer) };
                if tell.send(result).is_err() && !nobody {
                    self.late.fetch_add(1, Ordering::Relaxed);
                }
            }
            None if nobody => {}
            None => {
                self.late.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(number, "an answer came late and was dropped");
            }
        }
    }

    fn refuse(&self, subjects: &[String]) {
        let refused = |waiting: &Waiting| subjects.iter().any(|s| *s == *waiting.subject);
        for (_, waiting) in self.lock().extract_if(|_, waiting| refused(waiting)) {
            // Who asked may have gone.
            let _ = waiting.tell.send(Err(lacking(&waiting.subject)));
        }
    }
}

fn unanswered(subject: &str) -> Error {
    Error::new(ErrorKind::NoResponders, format!("nobody answers requests on `{subject}`"))
        .with_backend("nats")
        .with_retry(RetryClass::Safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let (next, waiting) = (AtomicU64::new(0), Mutex::default());
        Table { inbox: "_INBOX.x.".to_owned(), next, waiting, late: Arc::default() }
    }

    fn message(subject: &str, status: Option<StatusCode>) -> Message {
        let (subject, payload, length) = (subject.into(), "answer".into(), 6);
        let (reply, headers, description) = (None, None, None);
        Message { subject, reply, payload, headers, status, description, length }
    }

    fn ask(table: &Table, number: u64) -> Asked<'_> {
        let (tell, told) = oneshot::channel();
        table.lock().insert(number, Waiting { subject: "ask.a".into(), tell });
        Asked { table, number, told }
    }

    #[tokio::test]
    async fn who_waits_gets_the_answer_and_who_has_gone_leaves_nothing_behind() {
        let table = table();
        let (first, second, third) = (ask(&table, 7), ask(&table, 8), ask(&table, 9));
        assert_eq!(first.reply().as_str(), "_INBOX.x.7");
        drop(second);
        for number in [7, 8, 7] {
            table.take(message(&format!("_INBOX.x.{number}"), None));
        }
        table.take(message("_INBOX.x.9", Some(StatusCode::NO_RESPONDERS)));
        table.take(message("_INBOX.x.8", Some(StatusCode::NO_RESPONDERS)));
        table.take(message("_INBOX.y.8", None));
        assert_eq!(&first.answer().await.unwrap().payload[..], b"answer");
        assert_eq!(third.answer().await.unwrap_err().kind(), ErrorKind::NoResponders);
        assert_eq!(table.late.load(Ordering::Relaxed), 2, "8 is late, and 7 came twice");
        assert!(table.lock().is_empty());
    }

    #[tokio::test]
    async fn a_right_that_is_lacking_and_a_connection_that_broke_end_the_wait() {
        let table = table();
        let (refused, lost) = (ask(&table, 1), ask(&table, 2));
        table.lock().get_mut(&2).unwrap().subject = "ask.b".into();
        table.refuse(&["ask.a".to_owned()]);
        assert_eq!(refused.answer().await.unwrap_err().kind(), ErrorKind::Unauthorized);
        table.lock().clear();
        let error = lost.answer().await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Connect, RetryClass::Ambiguous));
    }
}
