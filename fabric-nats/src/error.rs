//! What went wrong, in the words of Fabric: one place for everything that the server and its client
//! library say.

use async_nats::{ConnectError, ConnectErrorKind, PublishErrorKind, RequestErrorKind, ServerError};
use fabric_core::{Error, ErrorKind, RetryClass};
use serde::Deserialize;

/// What JetStream answers where it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) err_code: u32,
    #[serde(default)]
    pub(crate) description: String,
}

/// Codes of JetStream that mean something here.
pub(crate) mod code {
    pub(crate) const NOT_AVAILABLE: u32 = 10_008;
    pub(crate) const CONSUMER_NOT_FOUND: u32 = 10_014;
    pub(crate) const CONSUMER_NAME_EXISTS: u32 = 10_013;
    pub(crate) const NO_MESSAGE: u32 = 10_037;
    pub(crate) const NOT_ENABLED_FOR_ACCOUNT: u32 = 10_039;
    pub(crate) const SEQUENCE_NOT_FOUND: u32 = 10_043;
    pub(crate) const INSUFFICIENT: u32 = 10_023;
    pub(crate) const STORAGE_EXCEEDED: u32 = 10_047;
    pub(crate) const MEMORY_EXCEEDED: u32 = 10_028;
    pub(crate) const ACCOUNT_EXCEEDED: u32 = 10_002;
    pub(crate) const INVALID_STREAM: u32 = 10_052;
    pub(crate) const MESSAGE_TOO_LARGE: u32 = 10_054;
    pub(crate) const STREAM_NAME_EXISTS: u32 = 10_058;
    pub(crate) const STREAM_NOT_FOUND: u32 = 10_059;
    pub(crate) const SUBJECT_OVERLAP: u32 = 10_065;
    pub(crate) const WRONG_LAST: u32 = 10_071;
    pub(crate) const NOT_ENABLED: u32 = 10_076;
    pub(crate) const STORE_FAILED: u32 = 10_077;
    pub(crate) const HEADERS_TOO_LARGE: u32 = 10_097;
    pub(crate) const CONSUMER_EXISTS: u32 = 10_148;
    pub(crate) const CONSUMER_MISSING: u32 = 10_149;
    pub(crate) const WRONG_LAST_CONSTANT: u32 = 10_164;
    pub(crate) const TTL_INVALID: u32 = 10_165;
    pub(crate) const TTL_DISABLED: u32 = 10_166;
    pub(crate) const TOO_MANY_REQUESTS: u32 = 10_167;
    pub(crate) const SCHEDULES_DISABLED: u32 = 10_188;
}

/// Everything that can go wrong with a server or its client library.
#[derive(Debug)]
pub(crate) enum Failure<'a> {
    /// No connection came about.
    Connect(&'a ConnectError),
    /// A request was not answered.
    Request(RequestErrorKind),
    /// Something could not be handed over to the connection.
    Publish(PublishErrorKind),
    /// JetStream refused.
    Api(&'a ApiError),
    /// The server complained on the connection itself.
    Server(&'a ServerError),
}

/// The one mapping of failures.
pub(crate) fn from(failure: &Failure<'_>) -> Error {
    match failure {
        Failure::Connect(error) => connect(error),
        Failure::Request(kind) => request(*kind),
        Failure::Publish(kind) => publish(*kind),
        Failure::Api(error) => api(error),
        Failure::Server(error) => server(error),
    }
    .with_backend("nats")
}

/// There is no connection now.
pub(crate) fn disconnected() -> Error {
    Error::new(ErrorKind::Connect, "there is no connection to the server; it is being restored")
        .with_backend("nats")
}

/// The fabric is closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "this fabric is closed; connect again").with_backend("nats")
}

fn connect(error: &ConnectError) -> Error {
    use ConnectErrorKind as K;
    let refused = chain(error);
    let (kind, text) = match error.kind() {
        K::ServerParse => (ErrorKind::Config, "a server's address cannot be read"),
        K::Dns => (ErrorKind::Connect, "the server's name cannot be resolved"),
        K::Authentication => {
            (ErrorKind::Unauthorized, "the credentials cannot be read or do not sign")
        }
        K::AuthorizationViolation => {
            (ErrorKind::Unauthorized, "the server refuses the credentials")
        }
        K::TimedOut => (ErrorKind::Connect, "the server does not answer"),
        // A server that wants a certificate, and gets none, ends the connection.
        K::Tls => (ErrorKind::Connect, "no TLS connection comes about; see the certificates"),
        K::Io if refused.contains("authorization") || refused.contains("authentication") => {
            (ErrorKind::Unauthorized, "the server refuses the credentials")
        }
        K::Io if refused.contains("certificate") || refused.contains("tls") => {
            (ErrorKind::Connect, "no TLS connection comes about; see the certificates")
        }
        K::Io => (ErrorKind::Connect, "the server cannot be reached"),
        K::MaxReconnects => (ErrorKind::Connect, "the connection is gone"),
    };
    let retry = match kind {
        ErrorKind::Connect => RetryClass::Safe,
        _ => RetryClass::Never,
    };
    Error::new(kind, text).with_retry(retry).with("why", refused)
}

/// The whole chain of causes in lower case.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.to_lowercase()
}

