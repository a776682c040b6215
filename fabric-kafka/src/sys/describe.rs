//! Topics with their ids: another id is another topic, also under the same name.

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka_sys::bindings as rd;

/// One topic as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    /// Its name there.
    pub(crate) name: String,
    /// Its id, folded to one number.
    pub(crate) id: u64,
    /// How many partitions it has.
    pub(crate) partitions: i32,
}

/// What owns one native object and frees it.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(raw: *mut T, free: unsafe extern "C" fn(*mut T)) -> KafkaResult<Self> {
        let failed = || KafkaError::AdminOp(RDKafkaErrorCode::Fail);
        NonNull::new(raw).map(|raw| Self(raw, free)).ok_or_else(failed)
    }

    fn ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the constructor that belongs to this destructor, and nothing
        // else frees it.
        unsafe { (self.1)(self.0.as_ptr()) }
    }
}

/// Describes the topics called `names`; those that do not exist are left out.
pub(crate) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> KafkaResult<Vec<Described>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let held: Vec<CString> = names.iter().filter_map(|name| CString::new(*name).ok()).collect();
    let mut raw: Vec<*const c_char> = held.iter().map(|name| name.as_ptr()).collect();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let rk = client.native_ptr();
    // SAFETY: `rk` is the live client that `client` borrows. Every object is made here, owned by an
    // `Owned` that frees it once, in the reverse order of their making; the names outlive the call
    // that copies them. Strings and arrays of the result are read before its event is freed.
    unsafe {
        let topics = Owned::new(
            rd::rd_kafka_TopicCollection_of_topic_names(raw.as_mut_ptr(), raw.len()),
            rd::rd_kafka_TopicCollection_destroy,
        )?;
        let options = Owned::new(
            rd::rd_kafka_AdminOptions_new(
                rk,
                rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            ),
            rd::rd_kafka_AdminOptions_destroy,
        )?;
        let mut text = [0 as c_char; 128];
        rd::rd_kafka_AdminOptions_set_request_timeout(
            options.ptr(),
            millis,
            text.as_mut_ptr(),
            text.len(),
        );
        let queue = Owned::new(rd::rd_kafka_queue_new(rk), rd::rd_kafka_queue_destroy)?;
        rd::rd_kafka_DescribeTopics(rk, topics.ptr(), options.ptr(), queue.ptr());
        let event = rd::rd_kafka_queue_poll(queue.ptr(), millis.saturating_add(500));
        if event.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        let event = Owned::new(event, rd::rd_kafka_event_destroy)?;
        let failed = rd::rd_kafka_event_error(event.ptr());
        if failed != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(failed.into()));
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event.ptr());
        if result.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let list = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut described = Vec::with_capacity(count);
        for n in 0..count {
            let topic = *list.add(n);
            let error = rd::rd_kafka_TopicDescription_error(topic);
            let code = rd::rd_kafka_error_code(error);
            match RDKafkaErrorCode::from(code) {
                RDKafkaErrorCode::NoError => {}
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                    continue;
                }
                code => return Err(KafkaError::AdminOp(code)),
            }
            let name = CStr::from_ptr(rd::rd_kafka_TopicDescription_name(topic));
            let id = rd::rd_kafka_TopicDescription_topic_id(topic);
            let mut partitions = 0;
            rd::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
            let id = if id.is_null() {
                0
            } else {
                let high = rd::rd_kafka_Uuid_most_significant_bits(id);
                (high ^ rd::rd_kafka_Uuid_least_significant_bits(id).rotate_left(32)) as u64
            };
            described.push(Described {
                name: name.to_string_lossy().into_owned(),
                id,
                partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
            });
        }
        Ok(described)
    }
}
