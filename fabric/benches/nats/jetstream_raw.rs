//! JetStream by async-nats alone.

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fabric::nats::client::Subject;
use fabric::nats::client::jetstream::consumer::{self, AckPolicy, DeliverPolicy, pull};
use fabric::nats::client::jetstream::context::PublishAckFuture;
use fabric::nats::client::jetstream::{self, Context, ContextBuilder};
use futures_util::TryStreamExt as _;

use crate::core_raw::connect;
use crate::envelope::{self, Carries, look_at};
use crate::network::{Begin, Client, IN_FLIGHT, PREFETCH, Reader, Serving, Work, Working};
use crate::support::Result;

/// How often it is tried whether a stream has a leader, and how long in between.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// A stream of its own with what fabric's has: on disk, ids known for two minutes.
#[derive(Debug)]
pub(crate) struct JetStreamRaw {
    context: Context,
    carries: Carries,
    stream: &'static str,
    readers: AtomicU64,
}

impl JetStreamRaw {
    pub(crate) async fn connect(url: &str, nodes: u32, carries: Carries) -> Result<Self> {
        let client = connect(url).await?;
        let context = ContextBuilder::new()
            .max_ack_inflight(IN_FLIGHT)
            .backpressure_on_inflight(true)
            .build(client);
        let stream = match carries {
            Carries::Event => "bench-raw",
            Carries::Payload => "bench-bare",
        };
        let config = jetstream::stream::Config {
            name: stream.to_owned(),
            subjects: vec![format!("{stream}.>")],
            duplicate_window: Duration::from_secs(120),
            num_replicas: nodes as usize,
            ..Default::default()
        };
        context.get_or_create_stream(config).await?;
        let raw = Self { context, carries, stream, readers: AtomicU64::new(0) };
        raw.await_leader().await?;
        Ok(raw)
    }

    /// A stream of several servers takes nothing before they have chosen who leads it.
    async fn await_leader(&self) -> Result<()> {
        let subject = self.subject("bench.leader");
        for _ in 0..TRIES {
            let sent = self.context.publish(subject.clone(), "".into()).await?;
            if confirmed(sent).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err("nobody leads the stream".into())
    }

    fn subject(&self, topic: &str) -> Subject {
        Subject::from(format!("{}.{topic}", self.stream))
    }

    async fn send(&self, subject: &Subject, work: &Work) -> Result<PublishAckFuture> {
        let payload = work.payload.clone();
        Ok(match self.carries {
            Carries::Event => {
                let headers = envelope::write(work.topic, true);
                self.context.publish_with_headers(subject.clone(), headers, payload).await?
            }
            Carries::Payload => self.context.publish(subject.clone(), payload).await?,
        })
    }
}

impl Client for JetStreamRaw {
    fn publish<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let subject = self.subject(work.topic);
            let mut waiting = VecDeque::with_capacity(IN_FLIGHT);
            for _ in 0..work.events {
                if waiting.len() == IN_FLIGHT
                    && let Some(oldest) = waiting.pop_front()
                {
                    confirmed(oldest).await?;
                }
                waiting.push_back(self.send(&subject, work).await?);
            }
            for ack in waiting {
                confirmed(ack).await?;
            }
            Ok(())
        })
    }

    fn publish_one<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let subject = self.subject(work.topic);
            confirmed(self.send(&subject, work).await?).await
        })
    }

    fn read(&self, topic: &'static str, begin: Begin) -> Working<'_, Box<dyn Reader>> {
        Box::pin(async move {
            let number = self.readers.fetch_add(1, Ordering::Relaxed);
            let name = format!("bench-{}-{number}", std::process::id());
            let config = pull::Config {
                durable_name: Some(name.clone()),
                filter_subject: self.subject(topic).to_string(),
                ack_policy: AckPolicy::Explicit,
                deliver_policy: match begin {
                    Begin::First => DeliverPolicy::All,
                    Begin::New => DeliverPolicy::New,
                },
                ..Default::default()
            };
            let stream = self.context.get_stream_no_info(self.stream).await?;
            let consumer: consumer::PullConsumer = stream.create_consumer(config).await?;
            // A pull that got lost is asked for again when it expires.
            let pulls = consumer.stream().max_messages_per_batch(PREFETCH);
            let events = pulls.expires(Duration::from_secs(5)).messages().await?;
            let reader: Box<dyn Reader> = Box::new(PullReader {
                context: self.context.clone(),
                stream: self.stream,
                name,
                events,
                carries: self.carries,
            });
            Ok(reader)
        })
    }

    fn clear(&self, topic: &'static str) -> Working<'_, ()> {
        Box::pin(async move {
            let stream = self.context.get_stream_no_info(self.stream).await?;
            stream.purge().filter(self.subject(topic).to_string()).await?;
            Ok(())
        })
    }

    fn serve(&self, _: &'static str) -> Working<'_, Serving> {
        Box::pin(async { Err("requests travel outside streams".into()) })
    }

    fn ask<'a>(&'a self, _: &'a Work) -> Working<'a, ()> {
        Box::pin(async { Err("requests travel outside streams".into()) })
    }
}

async fn confirmed(ack: PublishAckFuture) -> Result<()> {
    black_box(ack.into_future().await?);
    Ok(())
}

struct PullReader {
    context: Context,
    stream: &'static str,
    name: String,
    events: pull::Stream,
    carries: Carries,
}

impl Reader for PullReader {
    fn take(&mut self, events: u64) -> Working<'_, ()> {
        Box::pin(async move {
            for _ in 0..events {
                let message = self.events.try_next().await?.ok_or("the consumer ended")?;
                look_at(self.carries, message.headers.as_ref(), &message.payload)?;
                message.ack().await?;
            }
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Working<'static, ()> {
        Box::pin(async move {
            let Self { context, stream, name, events, .. } = *self;
            drop(events);
            context.delete_consumer_from_stream(name, stream).await?;
            Ok(())
        })
    }
}
