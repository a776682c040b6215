//! Kafka by rdkafka alone.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fabric::kafka::client::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use fabric::kafka::client::client::DefaultClientContext;
use fabric::kafka::client::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer,
};
use fabric::kafka::client::error::KafkaError;
use fabric::kafka::client::producer::future_producer::DeliveryFuture;
use fabric::kafka::client::producer::{FutureProducer, FutureRecord};
use fabric::kafka::client::types::RDKafkaErrorCode;
use fabric::kafka::client::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tokio::sync::Notify;

use crate::envelope::{self, Carries, look_at};
use crate::network::{Begin, Client, IN_FLIGHT, Reader, Serving, Work, Working};
use crate::support::Result;

/// What fabric takes unless told otherwise.
const LARGEST: &str = "8388608";

pub(crate) struct KafkaRaw {
    config: ClientConfig,
    producer: FutureProducer,
    admin: AdminClient<DefaultClientContext>,
    carries: Carries,
    replicas: i32,
    readers: AtomicU64,
}

impl KafkaRaw {
    pub(crate) fn connect(url: &str, nodes: u32, carries: Carries) -> Result<Self> {
        let servers = url.strip_prefix("kafka://").ok_or("no URL of Kafka")?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers);
        let admin = config.create()?;
        let producer = config
            .clone()
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("message.max.bytes", LARGEST)
            .create()?;
        let replicas = i32::try_from(nodes)?;
        Ok(Self { config, producer, admin, carries, replicas, readers: AtomicU64::new(0) })
    }

    fn name(&self, topic: &str) -> String {
        match self.carries {
            Carries::Event => format!("raw.{topic}"),
            Carries::Payload => format!("bare.{topic}"),
        }
    }

    /// Makes the topic if it is not there.
    async fn topic(&self, topic: &str) -> Result<String> {
        let name = self.name(topic);
        let new = NewTopic::new(&name, 1, TopicReplication::Fixed(self.replicas));
        for made in self.admin.create_topics([&new], &AdminOptions::new()).await? {
            if let Err((topic, code)) = made
                && code != RDKafkaErrorCode::TopicAlreadyExists
            {
                return Err(format!("{topic} cannot be made: {code}").into());
            }
        }
        Ok(name)
    }

    fn send(&self, name: &str, work: &Work) -> Result<DeliveryFuture> {
        let mut record = FutureRecord::<[u8], [u8]>::to(name).payload(&work.payload);
        if self.carries == Carries::Event {
            record = record.headers(envelope::write(work.topic));
        }
        self.producer.send_result(record).map_err(|(error, _)| error.into())
    }
}

impl Client for KafkaRaw {
    fn publish<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let name = self.name(work.topic);
            let mut waiting = VecDeque::with_capacity(IN_FLIGHT);
            for _ in 0..work.events {
                if waiting.len() == IN_FLIGHT
                    && let Some(oldest) = waiting.pop_front()
                {
                    confirmed(oldest).await?;
                }
                waiting.push_back(self.send(&name, work)?);
            }
            for report in waiting {
                confirmed(report).await?;
            }
            Ok(())
        })
    }

    fn publish_one<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move { confirmed(self.send(&self.name(work.topic), work)?).await })
    }

    fn read(&self, topic: &'static str, begin: Begin) -> Working<'_, Box<dyn Reader>> {
        Box::pin(async move {
            let name = self.topic(topic).await?;
            let number = self.readers.fetch_add(1, Ordering::Relaxed);
            let group = format!("bench-raw-{}-{number}", std::process::id());
            let context = Joined::default();
            let joined = Arc::clone(&context.0);
            let consumer: StreamConsumer<Joined> = self
                .config
                .clone()
                .set("group.id", &group)
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("enable.auto.offset.store", "false")
                .set("auto.commit.interval.ms", "10")
                .set("auto.offset.reset", if begin == Begin::New { "latest" } else { "earliest" })
                .set("queued.max.messages.kbytes", "16384")
                .create_with_context(context)?;
            if begin == Begin::New {
                // What is committed is what is read from, however late the assignment comes.
                let end = consumer.fetch_watermarks(&name, 0, WAIT)?.1;
                let mut place = TopicPartitionList::new();
                place.add_partition_offset(&name, 0, Offset::Offset(end))?;
                consumer.commit(&place, CommitMode::Sync)?;
            }
            consumer.subscribe(&[&name])?;
            let mut ahead = 0;
            loop {
                tokio::select! {
                    biased;
                    () = joined.notified() => break,
                    record = consumer.recv() => {
                        let record = record?;
                        look_at(self.carries, &record)?;
                        consumer.store_offset_from_message(&record)?;
                        ahead += 1;
                    }
                }
            }
            let admin = self.config.create()?;
            let reader: Box<dyn Reader> =
                Box::new(KafkaReader { admin, group, consumer, carries: self.carries, ahead });
            Ok(reader)
        })
    }

    fn clear(&self, topic: &'static str) -> Working<'_, ()> {
        Box::pin(async move {
            let mut all = TopicPartitionList::new();
            all.add_partition_offset(&self.name(topic), 0, Offset::End)?;
            self.admin.delete_records(&all, &AdminOptions::new()).await?;
            Ok(())
        })
    }

    fn serve(&self, _: &'static str) -> Working<'_, Serving> {
        Box::pin(async { Err("rdkafka has no requests".into()) })
    }

    fn ask<'a>(&'a self, _: &'a Work) -> Working<'a, ()> {
        Box::pin(async { Err("rdkafka has no requests".into()) })
    }
}

const WAIT: std::time::Duration = std::time::Duration::from_secs(10);

async fn confirmed(report: DeliveryFuture) -> Result<()> {
    black_box(report.await?.map_err(|(error, _)| error)?);
    Ok(())
}

/// Tells when partitions are assigned.
#[derive(Debug, Default)]
struct Joined(Arc<Notify>);

impl ClientContext for Joined {}

impl ConsumerContext for Joined {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance
            && partitions.count() > 0
        {
            self.0.notify_one();
        }
    }
}

struct KafkaReader {
    admin: AdminClient<DefaultClientContext>,
    group: String,
    consumer: StreamConsumer<Joined>,
    carries: Carries,
    /// How many events came before the reader was asked for any.
    ahead: u64,
}

impl Reader for KafkaReader {
    fn take(&mut self, events: u64) -> Working<'_, ()> {
        Box::pin(async move {
            let ahead = self.ahead.min(events);
            self.ahead -= ahead;
            for _ in ahead..events {
                let record = self.consumer.recv().await?;
                look_at(self.carries, &record)?;
                self.consumer.store_offset_from_message(&record)?;
            }
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Working<'static, ()> {
        Box::pin(async move {
            let Self { admin, group, consumer, .. } = *self;
            let left = move || {
                match consumer.commit_consumer_state(CommitMode::Sync) {
                    Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
                drop(consumer);
                Ok(())
            };
            tokio::task::spawn_blocking(left).await??;
            for deleted in admin.delete_groups(&[&group], &AdminOptions::new()).await? {
                deleted.map_err(|(group, code)| format!("{group} cannot be deleted: {code}"))?;
            }
            Ok(())
        })
    }
}
