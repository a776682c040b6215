//! Several clients as one: many readers of one publisher, or many publishers for one reader.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::{Begin, Client, Reader, Serving, Work, Working};

/// What is published is shared out among the publishers; each reader gets all of it.
pub(crate) struct Herd {
    pub(crate) publishers: Vec<Arc<dyn Client>>,
    pub(crate) readers: Vec<Arc<dyn Client>>,
}

impl Client for Herd {
    fn publish<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let many = self.publishers.len() as u64;
            let tasks = self.publishers.iter().enumerate().map(|(number, client)| {
                let (client, mut work) = (Arc::clone(client), work.clone());
                work.events = work.events / many + u64::from((number as u64) < work.events % many);
                tokio::spawn(async move { client.publish(&work).await })
            });
            for done in try_join_all(tasks.collect::<Vec<_>>()).await? {
                done?;
            }
            Ok(())
        })
    }

    fn publish_one<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            let first = self.publishers.first().ok_or("nobody publishes")?;
            first.publish_one(work).await
        })
    }

    fn read(&self, topic: &'static str, begin: Begin) -> Working<'_, Box<dyn Reader>> {
        Box::pin(async move {
            let mut readers = Vec::new();
            for client in &self.readers {
                readers.push(client.read(topic, begin).await?);
            }
            let reader: Box<dyn Reader> = Box::new(Readers(readers));
            Ok(reader)
        })
    }

    fn clear(&self, topic: &'static str) -> Working<'_, ()> {
        Box::pin(async move {
            for client in &self.publishers {
                client.clear(topic).await?;
            }
            Ok(())
        })
    }

    fn serve(&self, _: &'static str) -> Working<'_, Serving> {
        Box::pin(async { Err("a herd answers no requests".into()) })
    }

    fn ask<'a>(&'a self, _: &'a Work) -> Working<'a, ()> {
        Box::pin(async { Err("a herd asks nothing".into()) })
    }
}

struct Readers(Vec<Box<dyn Reader>>);

impl Reader for Readers {
    fn take(&mut self, events: u64) -> Working<'_, ()> {
        Box::pin(async move {
            let tasks = std::mem::take(&mut self.0).into_iter().map(|mut reader| {
                tokio::spawn(async move {
                    reader.take(events).await?;
                    Ok::<_, crate::support::Failure>(reader)
                })
            });
            for done in try_join_all(tasks.collect::<Vec<_>>()).await? {
                self.0.push(done?);
            }
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Working<'static, ()> {
        Box::pin(async move {
            for reader in self.0 {
                reader.close().await?;
            }
            Ok(())
        })
    }
}
