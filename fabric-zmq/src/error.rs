//! How what libzmq answers becomes an error of Fabric.

use fabric_core::{Error, ErrorKind, RetryClass};

/// The error for an answer of libzmq during `what`.
pub(crate) fn from_zmq(error: zmq::Error, what: &str) -> Error {
    use zmq::Error as Z;
    let (kind, hint) = match error {
        Z::EADDRINUSE => (
            ErrorKind::AlreadyExists,
            "; somebody listens there already, perhaps another broker: choose another port",
        ),
        Z::EADDRNOTAVAIL => (ErrorKind::Config, "; no interface of this machine has this address"),
        Z::EACCES => (ErrorKind::Unauthorized, "; this user may not listen there"),
        Z::ENODEV | Z::EINVAL | Z::EPROTONOSUPPORT | Z::ENOCOMPATPROTO => {
            (ErrorKind::Config, "; an endpoint is `tcp://host:port` or `ipc:///path`")
        }
        Z::ENOTSUP => (ErrorKind::Unsupported, "; this libzmq was built without it"),
        Z::ETERM | Z::ENOTSOCK => (ErrorKind::Closed, ""),
        Z::EAGAIN => (ErrorKind::Full, "; the queue is at its bound"),
        Z::EHOSTUNREACH | Z::ECONNREFUSED | Z::ENETDOWN => (ErrorKind::Connect, ""),
        Z::EMFILE => (ErrorKind::Backend, "; the process has too many sockets open"),
        Z::EMSGSIZE => (ErrorKind::TooLarge, ""),
        _ => (ErrorKind::Backend, ""),
    };
    Error::new(kind, format!("{what}: {error}{hint}")).with_backend("zmq")
}

/// Refuses a configuration.
pub(crate) fn config(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, text).with_backend("zmq")
}

/// The client is closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "this fabric is closed").with_backend("zmq")
}

/// Nothing was taken, and the wait is over.
pub(crate) fn full(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Full, text).with_backend("zmq").with_retry(RetryClass::Safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_libzmq_has_its_kind() {
        use zmq::Error as Z;
        let table = [
            (Z::EADDRINUSE, ErrorKind::AlreadyExists),
            (Z::EADDRNOTAVAIL, ErrorKind::Config),
            (Z::EACCES, ErrorKind::Unauthorized),
            (Z::ENODEV, ErrorKind::Config),
            (Z::EINVAL, ErrorKind::Config),
            (Z::EPROTONOSUPPORT, ErrorKind::Config),
            (Z::ENOCOMPATPROTO, ErrorKind::Config),
            (Z::ENOTSUP, ErrorKind::Unsupported),
            (Z::ETERM, ErrorKind::Closed),
            (Z::ENOTSOCK, ErrorKind::Closed),
            (Z::EAGAIN, ErrorKind::Full),
            (Z::EHOSTUNREACH, ErrorKind::Connect),
            (Z::ECONNREFUSED, ErrorKind::Connect),
            (Z::ENETDOWN, ErrorKind::Connect),
            (Z::EMFILE, ErrorKind::Backend),
            (Z::EMSGSIZE, ErrorKind::TooLarge),
            (Z::EFSM, ErrorKind::Backend),
        ];
        for (answer, kind) in table {
            let error = from_zmq(answer, "listening on tcp://*:5555");
            assert_eq!(error.kind(), kind, "{answer:?}");
            assert!(error.to_string().contains("tcp://*:5555"));
        }
    }
}
