//! Groups: a durable consumer in each stream that one reads, and its definition in the metadata of the
//! one in the home stream.

use std::collections::BTreeMap;
use std::time::Duration;

use fabric_core::{
    Cursor, Error, ErrorKind, Group, GroupDefinition, NoticeKind, Patterns, Position, Result,
    Start, SubscribeOptions, Timestamp, Topic,
};
use serde::{Deserialize, Serialize};

use crate::api::{Action, ConsumerConfig, ConsumerInfo};
use crate::connection::Epoch;
use crate::hub::Hub;
use crate::layout::{Filter, maximal};
use crate::member::Member;

/// The version of what is written into metadata.
const VERSION: &str = "1";
const KEY_VERSION: &str = "fabric.v";
const KEY_DEFINITION: &str = "fabric.group";
const KEY_CHANGES: &str = "fabric.changes";

/// How often it is looked whether a group that is gone comes back, and how long in between.
const RETURNS: usize = 5;
const RETURN: Duration = Duration::from_millis(200);

/// Patterns that held up to a place in each stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    patterns: Patterns,
    until: BTreeMap<String, u64>,
}

/// A group as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) definition: GroupDefinition,
    changes: Vec<Change>,
    pub(crate) created: Timestamp,
    pub(crate) info: ConsumerInfo,
}

/// Which events of those that the server hands out a group wants.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    patterns: Patterns,
    changes: Vec<Change>,
    after: Option<Cursor>,
}

/// A group that was joined.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) definition: GroupDefinition,
    pub(crate) selection: Selection,
    pub(crate) parts: Vec<Filter>,
    /// When the group was made, and in which life of its home.
    pub(crate) created: Timestamp,
    pub(crate) life: u64,
}

impl Joined {
    /// The streams that it reads, its home first.
    pub(crate) fn streams(&self) -> Vec<usize> {
        self.parts.iter().map(|part| part.stream).collect()
    }
}

impl Selection {
    /// All that matches, after the places in a cursor.
    pub(crate) fn new(patterns: Patterns, start: Option<&Start>) -> Self {
        let after = match start {
            Some(Start::Resume(cursor)) => Some(cursor.clone()),
            _ => None,
        };
        Self { patterns, changes: Vec::new(), after }
    }

    /// The patterns, where nothing else has a say.
    pub(crate) fn always(&self) -> Option<&Patterns> {
        (self.changes.is_empty() && self.after.is_none()).then_some(&self.patterns)
    }

    /// Whether it wants the event at this place.
    pub(crate) fn wants(&self, topic: &Topic, stream: &str, life: u64, stored: u64) -> bool {
        let held = self
            .changes
            .iter()
            .find(|change| change.until.get(stream).is_some_and(|until| stored <= *until));
        let patterns = held.map_or(&self.patterns, |change| &change.patterns);
        if !patterns.matches(topic) {
            return false;
        }
        let read = self.after.as_ref().and_then(|cursor| cursor.get(topic, None));
        read.is_none_or(|place| place.incarnation != life || place.offset < u128::from(stored))
    }
}

impl Stored {
    fn read(group: &Group, info: ConsumerInfo) -> Result<Self> {
        let foreign = |why: &str| {
            Error::new(
                ErrorKind::GroupMismatch,
                format!(
                    "the name `{group}` belongs to a consumer that was made by somebody else \
                     ({why}); use another name for the group, or delete that consumer"
                ),
            )
            .with_backend("nats")
            .with("group", group)
        };
        let metadata = &info.config.metadata;
        let version = metadata.get(KEY_VERSION).ok_or_else(|| foreign("it has no definition"))?;
        if version != VERSION {
            let why =
                format!("its definition is of version {version}, this Fabric reads {VERSION}");
            return Err(foreign(&why));
        }
        let definition = metadata.get(KEY_DEFINITION).map(|json| serde_json::from_str(json));
        let Some(Ok(definition)) = definition else {
            return Err(foreign("its definition cannot be read"));
        };
        let changes = match metadata.get(KEY_CHANGES).map(|json| serde_json::from_str(json)) {
            None => Vec::new(),
            Some(Ok(changes)) => changes,
            Some(Err(_)) => return Err(foreign("its definition cannot be read")),
        };
        Ok(Self { definition, changes, created: info.created, info })
    }

