//! What OpenTelemetry calls each messaging system and what is done with it.

/// One messaging system's name and its words for what is done with it.
/// Source: OpenTelemetry semantic conventions for messaging, 1.44. NATS, Redis, ZeroMQ, UCX and
/// memory have none of their own there; theirs are the words of their clients.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) name: String,
    pub(crate) send: &'static str,
    pub(crate) process: &'static str,
    pub(crate) ack: &'static str,
    pub(crate) nack: &'static str,
    pub(crate) reject: &'static str,
}

impl System {
    /// The system that a backend of this name talks to.
    pub(crate) fn of(backend: &str) -> Self {
        let (name, [send, process, ack, nack, reject]) = match backend {
            "amqp" | "rabbitmq" => ("rabbitmq", ["publish", "consume", "ack", "nack", "reject"]),
            "kafka" => ("kafka", ["send", "process", "commit", "commit", "commit"]),
            "nats" => ("nats", ["publish", "process", "ack", "nak", "term"]),
            "redis" => ("redis", ["xadd", "process", "xack", "nack", "xack"]),
            "zmq" | "zeromq" => ("zeromq", ["send", "process", "ack", "nack", "reject"]),
            "ucx" => ("ucx", ["send", "process", "ack", "nack", "reject"]),
            other => (other, ["publish", "process", "ack", "nack", "reject"]),
        };
        Self { name: name.to_owned(), send, process, ack, nack, reject }
    }
}
