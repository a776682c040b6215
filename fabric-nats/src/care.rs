//! The care of groups and topics.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use fabric_core::{
    AdminBackend, Batch, Confirms, Error, ErrorKind, Group, GroupDefinition, GroupInfo,
    GroupsBackend, Patterns, Position, Result, Start, SubscribeOptions, Timestamp, Topic,
    TopicInfo, TopicLag, Trim,
};
use serde_json::json;

use crate::api::{Action, ConsumerConfig, StreamInfo};
use crate::backend::Nats;
use crate::connection::Epoch;
use crate::group::begin;
use crate::hub::Hub;
use crate::layout::Place;
use crate::read::Sent;
use crate::wire::Route;

impl GroupsBackend for Nats {
    async fn define(&self, group: &Group, definition: GroupDefinition) -> Result<()> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        if hub.find_group(&epoch, group).await?.is_none() {
            match hub.make_group(&epoch, group, &definition, &definition.start).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        let stored = hub.group(&epoch, group).await?.definition;
        if stored == definition {
            return Ok(());
        }
        stored.admit(group, &asking(&definition))?;
        Err(Error::new(
            ErrorKind::GroupMismatch,
            format!(
                "the group `{group}` exists with the definition {stored:?}, not {definition:?}"
            ),
        ))
    }

    async fn redefine(&self, group: &Group, patterns: Patterns) -> Result<()> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let stored = hub.group(&epoch, group).await?;
        if stored.definition.patterns == patterns {
            return Ok(());
        }
        hub.change_group(&epoch, group, stored, &patterns).await
    }

    async fn reset(&self, group: &Group, start: Start) -> Result<()> {
        self.open_hub()?.reset_group(group, &start).await
    }

    async fn delete(&self, group: &Group) -> Result<()> {
        self.open_hub()?.delete_group(group).await
    }

    async fn list(&self) -> Result<Vec<Group>> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let consumers = epoch.api.consumers(hub.home()).await?;
        let own = consumers.iter().filter(|info| info.config.metadata.contains_key("fabric.group"));
        let mut groups: Vec<Group> = own.filter_map(|info| Group::new(&info.name).ok()).collect();
        groups.sort_unstable();
        Ok(groups)
    }

    async fn info(&self, group: &Group) -> Result<GroupInfo> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let stored = hub.group(&epoch, group).await?;
        let members = hub.count_members(&epoch, group).await?;
        let mut figures = hub.lag(&epoch, group, &stored.definition.patterns).await?;
        // Of several servers the one that keeps the group hears of events a little later.
        for _ in 0..if hub.config.replicas > 1 { SETTLES } else { 0 } {
            tokio::time::sleep(SETTLE).await;
            let again = hub.lag(&epoch, group, &stored.definition.patterns).await?;
            if again == std::mem::replace(&mut figures, again) {
                break;
            }
        }
        let (undelivered, pending) = figures;
        let topic = of_one_topic(&stored.definition.patterns)?;
        let lag = vec![TopicLag::new(topic, undelivered, pending)];
        Ok(GroupInfo::new(group.clone(), stored.definition, members, lag))
    }

    async fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Result<Confirms> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        hub.group(&epoch, group).await?;
        let to = group.clone();
        hub.publish(batch, move |_| Route {
            to: Some(to.clone()),
            attempt,
            due: not_before,
            expected: None,
        })
        .await
    }
}

impl AdminBackend for Nats {
    async fn topics(&self, patterns: Patterns) -> Result<Vec<TopicInfo>> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let mut infos = Vec::new();
        for filter in hub.layout.filters(&patterns, None)? {
            let info = epoch.api.stream(&hub.layout.streams[filter.stream].name).await?;
            for (topic, count) in hub.topics_of(&epoch, filter.stream, &patterns).await? {
                infos.push(hub.figures(&epoch, filter.stream, &info, topic, count).await?);
            }
        }
        Ok(infos)
    }

    async fn topic(&self, topic: &Topic) -> Result<TopicInfo> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let (stream, count) = hub.known_topic(&epoch, topic).await?;
        let info = epoch.api.stream(&hub.layout.streams[stream].name).await?;
        hub.figures(&epoch, stream, &info, topic.clone(), count).await
    }

    async fn purge(&self, topic: &Topic) -> Result<u64> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let (stream, _) = hub.known_topic(&epoch, topic).await?;
        hub.purge_topic(&epoch, stream, topic, &json!({})).await
    }

    async fn trim(&self, topic: &Topic, trim: Trim) -> Result<u64> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let (stream, _) = hub.known_topic(&epoch, topic).await?;
        let what = match trim {
            Trim::Keep(0) => json!({}),
            Trim::Keep(count) => json!({ "keep": count }),
            Trim::Before(position) => {
                hub.check_place(&epoch, &position).await?;
                json!({ "seq": u64::try_from(position.offset).unwrap_or(u64::MAX) })
            }
            Trim::Older(time) => match hub.first_since(&epoch, stream, topic, time).await? {
                Some(first) => json!({ "seq": first }),
                None => json!({}),
            },
            _ => return Err(Error::unsupported("this way of trimming", "nats")),
        };
        hub.purge_topic(&epoch, stream, topic, &what).await
    }
}

/// How often figures of several servers are asked for until they stay the same, and how far apart.
const SETTLES: usize = 10;
const SETTLE: Duration = Duration::from_millis(30);