    fn selection(&self) -> Selection {
        let changes = self.changes.clone();
        let definition = &self.definition;
        let selection = Selection::new(definition.patterns.clone(), Some(&definition.start));
        Selection { changes, ..selection }
    }
}

impl Hub {
    pub(crate) fn home(&self) -> &str {
        &self.layout.streams[self.layout.home].name
    }

    /// The group of that name, if it is there.
    ///
    /// # Errors
    /// `GroupMismatch` where somebody else's consumer has the name, `Connect`, `Timeout`.
    pub(crate) async fn find_group(&self, epoch: &Epoch, group: &Group) -> Result<Option<Stored>> {
        let subject = format!("{}.CONSUMER.INFO.{}.{group}", epoch.api.root, self.home());
        let asked = epoch.allowed(&subject, epoch.api.consumer(self.home(), group.as_str())).await;
        match asked {
            Ok(info) => Stored::read(group, info).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The group of that name.
    ///
    /// # Errors
    /// As [`find_group`](Self::find_group), and `NotFound`.
    pub(crate) async fn group(&self, epoch: &Epoch, group: &Group) -> Result<Stored> {
        self.find_group(epoch, group).await?.ok_or_else(|| no_such(group))
    }

    /// Joins a group with what the options ask for, or makes it.
    ///
    /// # Errors
    /// `GroupMismatch`, `NotFound` for a position, `Unauthorized`, `Connect`, `Timeout`.
    pub(crate) async fn join(&self, group: &Group, options: &SubscribeOptions) -> Result<Joined> {
        let epoch = self.link.up_soon().await?;
        // Another may make or delete it at the same time.
        for _ in 0..RETURNS {
            if let Some(stored) = self.find_group(&epoch, group).await? {
                stored.definition.admit(group, options)?;
                let changed = stored.definition.patterns != options.patterns;
                if options.redefine_group && changed {
                    self.change_group(&epoch, group, stored, &options.patterns).await?;
                    continue;
                }
                return self.joined(&epoch, group, &stored).await;
            }
            let definition = GroupDefinition::of(options);
            match self.make_group(&epoch, group, &definition, &definition.start).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Err(Error::new(ErrorKind::Timeout, format!("the group `{group}` comes and goes"))
            .with_backend("nats"))
    }

    async fn joined(&self, epoch: &Epoch, group: &Group, stored: &Stored) -> Result<Joined> {
        let mut parts = self.parts(group, &stored.definition.patterns, &stored.changes)?;
        // The home comes first, since it says what the group is.
        parts.sort_by_key(|part| part.stream != self.layout.home);
        for part in parts.iter().filter(|part| part.stream != self.layout.home) {
            let config = self.consumer(group, &stored.definition, part, &stored.definition.start);
            self.make_part(epoch, part, &config).await?;
        }
        Ok(Joined {
            definition: stored.definition.clone(),
            selection: stored.selection(),
            parts,
            created: stored.created,
            life: self.life(self.layout.home),
        })
    }

    /// What a group reads of each stream, with all patterns that still count.
    fn parts(&self, group: &Group, patterns: &Patterns, changes: &[Change]) -> Result<Vec<Filter>> {
        let all = changes.iter().flat_map(|change| &change.patterns).chain(patterns);
        self.layout.filters(&Patterns::new(all.cloned())?, Some(group))
    }

    /// Makes a group.
    ///
    /// # Errors
    /// `AlreadyExists` where somebody was faster, `NotFound` for a position.
    pub(crate) async fn make_group(
        &self,
        epoch: &Epoch,
        group: &Group,
        definition: &GroupDefinition,
        start: &Start,
    ) -> Result<()> {
        self.check_places(epoch, start).await?;
        let mut parts = self.parts(group, &definition.patterns, &[])?;
        parts.sort_by_key(|part| part.stream != self.layout.home);
        for part in parts {
            let home = part.stream == self.layout.home;
            let begin = self.exact_start(epoch, &definition.patterns, &part, start).await?;
            let mut config = self.consumer(group, definition, &part, &begin);
            if home {
                config.metadata.insert(KEY_VERSION.to_owned(), VERSION.to_owned());
                config.metadata.insert(KEY_DEFINITION.to_owned(), json(definition)?);
            }
            let name = &self.layout.streams[part.stream].name;
            let subject = format!("{}.CONSUMER.CREATE.{name}.{group}", epoch.api.root);
            let made = epoch.api.make_consumer(name, &config, Action::Create);
            match epoch.allowed(&subject, made).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && !home => {}
                Err(error) => return Err(error.with("group", group)),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    async fn make_part(&self, epoch: &Epoch, part: &Filter, config: &ConsumerConfig) -> Result<()> {
        let name = &self.layout.streams[part.stream].name;
        match epoch.api.make_consumer(name, config, Action::Create).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    }

    /// The consumer of a group in one stream.
    fn consumer(
        &self,
        group: &Group,
        definition: &GroupDefinition,
        part: &Filter,
        start: &Start,
    ) -> ConsumerConfig {
        let wait = definition.ack_wait.saturating_add(self.config.grace);
        let mut config = ConsumerConfig {
            name: Some(group.as_str().to_owned()),
            durable_name: Some(group.as_str().to_owned()),
            ack_policy: "explicit".to_owned(),
            ack_wait: Some(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX / 2)),
            max_deliver: -1,
            filter_subjects: part.subjects.clone(),
            replay_policy: "instant".to_owned(),
            max_ack_pending: -1,
            ..ConsumerConfig::default()
        };
        begin(&mut config, start);
        config
    }

    /// Gives a group other patterns, and keeps its place.
    ///
    /// # Errors
    /// `Connect`, `Timeout`, `Unauthorized`.
    pub(crate) async fn change_group(
        &self,
        epoch: &Epoch,
        group: &Group,
        stored: Stored,
        patterns: &Patterns,
    ) -> Result<()> {
        let mut until = BTreeMap::new();
        let streams = self.parts(group, patterns, &stored.changes)?;
        let before = self.parts(group, &stored.definition.patterns, &stored.changes)?;
        for part in streams.iter().chain(&before) {
            let name = &self.layout.streams[part.stream].name;
            if !until.contains_key(name) {
                until.insert(name.clone(), epoch.api.stream(name).await?.state.last_seq);
            }
        }
        let old = stored.definition.patterns.clone();
        let mut changes = self.alive(epoch, group, &stored).await?;
        changes.push(Change { patterns: old, until });
        let definition = GroupDefinition::new(patterns.clone())
            .with_start(stored.definition.start.clone())
            .with_ack_wait(stored.definition.ack_wait);
        let definition = match stored.definition.max_deliver {
            Some(most) => definition.with_max_deliver(most),
            None => definition,
        };
        self.write_group(epoch, group, &stored.info, &definition, &changes).await
    }

    /// The changes that still count: those that the group's place has not passed.
    async fn alive(&self, epoch: &Epoch, group: &Group, stored: &Stored) -> Result<Vec<Change>> {
        let mut alive = Vec::new();
        for change in &stored.changes {
            for (stream, until) in &change.until {
                let floor = match epoch.api.consumer(stream, group.as_str()).await {
                    Ok(info) => info.ack_floor.stream_seq,
                    Err(error) if error.kind() == ErrorKind::NotFound => u64::MAX,
                    Err(error) => return Err(error),
                };
                if floor < *until {
                    alive.push(change.clone());
                    break;
                }
            }
        }
        Ok(alive)
    }

    /// Writes what a group is, and lets the server hand out what it reads.
    async fn write_group(
        &self,
        epoch: &Epoch,
        group: &Group,
        info: &ConsumerInfo,
        definition: &GroupDefinition,
        changes: &[Change],
    ) -> Result<()> {
        for part in self.parts(group, &definition.patterns, changes)? {
            let name = &self.layout.streams[part.stream].name;
            if part.stream != self.layout.home {
                // Patterns that are new in a stream begin there at new.
                let made = self.consumer(group, definition, &part, &Start::New);
                self.make_part(epoch, &part, &made).await?;
                let mut config = epoch.api.consumer(name, group.as_str()).await?.config;
                filter(&mut config, part.subjects);
                epoch.api.make_consumer(name, &config, Action::Update).await?;
                continue;
            }
            let mut config = info.config.clone();
            filter(&mut config, part.subjects);
            config.metadata.insert(KEY_VERSION.to_owned(), VERSION.to_owned());
            config.metadata.insert(KEY_DEFINITION.to_owned(), json(definition)?);
            config.metadata.insert(KEY_CHANGES.to_owned(), json(&changes)?);
            config.metadata.retain(|key, _| !key.starts_with("_nats."));
            epoch.api.make_consumer(name, &config, Action::Update).await?;
        }
        Ok(())
    }

    /// Finds out what became of a group that does not answer any more.
    ///
    /// # Errors
    /// `NotFound` where somebody deleted it; `Unauthorized`, `AlreadyExists`, where it cannot be made
    /// again.
    pub(crate) async fn recover(&self, member: &Member, known: &Joined) -> Result<Joined> {
        let group = member.group();
        let mut returns = 0;
        loop {
            let epoch = self.link.up().await?;
            match self.try_recover(&epoch, group, known).await {
                Ok(Some(joined)) => return Ok(joined),
                Ok(None) if returns >= RETURNS => return Err(no_such(group)),
                Ok(None) => returns += 1,
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, %group, "the group cannot be looked at yet"),
            }
            tokio::time::sleep(RETURN).await;
        }
    }

    async fn try_recover(
        &self,
        epoch: &Epoch,
        group: &Group,
        known: &Joined,
    ) -> Result<Option<Joined>> {
        self.ensure_streams(epoch).await?;
        let life = self.life(self.layout.home);
        if let Some(stored) = self.find_group(epoch, group).await? {
            return self.joined(epoch, group, &stored).await.map(Some);
        }
        if life == known.life {
            return Ok(None);
        }
        // The server lost it with its stream: it begins at the first event that is left.
        match self.make_group(epoch, group, &known.definition, &Start::All).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let group = group.clone();
                self.link.notices.send(NoticeKind::GroupRecreated { group });
            }
        }
        let stored = self.find_group(epoch, group).await?;
        match stored {
            Some(stored) => self.joined(epoch, group, &stored).await.map(Some),
            None => Ok(None),
        }
    }

    /// What a group is now; for a member that got an event that it did not expect.
    ///
    /// # Errors
    /// `NotFound`, `Connect`, `Timeout`.
    pub(crate) async fn look_again(&self, group: &Group) -> Result<Selection> {
        let epoch = self.link.up().await?;
        let stored = self.group(&epoch, group).await?;
        let alive = self.alive(&epoch, group, &stored).await?;
        if alive.len() < stored.changes.len() {
            // What the group's place has passed need not be handed out any more.
            let (info, definition) = (&stored.info, &stored.definition);
            self.write_group(&epoch, group, info, definition, &alive).await?;
        }
        let changes = alive;
        Ok(Selection { changes, ..stored.selection() })
    }

    /// Moves a group to another place.
    ///
    /// # Errors
    /// `NotFound` for the group or the position.
    pub(crate) async fn reset_group(&self, group: &Group, start: &Start) -> Result<()> {
        let epoch = self.link.up_soon().await?;
        let stored = self.group(&epoch, group).await?;
        self.check_places(&epoch, start).await?;
        let members = self.members_of(group);
        for part in self.parts(group, &stored.definition.patterns, &stored.changes)? {
            let name = &self.layout.streams[part.stream].name;
            match epoch.api.delete_consumer(name, group.as_str()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                deleted => deleted?,
            }
        }
        self.make_group(&epoch, group, &stored.definition, start).await?;
        for member in members {
            member.revoke_all();
            member.renew();
        }
        Ok(())
    }

    /// Deletes a group with its inbox.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn delete_group(&self, group: &Group) -> Result<()> {
        let epoch = self.link.up_soon().await?;
        let stored = self.group(&epoch, group).await?;
        let mut parts = self.parts(group, &stored.definition.patterns, &stored.changes)?;
        // The home goes last: while it is there, the group is.
        parts.sort_by_key(|part| part.stream == self.layout.home);
        for part in parts {
            let name = &self.layout.streams[part.stream].name;
            match epoch.api.delete_consumer(name, group.as_str()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                deleted => deleted?,
            }
        }
        let inbox = serde_json::json!({ "filter": self.layout.inbox_filter(group) });
        epoch.api.purge(self.home(), &inbox).await.map(drop)
    }