fn request(kind: RequestErrorKind) -> Error {
    use RequestErrorKind as K;
    match kind {
        K::TimedOut => Error::new(ErrorKind::Timeout, "the server did not answer in time"),
        K::NoResponders => Error::new(
            ErrorKind::NoResponders,
            "nobody on the server answers this: JetStream is not enabled there, or not ready yet",
        )
        .with_retry(RetryClass::Safe),
        K::InvalidSubject => Error::new(ErrorKind::InvalidTopic, "the subject is not valid"),
        K::MaxPayloadExceeded => too_large(),
        // The connection's end answers what waited for it.
        _ => Error::new(ErrorKind::Connect, "the connection broke before the answer came")
            .with_retry(RetryClass::Ambiguous),
    }
}

fn publish(kind: PublishErrorKind) -> Error {
    match kind {
        PublishErrorKind::MaxPayloadExceeded => too_large(),
        PublishErrorKind::InvalidSubject => {
            Error::new(ErrorKind::InvalidTopic, "the subject is not valid")
        }
        PublishErrorKind::Send => disconnected(),
    }
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::TooLarge,
        "headers and payload together are larger than the server's `max_payload`",
    )
}

fn api(error: &ApiError) -> Error {
    let ApiError { code, err_code, description } = error;
    let (kind, retry, text) = match *err_code {
        code::NOT_ENABLED | code::NOT_ENABLED_FOR_ACCOUNT => (
            ErrorKind::Unsupported,
            RetryClass::Never,
            "JetStream is not enabled there; enable it, or connect with `mode=core`",
        ),
        code::STREAM_NOT_FOUND => {
            (ErrorKind::NotFound, RetryClass::Never, "the stream does not exist")
        }
        code::CONSUMER_NOT_FOUND | code::CONSUMER_MISSING => {
            (ErrorKind::NotFound, RetryClass::Never, "the consumer does not exist")
        }
        code::NO_MESSAGE | code::SEQUENCE_NOT_FOUND => {
            (ErrorKind::NotFound, RetryClass::Never, "nothing lies there")
        }
        code::CONSUMER_EXISTS | code::CONSUMER_NAME_EXISTS => {
            (ErrorKind::AlreadyExists, RetryClass::Never, "the consumer exists with other settings")
        }
        code::STREAM_NAME_EXISTS => (
            ErrorKind::AlreadyExists,
            RetryClass::Never,
            "the stream exists with other settings; use them, or connect with `alter=true`",
        ),
        code::INVALID_STREAM => (
            ErrorKind::Config,
            RetryClass::Never,
            "the server refuses these settings of the stream",
        ),
        code::SUBJECT_OVERLAP => (
            ErrorKind::AlreadyExists,
            RetryClass::Never,
            "another stream keeps these subjects; choose another `prefix`, or list it in `streams`",
        ),
        code::WRONG_LAST | code::WRONG_LAST_CONSTANT => (
            ErrorKind::AlreadyExists,
            RetryClass::Never,
            "the topic's last event is another than the one expected; read on and decide again",
        ),
        code::MESSAGE_TOO_LARGE | code::HEADERS_TOO_LARGE => {
            (ErrorKind::TooLarge, RetryClass::Never, "the event is larger than the stream takes")
        }
        code::STORE_FAILED
        | code::INSUFFICIENT
        | code::STORAGE_EXCEEDED
        | code::MEMORY_EXCEEDED
        | code::ACCOUNT_EXCEEDED => {
            (ErrorKind::Full, RetryClass::Safe, "the stream is full, or its storage is")
        }
        code::TTL_DISABLED | code::TTL_INVALID => (
            ErrorKind::Unsupported,
            RetryClass::Never,
            "the stream takes no time to live; set its `allow_msg_ttl`",
        ),
        code::SCHEDULES_DISABLED => (
            ErrorKind::Unsupported,
            RetryClass::Never,
            "the stream takes no delayed events; set its `allow_msg_schedules`",
        ),
        code::NOT_AVAILABLE | code::TOO_MANY_REQUESTS => {
            (ErrorKind::Connect, RetryClass::Safe, "JetStream is not available just now")
        }
        _ if *code == 503 => {
            (ErrorKind::Connect, RetryClass::Safe, "JetStream is not available just now")
        }
        _ if *code == 404 => (ErrorKind::NotFound, RetryClass::Never, "it does not exist"),
        _ if *code == 400 => (ErrorKind::Backend, RetryClass::Never, "JetStream refuses it"),
        _ => (ErrorKind::Backend, RetryClass::Ambiguous, "JetStream failed"),
    };
    Error::new(kind, text).with_retry(retry).with("said", format!("{description} ({err_code})"))
}

