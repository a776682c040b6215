//! The groups of a broker: made, joined, read, settled, redefined, and sent to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Waker;

use fabric_core::clock::Now;
use fabric_core::{
    Chunk, Error, ErrorKind, Event, Group, GroupDefinition, GroupInfo, Nack, Patterns, Priority,
    Settler, Start, SubscribeOptions, Topic, TopicLag, WhenFull,
};
use tokio::time::Instant;

use super::group::{GroupState, MemberFlags};
use super::stream::kept_size;
use super::{Broker, Polled, Reader, Result, Wakers};
use crate::bug::Bug;

/// A member of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    group: usize,
    pub(super) serial: u64,
    pub(super) index: usize,
}

impl Broker {
    /// Makes the group, or checks that it may be joined as `options` say.
    pub(crate) fn admit(
        &mut self,
        options: &SubscribeOptions,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<usize> {
        let Some(name) = options.durable_group().cloned() else {
            return Err(Error::new(ErrorKind::Config, "a durable group has a name"));
        };
        let lenient = self.has_bug(Bug::MismatchAccepted);
        if let Some(index) = self.by_group.get(&name).copied() {
            if let Some(state) = self.groups[index].as_mut() {
                if !lenient {
                    state.definition.admit(&name, options)?;
                }
                if let Some(policy) = options.when_full
                    && state.when_full != policy
                {
                    state.when_full = policy;
                    // What blocked before may be dropped now.
                    self.wake_publishers_of(Reader::Group(index), wakers);
                }
            }
            if options.redefine_group {
                self.redefine(&name, &options.patterns, wakers)?;
            }
            if self.has_bug(Bug::GroupForgetsPlace)
                && self.groups[index].as_ref().is_some_and(|state| state.members().count() == 0)
            {
                self.reset(&name, &Start::New, now, wakers)?;
            }
            return Ok(index);
        }
        let when_full = options.when_full.unwrap_or(self.config.when_full);
        self.define(&name, GroupDefinition::of(options), when_full, now, wakers)
    }

    pub(crate) fn define_group(
        &mut self,
        name: &Group,
        definition: GroupDefinition,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<()> {
        if let Some(state) = self.state(name) {
            if state.definition == definition {
                return Ok(());
            }
            return Err(Error::new(
                ErrorKind::GroupMismatch,
                format!(
                    "the group `{name}` exists as {:?}, not {definition:?}; redefine or delete it first",
                    state.definition
                ),
            ));
        }
        self.define(name, definition, self.config.when_full, now, wakers).map(drop)
    }

    fn define(
        &mut self,
        name: &Group,
        definition: GroupDefinition,
        when_full: WhenFull,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<usize> {
        let places = self.places(&definition.patterns, &definition.start, now)?;
        let patterns = definition.patterns.clone();
        let state = GroupState::new(name.clone(), definition, when_full, self.ticket());
        let index = self.groups.add(state);
        self.by_group.insert(name.clone(), index);
        for pattern in &patterns {
            self.patterns.insert(pattern, Reader::Group(index));
        }
        for (topic, from) in places {
            self.attach(Reader::Group(index), topic, from);
        }
        // Dead letters have a reader now that may let go of them.
        self.wake_publishers_of(Reader::Group(index), wakers);
        Ok(index)
    }

    pub(crate) fn join(
        &mut self,
        group: usize,
        client: u64,
        prefetch: Option<usize>,
        flags: Arc<MemberFlags>,
    ) -> Member {
        let prefetch = prefetch.unwrap_or(self.config.prefetch);
        match self.groups[group].as_mut() {
            Some(state) => {
                Member { group, serial: state.serial, index: state.join(client, prefetch, flags) }
            }
            None => Member { group, serial: 0, index: 0 },
        }
    }

    pub(crate) fn set_settler(&mut self, member: Member, settler: Arc<dyn Settler>) {
        if let Some(state) = self.of(member) {
            state.set_settler(member.index, settler);
        }
    }

    pub(crate) fn definition(&self, group: usize) -> Option<GroupDefinition> {
        self.groups[group].as_ref().map(|state| state.definition.clone())
    }

    fn of(&mut self, member: Member) -> Option<&mut GroupState> {
        self.groups.get_mut(member.group).filter(|state| state.serial == member.serial)
    }

    pub(super) fn state(&self, name: &Group) -> Option<&GroupState> {
        self.groups[*self.by_group.get(name)?].as_ref()
    }

    fn group_index(&self, name: &Group) -> Result<usize> {
        self.by_group.get(name).copied().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no group `{name}`"))
                .with("group", name)
        })
    }

    pub(crate) fn poll_group(
        &mut self,
        member: Member,
        now: Now,
        waker: &Waker,
        wakers: &mut Wakers,
    ) -> Polled {
        let state = self.groups.get_mut(member.group);
        match state.filter(|state| state.serial == member.serial) {
            Some(state) => {
                let polled = state.poll(
                    member.index,
                    &mut self.streams,
                    now.instant,
                    now.wall,
                    waker,
                    &mut self.timers,
                );
                if std::mem::take(&mut state.skipped) {
                    self.wake_publishers_of(Reader::Group(member.group), wakers);
                }
                polled
            }
            None => Polled::Gone(Error::new(ErrorKind::NotFound, "the group was deleted")),
        }
    }

    /// A chunk was settled, or somebody waits to hear of it.
    pub(crate) fn settled(&mut self, member: Member, chunk: &Chunk, wakers: &mut Wakers) {
        if self.has_bug(Bug::AckLost) {
            let mask = chunk.full_mask();
            if let Some(state) = self.groups.get_mut(member.group) {
                let now = Instant::now();
                state.nack(chunk, mask, &Nack::now(), now, &self.streams, &mut self.timers, wakers);
            }
            return;
        }
        let Some(state) = self.of(member) else { return };
        match state.settled(chunk, wakers) {
            Some(stream) => self.wake_publisher(stream, wakers),
            // Somebody saw that it was settled before we were told.
            None => self.wake_publishers_of(Reader::Group(member.group), wakers),
        }
    }

    pub(crate) fn nack(
        &mut self,
        member: Member,
        chunk: &Chunk,
        mask: u64,
        nack: &Nack,
        now: Now,
        wakers: &mut Wakers,
    ) {
        let state = self.groups.get_mut(member.group);
        if let Some(state) = state.filter(|state| state.serial == member.serial) {
            state.nack(chunk, mask, nack, now.instant, &self.streams, &mut self.timers, wakers);
        }
    }

    pub(crate) fn progress(&mut self, member: Member, chunk: &Chunk, mask: u64, now: Now) -> bool {
        if self.has_bug(Bug::ProgressIgnored) {
            return true;
        }
        self.of(member).is_some_and(|state| state.progress(chunk, mask, now.instant))
    }

    pub(crate) fn dropped(
        &mut self,
        member: Member,
        chunk: &Chunk,
        mask: u64,
        wakers: &mut Wakers,
    ) {
        let state = self.groups.get_mut(member.group);
        if let Some(state) = state.filter(|state| state.serial == member.serial) {
            state.dropped(chunk, mask, &self.streams, wakers);
        }
    }

    pub(crate) fn leave(&mut self, member: Member, wakers: &mut Wakers) {
        let state = self.groups.get_mut(member.group);
        if let Some(state) = state.filter(|state| state.serial == member.serial) {
            state.leave(member.index, &self.streams, wakers);
        }
    }

    pub(crate) fn redefine(
        &mut self,
        name: &Group,
        patterns: &Patterns,
        wakers: &mut Wakers,
    ) -> Result<()> {
        let index = self.group_index(name)?;
        let drops = self.has_bug(Bug::RedefineDropsBacklog);
        let Some(state) = self.groups[index].as_mut() else { return Ok(()) };
        let old = std::mem::replace(&mut state.definition.patterns, patterns.clone());
        for pattern in &old {
            self.patterns.remove(pattern, &Reader::Group(index));
        }
        for pattern in patterns {
            self.patterns.insert(pattern, Reader::Group(index));
        }
        let (were, are) = (self.matching(&old), self.matching(patterns));
        for at in were.iter().chain(&are).copied().collect::<BTreeSet<usize>>() {
            let (was, is) = (were.binary_search(&at).is_ok(), are.binary_search(&at).is_ok());
            let next = self.streams.peek(at).next();
            let Some(state) = self.groups[index].as_mut() else { continue };
            match (state.tracks.slot_of(at), was, is) {
                (Some(slot), true, false) => {
                    // What was queued is still delivered.
                    let track = &mut state.tracks.list[slot];
                    track.until = Some(next);
                    if drops {
                        track.cursor = next;
                    }
                }
                (Some(slot), false, true) => {
                    let track = &mut state.tracks.list[slot];
                    if let Some(until) = track.until.take() {
                        track.skip(until, next);
                        track.began = next;
                    }
                }
                (None, _, true) => self.attach(Reader::Group(index), at, next),
                _ => {}
            }
        }
        if let Some(state) = self.groups[index].as_mut() {
            state.wake(wakers);
        }
        Ok(())
    }

    pub(crate) fn reset(
        &mut self,
        name: &Group,
        start: &Start,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<()> {
        let index = self.group_index(name)?;
        let patterns = match self.state(name) {
            Some(state) => state.definition.patterns.clone(),
            None => return Ok(()),
        };
        let places = self.places(&patterns, start, now)?;
        let epoch = self.ticket();
        let Some(state) = self.groups[index].as_mut() else { return Ok(()) };
        state.forget(epoch);
        // What removed patterns had queued is gone as well, and so is the inbox.
        for (slot, track) in state.tracks.list.iter_mut().enumerate() {
            let next = self.streams.peek(track.stream).next();
            track.restart(next, (state.inbox != Some(slot)).then_some(next));
        }
        for (topic, from) in places {
            if let Some(state) = self.groups[index].as_mut()
                && let Some(slot) = state.tracks.slot_of(topic)
            {
                let first = self.streams.peek(topic).first();
                state.tracks.list[slot].restart(from.max(first), None);
                state.lagged += first.saturating_sub(from);
                state.tracks.make_ready(slot);
                state.survey(slot, self.streams.stream(topic));
            } else {
                self.attach(Reader::Group(index), topic, from);
            }
        }
        self.wake_publishers_of(Reader::Group(index), wakers);
        if let Some(state) = self.groups[index].as_mut() {
            state.wake(wakers);
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, name: &Group, wakers: &mut Wakers) -> Result<()> {
        let index = self.group_index(name)?;
        self.by_group.remove(name);
        let Some(mut state) = self.groups.take(index) else { return Ok(()) };
        state.forget(self.ticket());
        state.wake(wakers);
        for pattern in &state.definition.patterns {
            self.patterns.remove(pattern, &Reader::Group(index));
        }
        for track in &state.tracks.list {
            self.readers[track.stream].groups.retain(|(known, _)| *known != index);
            self.wake_publisher(track.stream, wakers);
        }
        if let Some(inbox) = state.inbox {
            let inbox = state.tracks.list[inbox].stream;
            self.streams.drop_before(inbox, u64::MAX);
            self.free_streams.push(inbox);
        }
        Ok(())
    }

    pub(crate) fn group_names(&self) -> Vec<Group> {
        let mut names: Vec<Group> = self.by_group.keys().cloned().collect();
        names.sort();
        names
    }

    pub(crate) fn group_info(&self, name: &Group) -> Result<GroupInfo> {
        let index = self.group_index(name)?;
        let Some(state) = &self.groups[index] else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no group `{name}`")));
        };
        let mut lag: Vec<TopicLag> = (0..state.tracks.list.len())
            .map(|slot| {
                let stream = self.streams.peek(state.tracks.list[slot].stream);
                let (undelivered, pending) = state.lag_of(slot, stream);
                TopicLag::new(stream.topic.clone(), undelivered, pending)
            })
            .filter(|lag| {
                !lag.topic.as_str().starts_with("_fabric.") || lag.undelivered + lag.pending > 0
            })
            .collect();
        lag.sort_by(|a, b| a.topic.cmp(&b.topic));
        let members = state.members().count() as u64;
        Ok(GroupInfo::new(name.clone(), state.definition.clone(), members, lag))
    }

    /// The index of a group's inbox, made with its first event.
    pub(crate) fn inbox(&mut self, name: &Group) -> Result<usize> {
        let index = self.group_index(name)?;
        if let Some(state) = &self.groups[index]
            && let Some(slot) = state.inbox
        {
            return Ok(state.tracks.list[slot].stream);
        }
        let topic = Topic::new(format!("_fabric.to.{name}"))?;
        let stream = self.new_stream(topic);
        if let Some(state) = self.groups[index].as_mut() {
            let slot = state.tracks.add(stream, 0);
            state.inbox = Some(slot);
            self.readers[stream].groups.push((index, slot));
        }
        if self.has_bug(Bug::InboxLeaks) {
            for other in 0..self.groups.len() {
                if other != index {
                    self.attach(Reader::Group(other), stream, 0);
                }
            }
        }
        Ok(stream)
    }

    /// Puts an event for which there is room into a group's inbox.
    #[expect(clippy::too_many_arguments, reason = "what a delivery to one group consists of")]
    pub(crate) fn send(
        &mut self,
        name: &Group,
        inbox: usize,
        event: Event,
        at: Option<Instant>,
        attempt: u32,
        now: Now,
        wakers: &mut Wakers,
    ) {
        let (bytes, priority) = (kept_size(&event), event.priority());
        let number = self.streams.stream(inbox).push(event, bytes, now.wall);
        let leaks = self.has_bug(Bug::InboxLeaks);
        if let Ok(index) = self.group_index(name)
            && let Some(state) = self.groups[index].as_mut()
            && let Some(slot) = state.inbox
        {
            // It is not read in turn but held with its own attempt number and time.
            state.tracks.list[slot].cursor = number + 1;
            let attempts = attempt.saturating_sub(1);
            state.put(slot, number, priority, attempts, at, &mut self.timers);
            state.wake(wakers);
        }
        if leaks {
            self.announce(inbox, number, Priority::Normal, wakers);
        }
    }
}