    /// Refuses positions that are none of what is kept now.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn check_places(&self, epoch: &Epoch, start: &Start) -> Result<()> {
        match start {
            Start::At(position) | Start::After(position) => self.check_place(epoch, position).await,
            Start::Resume(cursor) => {
                for position in cursor.iter() {
                    self.check_place(epoch, position).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Refuses a position that is none of its topic's, as the stream is now.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn check_place(&self, epoch: &Epoch, position: &Position) -> Result<()> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::NotFound, format!("the position `{position}` {why}"))
                .with_backend("nats")
                .with("topic", &position.topic))
        };
        let stream = self.layout.stream_of(&position.topic)?;
        let name = &self.layout.streams[stream].name;
        let info = epoch.api.stream(name).await?;
        self.set_life(stream, info.incarnation());
        if position.incarnation != info.incarnation() || position.partition.is_some() {
            return refuse("belongs to another life of the stream");
        }
        let sequence = u64::try_from(position.offset).unwrap_or(u64::MAX);
        if sequence == 0 || sequence > info.state.last_seq {
            return refuse("lies beyond the stream's end");
        }
        let found = epoch.api.message(name, &serde_json::json!({ "seq": sequence })).await?;
        match found {
            Some(message) if message.subject != self.layout.subject(&position.topic) => {
                refuse("is one of another topic")
            }
            // What retention took away was there once.
            _ => Ok(()),
        }
    }

