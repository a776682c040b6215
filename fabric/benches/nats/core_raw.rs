//! Core NATS by async-nats alone.

use std::hint::black_box;

use fabric::nats::client::{Client as Nats, Subject, Subscriber};
use futures_util::StreamExt as _;

use crate::envelope::{self, Carries, look_at};
use crate::network::{Begin, Client, Reader, Serving, Work, Working};
use crate::support::Result;

/// Connects to one of the servers of `url`.
pub(crate) async fn connect(url: &str) -> Result<Nats> {
    let hosts: Vec<&str> = url.trim_start_matches("nats://").split(',').collect();
    Ok(fabric::nats::client::connect(hosts).await?)
}

#[derive(Debug)]
pub(crate) struct CoreRaw {
    client: Nats,
    carries: Carries,
}

impl CoreRaw {
    pub(crate) async fn connect(url: &str, carries: Carries) -> Result<Self> {
        Ok(Self { client: connect(url).await?, carries })
    }

    fn subject(&self, topic: &str) -> Subject {
        let prefix = match self.carries {
            Carries::Event => "core-raw",
            Carries::Payload => "core-bare",
        };
        Subject::from(format!("{prefix}.{topic}"))
    }

    async fn send(&self, subject: &Subject, work: &Work) -> Result<()> {
        let payload = work.payload.clone();
        match self.carries {
            Carries::Event => {
                let headers = envelope::write(work.topic, false);
                self.client.publish_with_headers(subject.clone(), headers, payload).await?;
            }
            Carries::Payload => self.client.publish(subject.clone(), payload).await?,
        }
        Ok(())
    }
}

impl Client for CoreRaw {
    fn publish<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let subject = self.subject(work.topic);
            for _ in 0..work.events {
                self.send(&subject, work).await?;
            }
            Ok(self.client.flush().await?)
        })
    }

    fn publish_one<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move { self.send(&self.subject(work.topic), work).await })
    }

    fn read(&self, topic: &'static str, _: Begin) -> Working<'_, Box<dyn Reader>> {
        Box::pin(async move {
            let subscriber = self.client.subscribe(self.subject(topic)).await?;
            self.client.flush().await?;
            let reader: Box<dyn Reader> =
                Box::new(CoreReader { subscriber, carries: self.carries });
            Ok(reader)
        })
    }

    fn clear(&self, _: &'static str) -> Working<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn serve(&self, topic: &'static str) -> Working<'_, Serving> {
        Box::pin(async move {
            let (client, carries) = (self.client.clone(), self.carries);
            let mut requests = client.subscribe(self.subject(topic)).await?;
            client.flush().await?;
            Ok(Serving::spawn(async move {
                while let Some(request) = requests.next().await {
                    look_at(carries, request.headers.as_ref(), &request.payload)?;
                    let asker = request.reply.ok_or("a request without an address")?;
                    match carries {
                        Carries::Event => {
                            let headers = envelope::write(topic, false);
                            client.publish_with_headers(asker, headers, request.payload).await?;
                        }
                        Carries::Payload => client.publish(asker, request.payload).await?,
                    }
                }
                Ok(())
            }))
        })
    }

    fn ask<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let (subject, payload) = (self.subject(work.topic), work.payload.clone());
            let reply = match self.carries {
                Carries::Event => {
                    let headers = envelope::write(work.topic, false);
                    self.client.request_with_headers(subject, headers, payload).await?
                }
                Carries::Payload => self.client.request(subject, payload).await?,
            };
            black_box(look_at(self.carries, reply.headers.as_ref(), &reply.payload)?);
            Ok(())
        })
    }
}

struct CoreReader {
    subscriber: Subscriber,
    carries: Carries,
}

impl Reader for CoreReader {
    fn take(&mut self, events: u64) -> Working<'_, ()> {
        Box::pin(async move {
            for _ in 0..events {
                let message = self.subscriber.next().await.ok_or("the subscription ended")?;
                look_at(self.carries, message.headers.as_ref(), &message.payload)?;
            }
            Ok(())
        })
    }

    fn close(mut self: Box<Self>) -> Working<'static, ()> {
        Box::pin(async move { Ok(self.subscriber.unsubscribe().await?) })
    }
}
