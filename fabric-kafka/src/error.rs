//! One mapping of the client library's errors onto ours.

use fabric_core::{Error, ErrorKind, RetryClass};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// The name of this backend in errors.
pub(crate) const NAME: &str = "kafka";

/// An error of the client library as one of ours.
pub(crate) fn from_kafka(error: &KafkaError) -> Error {
    let mapped = match error {
        KafkaError::ClientConfig(_, text, key, value) => {
            let value = if is_secret(key) { "***" } else { value };
            Error::new(ErrorKind::Config, format!("`{key}` cannot be `{value}`: {text}"))
        }
        KafkaError::ClientCreation(text) => {
            Error::new(ErrorKind::Config, format!("the client cannot be made: {text}"))
        }
        KafkaError::Canceled => Error::new(ErrorKind::Closed, "the client was closed meanwhile"),
        KafkaError::AdminOp(code) => return from_code(*code),
        KafkaError::Nul(_) => Error::new(ErrorKind::InvalidTopic, "a name holds a NUL byte"),
        other => match other.rdkafka_error_code() {
            Some(code) => return from_code(code),
            None => Error::new(ErrorKind::Backend, "the client library failed"),
        },
    };
    mapped.with_backend(NAME).with_source(error.clone())
}

/// An error code of the broker or of the client library.
pub(crate) fn from_code(code: Code) -> Error {
    let (kind, text) = describe(code);
    let error = Error::new(kind, text).with_backend(NAME).with("code", format_args!("{code:?}"));
    match code {
        Code::NotEnoughReplicas => error.with_retry(RetryClass::Safe),
        _ => error,
    }
}

fn describe(code: Code) -> (ErrorKind, &'static str) {
    use ErrorKind as Kind;
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            (Kind::Unauthorized, "the broker refused the credentials; check user and password")
        }
        Code::UnsupportedSASLMechanism | Code::IllegalSASLState => (
            Kind::Unauthorized,
            "the broker does not take this way to authenticate; set `sasl` as the broker has it",
        ),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => {
            (Kind::Unauthorized, "the user lacks the right to do this; see the page for its list")
        }
        Code::SSL => (Kind::Connect, "TLS failed; check `ca` and the broker's certificate"),
        Code::BrokerTransportFailure
        | Code::Resolve
        | Code::AllBrokersDown
        | Code::BrokerNotAvailable
        | Code::NetworkException
        | Code::WaitingForCoordinator
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NotController
        | Code::BrokerDestroy
        | Code::DestroyBroker => (Kind::Connect, "no broker answers that could do this now"),
        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut => (Kind::Timeout, "the broker did not answer in time"),
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId => {
            (Kind::NotFound, "the topic or the partition does not exist; create it first")
        }
        Code::GroupIdNotFound | Code::UnknownGroup => (Kind::NotFound, "there is no such group"),
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            (Kind::TooLarge, "the event is larger than the topic takes; raise `max.message.bytes`")
        }
        Code::QueueFull => (Kind::Full, "the queue of unconfirmed events is full"),
        Code::UnknownMemberId
        | Code::IllegalGeneration
        | Code::RebalanceInProgress
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::AssignmentLost => {
            (Kind::StaleAck, "the partition belongs to another member by now")
        }
        Code::InconsistentGroupProtocol | Code::UnsupportedAssignor => (
            Kind::GroupMismatch,
            "consumers of another kind use this group id on the broker; use another group name or \
             a `prefix`",
        ),
        Code::TopicAlreadyExists => (Kind::AlreadyExists, "the topic exists already"),
        Code::InvalidTopic => {
            (Kind::InvalidTopic, "the broker does not take this name, or it folds with another's")
        }
        Code::InvalidConfig
        | Code::InvalidArgument
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::InvalidSessionTimeout
        | Code::PolicyViolation => {
            (Kind::Config, "the broker refuses a setting; compare it with the broker's own")
        }
        Code::PurgeQueue | Code::PurgeInflight => {
            (Kind::Closed, "the fabric was closed before the broker confirmed it")
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::NotImplemented => {
            (Kind::Unsupported, "the broker or the client library is too old for this")
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            (Kind::Backend, "too few replicas are in sync to keep it")
        }
        Code::InvalidRecord | Code::InvalidTimestamp | Code::InvalidMessage => {
            (Kind::InvalidEvent, "the broker does not take this record")
        }
        _ => (Kind::Backend, "the broker or the client library failed"),
    }
}

/// Whether the value of a setting must not be shown.
pub(crate) fn is_secret(key: &str) -> bool {
    key.contains("password") || key.contains("secret") || key == "ssl.key.pem"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_a_user_can_meet_has_its_kind() {
        let table = [
            (Code::SaslAuthenticationFailed, ErrorKind::Unauthorized, RetryClass::Never),
            (Code::TopicAuthorizationFailed, ErrorKind::Unauthorized, RetryClass::Never),
            (Code::SSL, ErrorKind::Connect, RetryClass::Safe),
            (Code::AllBrokersDown, ErrorKind::Connect, RetryClass::Safe),
            (Code::MessageTimedOut, ErrorKind::Timeout, RetryClass::Ambiguous),
            (Code::UnknownTopicOrPartition, ErrorKind::NotFound, RetryClass::Never),
            (Code::MessageSizeTooLarge, ErrorKind::TooLarge, RetryClass::Never),
            (Code::QueueFull, ErrorKind::Full, RetryClass::Safe),
            (Code::IllegalGeneration, ErrorKind::StaleAck, RetryClass::Never),
            (Code::InconsistentGroupProtocol, ErrorKind::GroupMismatch, RetryClass::Never),
            (Code::TopicAlreadyExists, ErrorKind::AlreadyExists, RetryClass::Never),
            (Code::InvalidTopic, ErrorKind::InvalidTopic, RetryClass::Never),
            (Code::InvalidReplicationFactor, ErrorKind::Config, RetryClass::Never),
            (Code::PurgeQueue, ErrorKind::Closed, RetryClass::Never),
            (Code::UnsupportedVersion, ErrorKind::Unsupported, RetryClass::Never),
            (Code::NotEnoughReplicas, ErrorKind::Backend, RetryClass::Safe),
            (Code::NotEnoughReplicasAfterAppend, ErrorKind::Backend, RetryClass::Ambiguous),
            (Code::InvalidRecord, ErrorKind::InvalidEvent, RetryClass::Never),
            (Code::Unknown, ErrorKind::Backend, RetryClass::Ambiguous),
        ];
        for (code, kind, retry) in table {
            let error = from_code(code);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{code:?}");
            assert_eq!(error.backend(), Some("kafka"));
        }
    }

    #[test]
    fn secrets_are_not_in_errors() {
        let result = rdkafka_sys::RDKafkaConfRes::RD_KAFKA_CONF_INVALID;
        let refused = |key: &str| {
            let (text, value) = ("no".to_owned(), "hunter2".to_owned());
            from_kafka(&KafkaError::ClientConfig(result, text, key.to_owned(), value)).to_string()
        };
        assert!(!refused("sasl.password").contains("hunter2"));
        assert!(refused("client.rack").contains("hunter2"));
    }
}
