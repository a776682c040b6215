//! The smallest honest backend: a copy for each subscriber and nothing else, and no claim beyond.
//!
//! ```text
//! cargo run -p fabric --example custom_backend
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fabric::{
    Ability, Backend, BackendInfo, Batch, Capabilities, Confirms, Dsn, DynAdmin, DynGroups,
    DynReplay, DynRequestReply, Error, ErrorKind, Event, Health, NoticeKind, NoticeSender, Notices,
    Receipt, Registry, Result, SubscribeOptions, Subscription, Support,
};
use futures_util::stream;
use tokio::sync::broadcast::{self, Sender, error::RecvError};

#[derive(Debug)]
struct Loopback {
    info: BackendInfo,
    notices: NoticeSender,
    /// `None` once it is closed.
    events: Mutex<Option<Sender<Event>>>,
}

impl Loopback {
    async fn connect(dsn: Dsn) -> Result<Self> {
        dsn.options().finish()?; // an option that nobody reads is refused
        let info = BackendInfo::new("loopback", dsn.scheme());
        let events = Mutex::new(Some(broadcast::channel(1024).0));
        Ok(Self { info, notices: NoticeSender::new(), events })
    }

    fn open(&self) -> Result<Sender<Event>> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.clone().ok_or_else(|| Error::new(ErrorKind::Closed, "the fabric is closed"))
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
        let Ok(events) = self.open() else { return Err(batch) };
        Ok(batch.confirm(|event| {
            let _nobody_listens = events.send(event.clone()); // which is no error
            Ok(Receipt::ACCEPTED)
        }))
    }
    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        let closed = |_| Error::new(ErrorKind::Closed, "the fabric is closed");
        self.try_submit(batch).map_err(closed)
    }
    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        let start = (self.open()?.subscribe(), options.patterns);
        Ok(Subscription::live(stream::unfold(start, |(mut events, patterns)| async {
            loop {
                let item = match events.recv().await {
                    Ok(event) if patterns.matches(event.topic()) => Ok(event),
                    Ok(_of_another_topic) => continue,
                    Err(RecvError::Lagged(missed)) => Err(Error::lagged(missed)),
                    Err(RecvError::Closed) => return None,
                };
                return Some((item, (events, patterns)));
            }
        })))
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
        self.open().map_or_else(
            |error| Health::down(Duration::ZERO, error.message()),
            |_| Health::up(Duration::ZERO),
        )
    }
    async fn close(&self, _nothing_to_wait_for: Duration) -> Result<()> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.notices.send(NoticeKind::Closed);
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

    fabric.close(Duration::ZERO).await?;
    let mut heard = Vec::new();
    while let Some(delivery) = greetings.recv().await {
        heard.push(delivery?.text()?.into_owned());
    }
    println!("heard: {}", heard.join(", "));
    assert_eq!(heard, ["hello", "hallo"]);
    let error = fabric.publish(Event::to("greetings.en")).await.expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    Ok(())
}
