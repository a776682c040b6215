//! A layer that takes abilities away.

use std::sync::Arc;

use fabric_core::{
    Ability, Backend, Capabilities, DynAdmin, DynGroups, DynReplay, DynRequestReply, Layer, Result,
    SharedBackend, forward,
};

/// Takes these abilities away, and what rests on them.
pub(crate) fn without(abilities: Vec<Ability>) -> impl Layer {
    move |inner: SharedBackend| -> Result<SharedBackend> {
        Ok(Arc::new(Without::new(inner, abilities.clone())))
    }
}

/// What rests on what: without the base there is nothing of the rest.
const BASES: &[(Ability, &[Ability])] = &[
    (
        Ability::Groups,
        &[
            Ability::Nack,
            Ability::Lease,
            Ability::Attempts,
            Ability::DeadLetters,
            Ability::AckConfirmed,
            Ability::GroupDefine,
            Ability::GroupRedefine,
            Ability::GroupReset,
            Ability::GroupDelete,
            Ability::GroupList,
            Ability::GroupInfo,
            Ability::GroupSend,
        ],
    ),
    (Ability::Nack, &[Ability::NackDelay]),
    (Ability::Lease, &[Ability::Extend]),
    (Ability::Persist, &[Ability::Replay, Ability::StartAll, Ability::Durable]),
    (Ability::RequestReply, &[Ability::NoResponders]),
    (Ability::OrderKey, &[Ability::OrderKeyAcrossMembers]),
];

const OF_GROUPS: &[Ability] = &[
    Ability::GroupDefine,
    Ability::GroupRedefine,
    Ability::GroupReset,
    Ability::GroupDelete,
    Ability::GroupList,
    Ability::GroupInfo,
    Ability::GroupSend,
];

const OF_TOPICS: &[Ability] =
    &[Ability::TopicList, Ability::TopicInfo, Ability::Purge, Ability::Trim];

/// A stack that lacks some abilities of the one below.
#[derive(Debug)]
struct Without {
    inner: SharedBackend,
    lacks: Vec<Ability>,
}

impl Without {
    fn new(inner: SharedBackend, mut lacks: Vec<Ability>) -> Self {
        let mut next = 0;
        while let Some(base) = lacks.get(next).copied() {
            let rests = BASES.iter().filter(|(known, _)| *known == base);
            lacks.extend(rests.flat_map(|(_, rests)| *rests));
            next += 1;
        }
        Self { inner, lacks }
    }

    fn can_any(&self, abilities: &[Ability]) -> bool {
        abilities.iter().any(|ability| Backend::capabilities(self).can(*ability))
    }
}

impl Backend for Without {
    fn capabilities(&self) -> Capabilities {
        let without = |caps: Capabilities, ability: &Ability| caps.without(*ability);
        self.lacks.iter().fold(self.inner.capabilities(), without)
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        self.inner.replay().filter(|_| self.can_any(&[Ability::Replay]))
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        self.inner.request_reply().filter(|_| self.can_any(&[Ability::RequestReply]))
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().filter(|_| self.can_any(OF_GROUPS))
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        self.inner.admin().filter(|_| self.can_any(OF_TOPICS))
    }

    forward!(self.inner: info, notices, try_submit, submit, subscribe, health, close);
}