    /// The start in one stream, where the server's own would look at more than the patterns match.
    pub(crate) async fn exact_start(
        &self,
        epoch: &Epoch,
        patterns: &Patterns,
        part: &Filter,
        start: &Start,
    ) -> Result<Start> {
        let wide = patterns.iter().any(|pattern| pattern.levels().any(|level| level == "#"));
        if *start != Start::Last || !wide {
            return Ok(start.clone());
        }
        let name = &self.layout.streams[part.stream].name;
        let mut last = 0;
        for topic in self.topics_of(epoch, part.stream, patterns).await?.into_keys() {
            let which = serde_json::json!({ "last_by_subj": self.layout.subject(&topic) });
            let found = epoch.api.message(name, &which).await?;
            last = last.max(found.map_or(0, |message| message.seq));
        }
        let topic = Topic::new("last")?;
        let at = Position::new(topic, self.life(part.stream), u128::from(last));
        Ok(if last == 0 { Start::New } else { Start::At(at) })
    }
}

/// Sets where a consumer begins.
pub(crate) fn begin(config: &mut ConsumerConfig, start: &Start) {
    let sequence = |offset: u128| u64::try_from(offset).unwrap_or(u64::MAX).max(1);
    let policy = match start {
        Start::New => "new",
        Start::Last => "last",
        Start::LastPerTopic => "last_per_subject",
        Start::Time(time) => {
            config.opt_start_time = Some(*time);
            "by_start_time"
        }
        Start::At(position) => {
            config.opt_start_seq = Some(sequence(position.offset));
            "by_start_sequence"
        }
        Start::After(position) => {
            config.opt_start_seq = Some(sequence(position.offset.saturating_add(1)));
            "by_start_sequence"
        }
        // From a cursor everything is read, and what the cursor has passed is left out.
        _ => "all",
    };
    config.deliver_policy = policy.to_owned();
}

