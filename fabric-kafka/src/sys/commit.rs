//! A commit whose answer comes to the consumer's own queue: the plain one that does not wait has none.

use std::ptr;

use rdkafka::TopicPartitionList;
use rdkafka::client::Client;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka_sys::bindings as rd;

/// Commits the offsets in `list`; the answer comes by the context's `commit_callback`.
pub(crate) fn commit<C: ConsumerContext>(
    client: &Client<C>,
    list: &TopicPartitionList,
) -> KafkaResult<()> {
    let rk = client.native_ptr();
    // SAFETY: `rk` is the live client that `client` borrows, and the list is copied by the call. The
    // reference to its queue that is taken here is given back here; the client keeps its own.
    let failed = unsafe {
        let queue = rd::rd_kafka_queue_get_consumer(rk);
        let failed = rd::rd_kafka_commit_queue(rk, list.ptr(), queue, None, ptr::null_mut());
        if !queue.is_null() {
            rd::rd_kafka_queue_destroy(queue);
        }
        failed
    };
    match failed {
        rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        failed => Err(KafkaError::ConsumerCommit(failed.into())),
    }
}
