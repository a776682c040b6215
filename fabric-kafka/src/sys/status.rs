//! Whether a record may have been stored, which the error of its delivery does not tell.

use rdkafka::message::BorrowedMessage;
use rdkafka_sys::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t};

/// What is known about one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persisted {
    /// It was certainly not stored.
    No,
    /// Nobody knows.
    Perhaps,
    /// It was stored.
    Yes,
}

/// What is known about the record of a delivery report.
pub(crate) fn persisted(record: &BorrowedMessage<'_>) -> Persisted {
    // SAFETY: `ptr` is the record that `record` borrows, which lives at least as long as it does; the
    // call reads one field of it.
    match unsafe { rd_kafka_message_status(record.ptr()) } {
        rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Persisted::No,
        rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED => Persisted::Perhaps,
        rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_PERSISTED => Persisted::Yes,
    }
}
