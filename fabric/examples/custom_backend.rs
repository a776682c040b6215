//! The smallest honest backend: a copy for each subscriber and nothing else, and no claim beyond.
//! The conformance suite runs on it, in `fabric/tests/conformance.rs`.
//!
//! ```text
//! cargo run -p fabric --example custom_backend
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{
    Ability, Backend, BackendInfo, Batch, Capabilities, Confirms, Dsn, DynAdmin, DynGroups,
    DynReplay, DynRequestReply, Error, ErrorKind, Event, Health, NoticeKind, NoticeSender, Notices,
    Receipt, Registry, Result, SubscribeOptions, Subscription, Support,
};
use futures_util::{StreamExt as _, stream};
use tokio::sync::broadcast::{Sender, error::RecvError};
use tokio::sync::watch;

/// A client of a broker that is a channel.
#[derive(Debug)]
pub(crate) struct Loopback {
    info: BackendInfo,
    notices: NoticeSender,
    events: Sender<Event>,
    closed: watch::Sender<bool>,
}

impl Loopback {
    async fn connect(dsn: Dsn) -> Result<Self> {
        dsn.options().finish()?; // an option that nobody reads is refused
        Ok(Self::new(&Sender::new(1024)))
    }

    pub(crate) fn new(events: &Sender<Event>) -> Self {
        let info = BackendInfo::new("loopback", "loopback");
        let (notices, closed) = (NoticeSender::new(), watch::Sender::new(false));
        Self { info, notices, events: events.clone(), closed }
    }

    fn check_open(&self) -> Result<()> {
        match *self.closed.borrow() {
            true => Err(Error::new(ErrorKind::Closed, "this fabric is closed; connect again")),
            false => Ok(()),
        }
    }
}

impl Backend for Loopback {
    fn info(&self) -> &BackendInfo {
        &self.info
    }
    fn capabilities(&self) -> Capabilities {
        let abilities = [Ability::FanOut, Ability::OrderTopic, Ability::AutoCreate];
        Capabilities::NONE.with_all(&abilities, Support::Native)
    }
    fn notices(&self) -> Notices {
        self.notices.listen()
    }
    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if self.check_open().is_err() {
            return Err(batch);
        }
        Ok(batch.confirm(|event| {
            let _nobody_listens = self.events.send(event.clone()); // which is no error
            Ok(Receipt::ACCEPTED)
        }))
    }
    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.check_open()?;
        self.try_submit(batch).map_err(|_| Error::new(ErrorKind::Closed, "it closed just now"))
    }
    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        self.check_open()?;
        let start = (self.events.subscribe(), options.patterns);
        let events = stream::unfold(start, |(mut events, patterns)| async {
            loop {
                let item = match events.recv().await {
                    Ok(event) if patterns.matches(event.topic()) => Ok(event),
                    Ok(_of_another_topic) => continue,
                    Err(RecvError::Lagged(missed)) => Err(Error::lagged(missed)),
                    Err(RecvError::Closed) => return None,
                };
                return Some((item, (events, patterns)));
            }
        });
        let mut closed = self.closed.subscribe();
        let closed = async move { closed.wait_for(|closed| *closed).await.map(drop) };
        Ok(Subscription::live(events.take_until(Box::pin(closed))))
    }
    fn replay(&self) -> Option<&dyn DynReplay> {
        None
    }
    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        None
    }
    fn groups(&self) -> Option<&dyn DynGroups> {
        None
    }
    fn admin(&self) -> Option<&dyn DynAdmin> {
        None
    }
    async fn health(&self) -> Health {
        match self.check_open() {
            Ok(()) => Health::up(Duration::ZERO),
            Err(error) => Health::down(Duration::ZERO, error.message()),
        }
    }
    async fn close(&self, _nothing_to_wait_for: Duration) -> Result<()> {
        if !self.closed.send_replace(true) {
            self.notices.send(NoticeKind::Closed);
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // It is connected by URL like those that come along.
    let registry = Registry::builtin().with(&["loopback"], Loopback::connect);
    let fabric = fabric::connect("loopback://").registry(registry).await?;

    let mut greetings = fabric.subscribe("greetings.*").await?;
    fabric.publish(Event::to("greetings.en").text("hello")).await?;
    fabric.publish(Event::to("insults.en").text("you fabric")).await?;
    fabric.publish(Event::to("greetings.de").text("hallo")).await?;

    // What it does not claim is refused before it is asked.
    let grouped = fabric.subscribe("greetings.*").group("guests").await;
    let error = grouped.expect_err("there are no groups");
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let later = Event::to("greetings.en").delay(Duration::from_secs(1)).text("hello again");
    let error = fabric.publish(later).await.expect_err("there is no delay");
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    for expected in ["hello", "hallo"] {
        let greeting = greetings.recv().await.expect("the fabric is open")?;
        println!("heard: {}", greeting.text()?);
        assert_eq!(greeting.text()?, expected);
    }
    fabric.close(Duration::ZERO).await?;
    assert!(greetings.recv().await.is_none());
    let error = fabric.publish(Event::to("greetings.en")).await.expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    Ok(())
}
