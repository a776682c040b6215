//! Dead letters: written once for every backend, over `submit` and `ack`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::SharedBackend;
use crate::batch::Batch;
use crate::capabilities::{Ability, Capabilities};
use crate::chunk::DeliveryInfo;
use crate::event::Event;
use crate::group::Group;
use crate::notice::{NoticeKind, NoticeSender};
use crate::position::Position;
use crate::stats::Stats;
use crate::text::clipped;
use crate::time::Timestamp;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// The most bytes of an error's text that a dead letter keeps.
pub const MAX_ERROR_LEN: usize = 4096;

/// Why an event became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// A handler rejected it.
    Rejected,
    /// It was tried as often as the group allows.
    MaxDeliver,
    /// Its envelope or payload could not be read.
    Decode,
    /// Its payload does not fit its schema.
    Schema,
    /// It could not be decrypted.
    Decrypt,
    /// It was not read in time.
    Expired,
}

impl DeadLetterReason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::MaxDeliver => "max_deliver",
            Self::Decode => "decode",
            Self::Schema => "schema",
            Self::Decrypt => "decrypt",
            Self::Expired => "expired",
        }
    }

    /// The reason of this word on the wire.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let all = [
            Self::Rejected,
            Self::MaxDeliver,
            Self::Decode,
            Self::Schema,
            Self::Decrypt,
            Self::Expired,
        ];
        all.into_iter().find(|reason| reason.as_str() == word)
    }

    fn of_fault(fault: &Error) -> Self {
        match fault.kind() {
            ErrorKind::Schema => Self::Schema,
            ErrorKind::Crypto => Self::Decrypt,
            _ => Self::Decode,
        }
    }
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is noted with a dead letter; envelope and payload are the original's, untouched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The group that failed.
    pub group: Group,
    /// Why.
    pub reason: DeadLetterReason,
    /// The error and its causes, at most [`MAX_ERROR_LEN`] bytes.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When this process received the last try.
    pub first: Timestamp,
    /// When it became a dead letter.
    pub last: Timestamp,
    /// Where it had been published.
    pub topic: Topic,
    /// Where it had been stored.
    pub position: Option<Position>,
    /// How often it was sent back to the group.
    pub redriven: u32,
}

impl DeadLetter {
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.error.len()
    }

    pub(crate) fn dedup_suffix(&self) -> String {
        let position = self.position.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("\n{position}\n{}", self.redriven)
    }
}

/// Turns the failed events of one group into dead letters: the copy is confirmed before the
/// original is settled.
pub(crate) struct DeadLetterOffice {
    backend: SharedBackend,
    group: Group,
    topic: Topic,
    max_deliver: Option<u32>,
    capabilities: Capabilities,
    notices: NoticeSender,
    stats: Arc<Stats>,
}

impl DeadLetterOffice {
    pub(crate) fn new(
        backend: SharedBackend,
        group: &Group,
        max_deliver: Option<u32>,
        notices: NoticeSender,
        stats: Arc<Stats>,
    ) -> Self {
        let topic = Topic::dead_letters(group);
        let capabilities = backend.capabilities();
        let max_deliver = max_deliver.filter(|_| capabilities.can(Ability::DeadLetters));
        let group = group.clone();
        Self { backend, group, topic, max_deliver, capabilities, notices, stats }
    }

    /// Refuses a settlement that this stack cannot do.
    pub(crate) fn demand(&self, ability: Ability) -> Result<()> {
        self.capabilities.demand(ability, &self.backend.info().name)
    }

    /// Whether it keeps dead letters.
    pub(crate) fn keeps_letters(&self) -> bool {
        self.capabilities.can(Ability::DeadLetters)
    }

    /// Whether a delivery with this attempt number is one too many.
    pub(crate) fn is_beyond(&self, attempt: u32) -> bool {
        self.max_deliver.is_some_and(|max| attempt > max)
    }

    /// Whether giving back the delivery with this attempt number is the last straw.
    pub(crate) fn is_last(&self, attempt: u32) -> bool {
        self.max_deliver.is_some_and(|max| attempt >= max)
    }

    pub(crate) fn reason_of(fault: &Error) -> DeadLetterReason {
        DeadLetterReason::of_fault(fault)
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Keeps `event` as a dead letter; `Ok` once the copy is confirmed.
    pub(crate) async fn keep(
        &self,
        event: Event,
        info: DeliveryInfo,
        reason: DeadLetterReason,
        error: String,
    ) -> Result<()> {
        let original = event.topic().clone();
        // A letter that was redriven and failed again keeps its history.
        let redriven = event.dead_letter().map_or(0, |letter| letter.redriven);
        let error = clipped(&error, MAX_ERROR_LEN).to_owned();
        let letter = DeadLetter {
            group: self.group.clone(),
            reason,
            error,
            attempts: info.attempt,
            first: info.received,
            last: Timestamp::now(),
            topic: original.clone(),
            position: info.position,
            redriven,
        };
        let batch = Batch::one(event.into_dead_letter(self.topic.clone(), letter));
        let kept = async {
            let outcomes = self.backend.submit(batch).await?.await;
            outcomes.sole()
        };
        match kept.await {
            Ok(_) => {
                self.stats.dead_lettered();
                let group = self.group.clone();
                self.notices.send(NoticeKind::DeadLettered { group, topic: original });
                Ok(())
            }
            Err(error) => {
                let error = error.with_operation("dead_letter").with("group", &self.group);
                let (group, cause) = (self.group.clone(), error.clone());
                self.notices.send(NoticeKind::DeadLetterFailed { group, error: cause });
                Err(error)
            }
        }
    }
}

impl fmt::Debug for DeadLetterOffice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterOffice").field("topic", &self.topic).finish_non_exhaustive()
    }
}
