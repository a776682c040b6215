//! Whether a consumer has a name in its group: without one, some calls end the process.

use rdkafka::client::Client;
use rdkafka::consumer::ConsumerContext;
use rdkafka_sys::bindings as rd;

/// Whether the group has given the consumer a member id, which it has from its first join on until
/// the group forgets it. Asks the library's own thread.
pub(crate) fn has_joined<C: ConsumerContext>(client: &Client<C>) -> bool {
    let rk = client.native_ptr();
    // SAFETY: `rk` is the live client that `client` borrows. What comes back is null or a string that
    // ends with a zero byte and is ours; it is read once and freed by the library that made it.
    unsafe {
        let name = rd::rd_kafka_memberid(rk);
        if name.is_null() {
            return false;
        }
        let joined = *name != 0;
        rd::rd_kafka_mem_free(rk, name.cast());
        joined
    }
}