fn server(error: &ServerError) -> Error {
    let said = match error {
        ServerError::AuthorizationViolation => "authorization violation".to_owned(),
        ServerError::SlowConsumer(sid) => format!("slow consumer {sid}"),
        ServerError::Other(said) => said.clone(),
    };
    let text = said.to_lowercase();
    if let Some(subject) = denied(&said) {
        return Error::new(
            ErrorKind::Unauthorized,
            format!("the user lacks the right to `{subject}`; docs/nats.md lists the rights"),
        );
    }
    let unauthorized = ["authorization", "authentication", "permissions", "revoked", "expired"];
    if unauthorized.iter().any(|word| text.contains(word)) {
        return Error::new(ErrorKind::Unauthorized, "the server ended the connection")
            .with("said", said);
    }
    Error::new(ErrorKind::Backend, "the server complains").with("said", said)
}

/// The subject of `Permissions Violation for Publish to "fabric.a"`.
pub(crate) fn denied(said: &str) -> Option<&str> {
    let lower = said.to_ascii_lowercase();
    let at = lower.find("permissions violation for")?;
    said[at..].split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api_error(code: u16, err_code: u32) -> Error {
        let description = "said so".to_owned();
        from(&Failure::Api(&ApiError { code, err_code, description }))
    }

    #[test]
    fn every_answer_of_the_server_has_a_kind_and_says_whether_to_retry() {
        use ErrorKind as K;
        use RetryClass::{Ambiguous, Never, Safe};
        let table = [
            (503, code::NOT_ENABLED, K::Unsupported, Never),
            (404, code::STREAM_NOT_FOUND, K::NotFound, Never),
            (404, code::CONSUMER_NOT_FOUND, K::NotFound, Never),
            (400, code::CONSUMER_EXISTS, K::AlreadyExists, Never),
            (400, code::STREAM_NAME_EXISTS, K::AlreadyExists, Never),
            (400, code::SUBJECT_OVERLAP, K::AlreadyExists, Never),
            (500, code::INVALID_STREAM, K::Config, Never),
            (400, code::WRONG_LAST, K::AlreadyExists, Never),
            (400, code::MESSAGE_TOO_LARGE, K::TooLarge, Never),
            (503, code::STORE_FAILED, K::Full, Safe),
            (400, code::TTL_DISABLED, K::Unsupported, Never),
            (503, code::NOT_AVAILABLE, K::Connect, Safe),
            (503, 19_999, K::Connect, Safe),
            (404, 19_999, K::NotFound, Never),
            (400, 19_999, K::Backend, Never),
            (500, 19_999, K::Backend, Ambiguous),
        ];
        for (code, err_code, kind, retry) in table {
            let error = api_error(code, err_code);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
            assert!(error.to_string().contains("said so"), "{error}");
        }
        let table = [
            (RequestErrorKind::TimedOut, K::Timeout, Ambiguous),
            (RequestErrorKind::NoResponders, K::NoResponders, Safe),
            (RequestErrorKind::Other, K::Connect, Ambiguous),
            (RequestErrorKind::MaxPayloadExceeded, K::TooLarge, Never),
        ];
        for (failure, kind, retry) in table {
            let error = from(&Failure::Request(failure));
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
        }
        let error = from(&Failure::Publish(PublishErrorKind::Send));
        assert_eq!((error.kind(), error.retry()), (K::Connect, Safe));
    }

    #[test]
    fn a_missing_right_is_named() {
        let said = r#"Permissions Violation for Publish to "fabric.a""#;
        assert_eq!(denied(said), Some("fabric.a"));
        assert_eq!(denied("Stale Connection"), None);
        let error = from(&Failure::Server(&ServerError::Other(said.to_owned())));
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.to_string().contains("`fabric.a`"), "{error}");
        for (said, kind) in [
            ("User Authentication Revoked", ErrorKind::Unauthorized),
            ("Maximum Connections Exceeded", ErrorKind::Backend),
        ] {
            assert_eq!(from(&Failure::Server(&ServerError::Other(said.to_owned()))).kind(), kind);
        }
    }

    #[test]
    fn a_connection_that_does_not_come_about_says_why() {
        use ConnectErrorKind as K;
        let io = |text: &str| ConnectError::with_source(K::Io, std::io::Error::other(text));
        let table = [
            (ConnectError::new(K::AuthorizationViolation), ErrorKind::Unauthorized),
            (ConnectError::new(K::TimedOut), ErrorKind::Connect),
            (io("Connection refused"), ErrorKind::Connect),
            (io("User Authentication Expired"), ErrorKind::Unauthorized),
            (io("invalid peer certificate: UnknownIssuer"), ErrorKind::Connect),
        ];
        for (error, kind) in table {
            let mapped = from(&Failure::Connect(&error));
            assert_eq!(mapped.kind(), kind, "{mapped}");
            let safe =
                if kind == ErrorKind::Connect { RetryClass::Safe } else { RetryClass::Never };
            assert_eq!(mapped.retry(), safe);
        }
    }
}
