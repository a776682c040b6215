//! What the client library tells a member of a group, kept until its thread looks.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka_sys::types::RDKafkaRespErr;

use crate::connection::{LinkContext, lock, log};

/// One partition by its names on the broker.
pub(super) type At = (String, i32);

/// What happened.
pub(super) enum Happened {
    /// The group gave partitions to this member.
    Assigned(Vec<At>),
    /// The group wants partitions back.
    Revoked(Vec<At>),
    /// A commit was answered.
    Committed(KafkaResult<()>),
}

/// What the client library calls, from within a poll.
pub(crate) struct MemberContext {
    link: LinkContext,
    happened: Mutex<VecDeque<Happened>>,
    closing: AtomicBool,
}

impl MemberContext {
    pub(super) fn new(link: LinkContext) -> Self {
        Self { link, happened: Mutex::default(), closing: AtomicBool::new(false) }
    }

    /// The next that happened.
    pub(super) fn next(&self) -> Option<Happened> {
        lock(&self.happened).pop_front()
    }

    fn tell(&self, what: Happened) {
        lock(&self.happened).push_back(what);
    }

    /// From now on partitions are let go at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.error(error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if self.closing.load(Ordering::SeqCst) {
            let given = match what {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                    consumer.incremental_assign(&TopicPartitionList::new())
                }
                _ => consumer.incremental_unassign(list),
            };
            if let Err(error) = given {
                tracing::debug!(%error, "letting partitions go");
            }
            return;
        }
        let places =
            list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        self.tell(match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Happened::Assigned(places),
            _ => Happened::Revoked(places),
        });
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.tell(Happened::Committed(result));
    }
}
