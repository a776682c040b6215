//! The arm of fabric: the same code on every backend, nothing but its public API.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use fabric_core::{AckMode, Event, Fabric, Start, Subscription, Topic};

use super::{Begin, Client, IN_FLIGHT, PREFETCH, Reader, Serving, Work, Working};
use crate::support::Result;

/// How events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// In a group, each settled.
    Group,
    /// A copy each.
    Plain,
}

/// A connected fabric.
#[derive(Debug)]
pub(crate) struct FabricArm {
    fabric: Fabric,
    style: Style,
    groups: AtomicU64,
}

impl FabricArm {
    /// Connects to `url` with the bounds that all arms have.
    pub(crate) async fn connect(url: &str, style: Style) -> Result<Self> {
        let fabric = fabric::connect(url).source("bench").await?;
        Ok(Self { fabric, style, groups: AtomicU64::new(0) })
    }

    /// A name that no group of this process had yet, nor of one that used the broker before.
    fn group(&self) -> String {
        let number = self.groups.fetch_add(1, Ordering::Relaxed);
        format!("bench-{}-{number}", std::process::id())
    }
}

impl Client for FabricArm {
    fn publish<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let topic = Topic::new(work.topic)?;
            let mut waiting = VecDeque::with_capacity(IN_FLIGHT);
            for _ in 0..work.events {
                if waiting.len() == IN_FLIGHT
                    && let Some(oldest) = waiting.pop_front()
                {
                    confirmed(oldest).await?;
                }
                let event = Event::to(&topic).payload(work.payload.clone());
                waiting.push_back(self.fabric.submit(event).await?);
            }
            for confirm in waiting {
                confirmed(confirm).await?;
            }
            if self.style == Style::Plain {
                self.fabric.flush().await?;
            }
            Ok(())
        })
    }

    fn publish_one<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let event = Event::to(work.topic).payload(work.payload.clone());
            black_box(self.fabric.publish(event).await?);
            Ok(())
        })
    }

    fn read(&self, topic: &'static str, begin: Begin) -> Working<'_, Box<dyn Reader>> {
        Box::pin(async move {
            let subscribe = self.fabric.subscribe(topic);
            let start = match begin {
                Begin::First => Start::All,
                Begin::New => Start::New,
            };
            if self.style == Style::Plain {
                let subscription = subscribe.await?;
                let reader: Box<dyn Reader> = Box::new(PlainReader { subscription });
                return Ok(reader);
            }
            let group = self.group();
            let subscribe = subscribe.group(&group).ack_mode(AckMode::Sent).prefetch(PREFETCH);
            let subscription = subscribe.start_at(start).await?;
            let fabric = self.fabric.clone();
            let reader: Box<dyn Reader> = Box::new(GroupReader { fabric, group, subscription });
            Ok(reader)
        })
    }

    fn clear(&self, topic: &'static str) -> Working<'_, ()> {
        Box::pin(async move {
            if self.style == Style::Group {
                self.fabric.admin()?.purge(topic).await?;
            }
            Ok(())
        })
    }

    fn serve(&self, topic: &'static str) -> Working<'_, Serving> {
        Box::pin(async move {
            let mut requests = self.fabric.responder("bench").serve(topic).await?;
            Ok(Serving::spawn(async move {
                while let Some(request) = requests.recv().await {
                    let request = request?;
                    let reply = Event::to(request.event().topic())
                        .payload(request.event().payload().clone());
                    request.reply(reply).await?;
                }
                Ok(())
            }))
        })
    }

    fn ask<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let event = Event::to(work.topic).payload(work.payload.clone());
            let reply = self.fabric.request(event).await?;
            look_at(&reply);
            Ok(())
        })
    }
}

async fn confirmed(confirm: fabric_core::Confirm) -> Result<()> {
    black_box(confirm.await?);
    Ok(())
}

fn look_at(event: &Event) {
    black_box((event.id(), event.source(), event.event_type(), event.time()));
    black_box(event.payload().as_bytes().and_then(|bytes| bytes.first()));
}

struct GroupReader {
    fabric: Fabric,
    group: String,
    subscription: Subscription,
}

impl Reader for GroupReader {
    fn take(&mut self, events: u64) -> Working<'_, ()> {
        Box::pin(async move {
            for _ in 0..events {
                let delivery = self.subscription.recv().await.ok_or("the subscription ended")??;
                look_at(&delivery);
                delivery.ack().await?;
            }
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Working<'static, ()> {
        Box::pin(async move {
            self.subscription.close().await?;
            self.fabric.groups()?.delete(&self.group).await?;
            Ok(())
        })
    }
}

struct PlainReader {
    subscription: Subscription,
}

impl Reader for PlainReader {
    fn take(&mut self, events: u64) -> Working<'_, ()> {
        Box::pin(async move {
            for _ in 0..events {
                let delivery = self.subscription.recv().await.ok_or("the subscription ended")??;
                look_at(&delivery);
            }
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Working<'static, ()> {
        Box::pin(async move { Ok(self.subscription.close().await?) })
    }
}
