//! The topics and subscriptions with which clients and brokers talk to each other.

use fabric_core::{Group, Pattern};
use uuid::Uuid;

/// A publisher's last sequences.
pub(crate) const HEARTBEAT: &str = "_fabric.hb";
/// A marker, followed by the asker's number.
pub(crate) const SYNC: &str = "_fabric.sync.";
/// That every publisher tells all of its topics, followed by a number.
pub(crate) const LIST: &str = "_fabric.list.";
/// Requests, on their way to the broker.
pub(crate) const REQUEST: &str = "_fabric.req";
/// Requests, on their way to one responder, followed by its client's number and its own.
pub(crate) const DO: &str = "_fabric.do.";
/// Answers, followed by the client's number.
pub(crate) const REPLY: &str = "_reply.";
/// A responder registers.
pub(crate) const ANSWER: &str = "_fabric.answer/";
/// A subscriber that is itself a publisher.
pub(crate) const NODE: &str = "_fabric.node/";
/// That a broker passes on between brokers who answers what.
pub(crate) const LINK: &str = "_fabric.link";

/// The number at the end of a control topic.
pub(crate) fn number(topic: &[u8], prefix: &str) -> Option<Uuid> {
    let rest = topic.strip_prefix(prefix.as_bytes())?;
    Uuid::try_parse_ascii(rest).ok()
}

/// A prefix and a number behind it.
pub(crate) fn numbered(prefix: &str, number: Uuid) -> String {
    format!("{prefix}{number}")
}

/// The two numbers behind [`DO`].
pub(crate) fn addressee(topic: &[u8]) -> Option<(Uuid, Uuid)> {
    let rest = topic.strip_prefix(DO.as_bytes())?;
    let (client, responder) = (rest.get(..36)?, rest.get(37..)?);
    Some((Uuid::try_parse_ascii(client).ok()?, Uuid::try_parse_ascii(responder).ok()?))
}

/// A responder, as it registers by a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) client: Uuid,
    pub(crate) id: Uuid,
    pub(crate) name: Group,
    pub(crate) pattern: Pattern,
}

impl Registration {
    pub(crate) fn write(&self) -> String {
        format!("{ANSWER}{}/{}/{}/{}", self.client, self.id, self.name, self.pattern)
    }

    /// The topic on which it gets requests.
    pub(crate) fn address(&self) -> String {
        format!("{DO}{}.{}", self.client, self.id)
    }

    pub(crate) fn read(subscription: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(subscription).ok()?.strip_prefix(ANSWER)?;
        let mut parts = text.splitn(4, '/');
        let client = Uuid::try_parse(parts.next()?).ok()?;
        let id = Uuid::try_parse(parts.next()?).ok()?;
        let name = Group::new(parts.next()?).ok()?;
        let pattern = Pattern::new(parts.next()?).ok()?;
        Some(Self { client, id, name, pattern })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_comes_back() {
        let registration = Registration {
            client: Uuid::from_u128(6),
            id: Uuid::from_u128(7),
            name: Group::new("pricing").unwrap(),
            pattern: Pattern::new("quotes.#").unwrap(),
        };
        let text = registration.write();
        let (client, id) = addressee(registration.address().as_bytes()).unwrap();
        assert_eq!((client, id), (registration.client, registration.id));
        assert_eq!(addressee(b"_fabric.do.x"), None);
        assert_eq!(Registration::read(text.as_bytes()), Some(registration));
        for bad in ["", "_fabric.answer/", "_fabric.answer/x/y/z", "_fabric.answer/\u{0}"] {
            assert_eq!(Registration::read(bad.as_bytes()), None);
        }
    }

    #[test]
    fn a_number_comes_back() {
        let id = Uuid::from_u128(1 << 100);
        let topic = numbered(SYNC, id);
        assert_eq!(number(topic.as_bytes(), SYNC), Some(id));
        assert_eq!(number(b"_fabric.sync.nobody", SYNC), None);
        assert_eq!(number(b"orders", SYNC), None);
    }
}