fn filter(config: &mut ConsumerConfig, subjects: Vec<String>) {
    config.filter_subject.clear();
    config.filter_subjects = maximal(subjects);
}

/// Whether trying again would bring the same.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::GroupMismatch
            | ErrorKind::Unauthorized
            | ErrorKind::AlreadyExists
            | ErrorKind::Unsupported
            | ErrorKind::NotFound
            | ErrorKind::Closed
    )
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| {
        Error::new(ErrorKind::Codec, "the group's definition cannot be written").with_source(error)
    })
}

pub(crate) fn no_such(group: &Group) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no group `{group}`"))
        .with_backend("nats")
        .with("group", group)
}

#[cfg(test)]
mod tests {
    use fabric_core::IntoPatterns as _;

    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    #[test]
    fn what_held_before_a_change_holds_up_to_it() {
        let patterns = |list: &[&str]| list.into_patterns().unwrap();
        let until = |n| BTreeMap::from([("S".to_owned(), n)]);
        let mut selection = Selection::new(patterns(&["b", "c"]), None);
        selection.changes = vec![
            Change { patterns: patterns(&["a", "b"]), until: until(10) },
            Change { patterns: patterns(&["b"]), until: until(20) },
        ];
        for (name, stored, wanted) in [
            ("a", 10, true),
            ("c", 10, false),
            ("a", 11, false),
            ("c", 20, false),
            ("b", 15, true),
            ("c", 21, true),
            ("a", 21, false),
        ] {
            assert_eq!(selection.wants(&topic(name), "S", 1, stored), wanted, "{name} at {stored}");
        }
        assert!(selection.wants(&topic("c"), "T", 1, 1), "another stream did not change");
    }