impl Hub {
    /// How many events a group did not get yet, and how many its members hold.
    async fn lag(&self, epoch: &Epoch, group: &Group, patterns: &Patterns) -> Result<(u64, u64)> {
        let (mut undelivered, mut pending) = (0, 0);
        for filter in self.layout.filters(patterns, Some(group))? {
            let name = &self.layout.streams[filter.stream].name;
            match epoch.api.consumer(name, group.as_str()).await {
                Ok(info) => {
                    undelivered += info.num_pending;
                    pending += info.num_ack_pending;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok((undelivered, pending))
    }

    /// The topics of a stream that match, with how many events each has.
    pub(crate) async fn topics_of(
        &self,
        epoch: &Epoch,
        stream: usize,
        patterns: &Patterns,
    ) -> Result<BTreeMap<Topic, u64>> {
        let mut topics = BTreeMap::new();
        let filters = self.layout.filters(patterns, None)?;
        let filters = filters.iter().filter(|filter| filter.stream == stream);
        for subject in filters.flat_map(|filter| &filter.subjects) {
            let name = &self.layout.streams[stream].name;
            for (subject, count) in epoch.api.subjects(name, subject).await? {
                if let Place::Topic(text) = self.layout.place(&subject)
                    && let Ok(topic) = Topic::new(text)
                    && patterns.matches(&topic)
                {
                    topics.insert(topic, count);
                }
            }
        }
        Ok(topics)
    }

    /// The stream of a topic that is there, and how many events it has.
    async fn known_topic(&self, epoch: &Epoch, topic: &Topic) -> Result<(usize, u64)> {
        let stream = self.layout.stream_of(topic)?;
        let name = &self.layout.streams[stream].name;
        let subject = self.layout.subject(topic);
        let count = epoch.api.subjects(name, &subject).await?.get(&subject).copied();
        let purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner).contains(topic);
        match count {
            Some(count) => Ok((stream, count)),
            None if purged => Ok((stream, 0)),
            None => Err(Error::new(ErrorKind::NotFound, format!("nothing is kept in `{topic}`"))
                .with_backend("nats")
                .with("topic", topic)),
        }
    }

    async fn figures(
        &self,
        epoch: &Epoch,
        stream: usize,
        info: &StreamInfo,
        topic: Topic,
        count: u64,
    ) -> Result<TopicInfo> {
        let name = &self.layout.streams[stream].name;
        let subject = self.layout.subject(&topic);
        let first = json!({ "seq": 1, "next_by_subj": subject });
        let last = json!({ "last_by_subj": subject });
        let at = |seq| Position::new(topic.clone(), info.incarnation(), u128::from(seq));
        let first = epoch.api.message(name, &first).await?;
        let last = epoch.api.message(name, &last).await?;
        let mut figures = TopicInfo::new(topic.clone());
        figures.events = count;
        figures.published = count;
        // The server counts bytes by stream: this is the topic's share of it by its events.
        figures.bytes = (info.state.bytes * count).checked_div(info.state.messages).unwrap_or(0);
        figures.first = first.map(|message| at(message.seq));
        figures.last_time = last.as_ref().map(|message| message.time);
        figures.last = last.map(|message| at(message.seq));
        Ok(figures)
    }

    async fn purge_topic(
        &self,
        epoch: &Epoch,
        stream: usize,
        topic: &Topic,
        what: &serde_json::Value,
    ) -> Result<u64> {
        self.purged.lock().unwrap_or_else(PoisonError::into_inner).insert(topic);
        let mut what = what.clone();
        what["filter"] = self.layout.subject(topic).into();
        epoch.api.purge(&self.layout.streams[stream].name, &what).await
    }

    /// The first event of a topic that was stored then or later.
    async fn first_since(
        &self,
        epoch: &Epoch,
        stream: usize,
        topic: &Topic,
        time: Timestamp,
    ) -> Result<Option<u64>> {
        let name = &self.layout.streams[stream].name;
        let mut config = ConsumerConfig {
            name: Some(format!("fabric-{}", fabric_core::EventId::generate())),
            ack_policy: "none".to_owned(),
            max_deliver: -1,
            filter_subjects: vec![self.layout.subject(topic)],
            replay_policy: "instant".to_owned(),
            inactive_threshold: Some(5_000_000_000),
            mem_storage: true,
            num_replicas: 1,
            headers_only: true,
            ..ConsumerConfig::default()
        };
        begin(&mut config, &Start::Time(time));
        let made = epoch.api.make_consumer(name, &config, Action::Create).await?;
        let ask = json!({ "batch": 1, "no_wait": true });
        let next = epoch.api.next(name, &made.name);
        // What is pulled comes under its own subject: only an inbox of one's own hears it.
        let ask = async_nats::Request::new()
            .inbox(epoch.client.new_inbox())
            .payload(ask.to_string().into_bytes().into());
        let found = epoch.client.send_request(next, ask).await;
        epoch.api.delete_consumer(name, &made.name).await?;
        let found = found
            .map_err(|error| crate::error::from(&crate::error::Failure::Request(error.kind())))?;
        Ok(found.reply.as_deref().and_then(Sent::parse).map(|sent| sent.stored))
    }
}

/// Options that ask for exactly this definition.
fn asking(definition: &GroupDefinition) -> SubscribeOptions {
    let mut options = SubscribeOptions::new(definition.patterns.clone());
    options.start = Some(definition.start.clone());
    options.ack_wait = Some(definition.ack_wait);
    options.max_deliver = definition.max_deliver;
    options
}

/// The topic of patterns that are one topic; else what stands for all that match.
fn of_one_topic(patterns: &Patterns) -> Result<Topic> {
    match patterns.as_slice() {
        [only] if only.is_literal() => Topic::new(only.as_str()),
        _ => Topic::new("_fabric.all"),
    }
}