    #[test]
    fn a_cursor_leaves_out_what_it_has_passed() {
        let cursor: Cursor = [Position::new(topic("a"), 7, 5)].into_iter().collect();
        let patterns = ["a", "b"].into_patterns().unwrap();
        let selection = Selection::new(patterns, Some(&Start::Resume(cursor)));
        assert!(!selection.wants(&topic("a"), "S", 7, 5));
        assert!(selection.wants(&topic("a"), "S", 7, 6));
        assert!(selection.wants(&topic("b"), "S", 7, 1));
        assert!(selection.wants(&topic("a"), "S", 8, 1), "another life of the stream");
    }

    #[test]
    fn somebody_elses_consumer_is_told_apart() {
        let group = Group::new("g").unwrap();
        let info = |metadata: &[(&str, &str)]| -> ConsumerInfo {
            let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
            serde_json::from_value(serde_json::json!({
                "name": "g", "created": "2026-01-01T00:00:00Z", "config": { "metadata": metadata },
                "delivered": { "stream_seq": 0 }, "ack_floor": { "stream_seq": 0 },
            }))
            .unwrap()
        };
        for metadata in
            [&[][..], &[(KEY_VERSION, "2")], &[(KEY_VERSION, "1"), (KEY_DEFINITION, "x")]]
        {
            let error = Stored::read(&group, info(metadata)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::GroupMismatch);
            assert!(error.to_string().contains("another name"), "{error}");
        }
        let definition = GroupDefinition::new("a.*".into_patterns().unwrap());
        let written = json(&definition).unwrap();
        let stored =
            Stored::read(&group, info(&[(KEY_VERSION, "1"), (KEY_DEFINITION, &written)])).unwrap();
        assert_eq!(stored.definition, definition);
    }
}
