use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabric_core::layers::{self, Hooks};
use fabric_core::{
    Batch, DeliveryInfo, Error, ErrorKind, Event, Fabric, Nack, Outcomes, Receipt, Request, Result,
    Settlement,
};
use futures_util::{FutureExt as _, StreamExt as _};

use crate::tiny::{Answer, Tiny, chunk, event, ids};

/// Notes what it sees, marks what passes, and fails for the ids it is told.
#[derive(Clone, Default)]
struct Marks {
    name: &'static str,
    seen: Arc<Mutex<Vec<String>>>,
    refuse: &'static [&'static str],
    drop: &'static [&'static str],
    panic: &'static [&'static str],
}

impl Marks {
    fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    fn with(name: &'static str, seen: &Arc<Mutex<Vec<String>>>) -> Self {
        Self { seen: Arc::clone(seen), ..Self::new(name) }
    }

    fn note(&self, what: &str, event: &Event, more: &str) {
        self.seen.lock().unwrap().push(format!("{} {what} {}{more}", self.name, event.id()));
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn mark(&self, event: &mut Event, name: &str) -> Result<()> {
        let marks = event.header(name).unwrap_or_default().to_owned();
        event.set_header(name, marks + self.name)
    }

    fn check(&self, event: &Event, list: &[&str]) -> Result<()> {
        let id = event.id().to_string();
        assert!(!self.panic.contains(&id.as_str()), "no {id}");
        match list.contains(&id.as_str()) {
            true => {
                Err(Error::new(ErrorKind::InvalidEvent, format!("{} takes no {id}", self.name)))
            }
            false => Ok(()),
        }
    }
}

impl Hooks for Marks {
    fn publish(&self, event: &mut Event) -> Result<()> {
        self.note("publish", event, "");
        self.mark(event, "out")?;
        self.check(event, self.refuse)
    }

    fn published(&self, event: &Event, result: &Result<Receipt>) {
        let marks = event.header("out").unwrap_or_default();
        let more = if result.is_ok() { " ok" } else { " failed" };
        self.note("published", event, &format!("{more} {marks}"));
    }

    fn deliver(&self, event: &mut Event, _: &DeliveryInfo) -> Result<()> {
        self.note("deliver", event, "");
        self.mark(event, "in")?;
        self.check(event, self.drop)
    }

    fn settled(&self, event: &Event, info: &DeliveryInfo, settlement: Settlement) {
        let marks = event.header("in").unwrap_or_default();
        let group = info.group.as_ref().unwrap();
        self.note("settled", event, &format!(" {settlement:?} {marks} {group}"));
    }
}

fn two_layers(tiny: &Tiny) -> (Fabric, Marks) {
    let seen = Arc::default();
    let fabric = tiny.fabric().layer(layers::hooks(Marks::with("i", &seen))).unwrap();
    let fabric = fabric.layer(layers::hooks(Marks::with("o", &seen))).unwrap();
    (fabric, Marks::with("", &seen))
}

#[tokio::test]
async fn a_publish_goes_from_the_outer_layer_to_the_inner_and_its_confirm_back() {
    for tiny in [Tiny::new(), Tiny::new().slow()] {
        let (fabric, seen) = two_layers(&tiny);
        fabric.publish(event("1")).await.unwrap();
        assert_eq!(tiny.published()[0].header("out"), Some("oi"));
        let mut seen = seen.seen();
        // Where there is no room at once the hooks run again, on the event as it came.
        if seen.len() > 4 {
            assert_eq!(seen.drain(..2).collect::<Vec<_>>(), ["o publish 1", "i publish 1"]);
        }
        let expected = ["o publish 1", "i publish 1", "i published 1 ok oi", "o published 1 ok o"];
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_delivery_goes_from_the_inner_layer_to_the_outer_and_so_does_its_settlement() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2"])), Ok(chunk(["3"]))]);
    let (fabric, seen) = two_layers(&tiny);
    let mut deliveries = fabric.subscribe("#").group("g").await.unwrap();
    let first = deliveries.recv().await.unwrap().unwrap();
    assert_eq!((first.header("in"), first.attempt()), (Some("io"), 1));
    let second = deliveries.recv().await.unwrap().unwrap();
    first.ack().await.unwrap();
    second.nack(Duration::from_secs(1)).await.unwrap();
    deliveries.recv().await.unwrap().unwrap().reject("never").await.unwrap();
    let seen = seen.seen();
    let settled: Vec<_> = seen.iter().filter(|line| line.contains("settled")).collect();
    assert_eq!(
        settled,
        [
            "i settled 1 Ack i g",
            "o settled 1 Ack io g",
            "i settled 2 Nack i g",
            "o settled 2 Nack io g",
            "i settled 3 Reject i g",
            "o settled 3 Reject io g",
        ]
    );
    let delivered: Vec<_> = seen.iter().filter(|line| line.contains("deliver ")).collect();
    assert_eq!(delivered[..2], ["i deliver 1", "i deliver 2"]);
    assert_eq!(delivered[2..4], ["o deliver 1", "o deliver 2"]);
    let expected = ["subscribe #", "ack 1", "nack after 1s 2", "submit dlq.g 3", "ack all 3"];
    assert_eq!(tiny.log(), expected);
}

#[tokio::test]
async fn a_settlement_is_told_once_and_only_when_it_succeeded() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2", "3"]))]);
    let seen = Marks::new("h");
    let fabric = tiny.fabric().layer(layers::hooks(seen.clone())).unwrap();
    let mut deliveries = fabric.subscribe("#").group("g").await.unwrap();
    let batch = deliveries.recv_batch(3, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(seen.seen().len(), 3);
    tiny.settle_with([Err(Error::new(ErrorKind::Connect, "the link is cut"))]);
    let failed = batch.ack().await.unwrap_err();
    assert_eq!(seen.seen(), Vec::<String>::new());
    failed.delivery.ack().await.unwrap();
    let settled = ["h settled 1 Ack h g", "h settled 2 Ack h g", "h settled 3 Ack h g"];
    assert_eq!(seen.seen(), settled);
}

#[tokio::test]
async fn the_nack_of_the_last_attempt_is_a_reject() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1"]).with_attempt(2)), Ok(chunk(["2"]).with_attempt(3))]);
    let seen = Marks::new("h");
    let fabric = tiny.fabric().layer(layers::hooks(seen.clone())).unwrap();
    let mut deliveries = fabric.subscribe("#").group("g").max_deliver(2).await.unwrap();
    deliveries.recv().await.unwrap().unwrap().nack(Nack::now()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), deliveries.recv()).await.is_err());
    let settled: Vec<_> = seen.seen().into_iter().filter(|line| line.contains("settled")).collect();
    // The second was beyond its attempts: nobody got it.
    assert_eq!(settled, ["h settled 1 Reject h g", "h settled 2 Reject h g"]);
}

#[tokio::test]
async fn a_hook_that_fails_harms_its_event_alone() {
    for (tiny, runs) in [(Tiny::new(), 1), (Tiny::new().slow(), 1)] {
        let tiny = tiny.answering(|event| match event.id().to_string().as_str() {
            "4" => Err(Error::new(ErrorKind::Full, "no room for 4")),
            id => Ok(Receipt::unrouted().with_routed(id == "1")),
        });
        let refuse = Marks { refuse: &["2", "6"], panic: &["3"], ..Marks::new("h") };
        let fabric = tiny.fabric().layer(layers::hooks(refuse.clone())).unwrap();
        let batch = || Batch::new(["1", "2", "3", "4", "5", "6"].map(event));
        let outcomes: Outcomes = match fabric.backend().try_submit(batch()) {
            Ok(confirms) => confirms.await,
            Err(batch) => fabric.backend().submit(batch).await.unwrap().await,
        };
        let outcomes: Vec<_> = outcomes
            .iter()
            .map(|result| match result {
                Ok(receipt) => format!("{:?}", receipt.routed),
                Err(error) => error.message().to_owned(),
            })
            .collect();
        let panicked = "the hook `core::hooks::Marks` panicked: no 3";
        let expected = [
            "Some(true)",
            "h takes no 2",
            panicked,
            "no room for 4",
            "Some(false)",
            "h takes no 6",
        ];
        assert_eq!(outcomes, expected);
        assert_eq!(ids(&tiny.published()), ["1", "4", "5"]);
        let seen = refuse.seen();
        let told: Vec<_> = seen.iter().filter(|line| line.contains("published")).collect();
        let expected = ["1 ok", "2 failed", "3 failed", "4 failed", "5 ok", "6 failed"];
        assert_eq!(told, expected.map(|what| format!("h published {what} h")).each_ref());
        assert!(seen.len() >= 6 * runs + 6);
    }
}

#[tokio::test]
async fn a_batch_of_which_nothing_is_left_is_no_flush() {
    for tiny in [Tiny::new(), Tiny::new().slow()] {
        let refuse = Marks { refuse: &["1"], ..Marks::new("h") };
        let fabric = tiny.fabric().layer(layers::hooks(refuse)).unwrap();
        let error = fabric.publish(event("1")).await.unwrap_err();
        assert_eq!(error.to_string(), "publish on tiny: h takes no 1 (topic: a.b, id: 1)");
        assert_eq!(tiny.log(), Vec::<String>::new());
        fabric.flush().await.unwrap();
        assert_eq!(tiny.log(), ["flush"]);
    }
}

#[tokio::test]
async fn a_submit_that_fails_is_told_for_each_event() {
    let tiny = Tiny::new().with_room(0);
    let seen = Marks { refuse: &["2"], ..Marks::new("h") };
    let fabric = tiny.fabric().layer(layers::hooks(seen.clone())).unwrap();
    fabric.close(Duration::ZERO).await.unwrap();
    let batch = Batch::new(["1", "2"].map(event));
    let error = fabric.backend().submit(batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let expected =
        ["h publish 1", "h publish 2", "h published 1 failed h", "h published 2 failed h"];
    assert_eq!(seen.seen(), expected);
}

#[tokio::test]
async fn the_way_without_waiting_is_tried_less_where_it_is_never_open() {
    let tiny = Tiny::new().slow();
    let seen = Marks::new("h");
    let fabric = tiny.fabric().layer(layers::hooks(seen.clone())).unwrap();
    for n in 0..1000 {
        fabric.publish(event(&n.to_string())).await.unwrap();
    }
    let runs = seen.seen().iter().filter(|line| line.contains("publish ")).count();
    assert!(runs < 1030, "{runs}");
    assert!(tiny.published().iter().all(|event| event.header("out") == Some("h")));
}

#[tokio::test]
async fn a_delivery_that_fails_is_a_dead_letter_in_a_group_and_an_error_without_one() {
    let tiny = Tiny::new();
    let hooks = Marks { drop: &["2"], panic: &["3"], ..Marks::new("h") };
    let fabric = tiny.fabric().layer(layers::hooks(hooks.clone())).unwrap();

    tiny.deliver([Ok(chunk(["1", "2", "3", "4"]))]);
    let mut deliveries = fabric.subscribe("#").group("g").await.unwrap();
    let batch = deliveries.recv_batch(9, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(ids(batch.iter()), ["1", "4"]);
    batch.ack().await.unwrap();
    while tokio::time::timeout(Duration::from_millis(20), deliveries.recv()).await.is_ok() {}
    let letters = tiny.published();
    assert_eq!(ids(&letters), ["2", "3"]);
    for (letter, error) in letters.iter().zip(["h takes no 2", "panicked: no 3"]) {
        assert_eq!(letter.topic(), "dlq.g");
        // The envelope of the letter is that of the event as it came; the hook saw it go, too.
        assert_eq!(letter.header("in"), None);
        let noted = letter.dead_letter().unwrap();
        assert_eq!(noted.reason.as_str(), "decode");
        assert!(noted.error.contains(error), "{}", noted.error);
    }

    tiny.deliver(["1", "2", "4"].map(|id| Ok(chunk([id]))));
    let mut deliveries = fabric.subscribe("#").await.unwrap();
    assert_eq!(deliveries.recv().await.unwrap().unwrap().id(), &"1");
    let error = deliveries.recv().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.context("id")), (ErrorKind::InvalidEvent, Some("2")));
    assert_eq!(deliveries.recv().await.unwrap().unwrap().id(), &"4");
}

#[tokio::test]
async fn a_hook_that_refuses_both_ways_keeps_no_event_from_the_dead_letters() {
    let tiny = Tiny::new();
    let hooks = Marks { drop: &["1"], refuse: &["1"], ..Marks::new("h") };
    let fabric = tiny.fabric().layer(layers::hooks(hooks)).unwrap();
    tiny.deliver([Ok(chunk(["1"]))]);
    let mut deliveries = fabric.subscribe("#").group("g").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), deliveries.recv()).await.is_err());
    assert_eq!(tiny.log(), ["subscribe #", "submit dlq.g 1", "ack all 1"]);
    let letter = tiny.published().remove(0);
    assert_eq!(letter.header("out"), None);

    // It can be looked at, and sent back only by who makes it pass.
    tiny.deliver([Ok(fabric_core::Chunk::one(letter))]);
    let mut letters = fabric.subscribe("dlq.g").await.unwrap();
    let letter = letters.recv().await.unwrap().unwrap();
    assert_eq!((letter.header("in"), letter.dead_letter().is_some()), (None, true));
}

#[tokio::test]
async fn replays_requests_replies_and_what_goes_to_one_group_pass_the_hooks() {
    let tiny = Tiny::new().ending();
    let hooks = Marks { refuse: &["bad"], drop: &["bad", "worse"], ..Marks::new("h") };
    let fabric = tiny.fabric().layer(layers::hooks(hooks.clone())).unwrap();

    tiny.deliver(["1", "bad"].map(|id| Ok(chunk([id]))));
    let mut replay = fabric.replay("#").await.unwrap();
    assert_eq!(replay.next().await.unwrap().unwrap().header("in"), Some("h"));
    assert!(replay.next().await.unwrap().is_err());
    assert!(replay.next().await.is_none());

    let reply = fabric.request(event("2")).await.unwrap();
    assert_eq!(reply.header("asked"), Some("{out: h}"));
    assert_eq!(reply.header("in"), Some("h"));
    assert!(fabric.request(event("bad")).await.is_err());
    assert_eq!(tiny.log().iter().filter(|line| line.starts_with("request")).count(), 1);

    let groups = fabric.groups().unwrap();
    groups.send_to("g", event("3"), None, 4).await.unwrap().await;
    assert_eq!(tiny.log(), ["submit a.b 3 to g attempt 4"]);
    assert_eq!(tiny.published().last().unwrap().header("out"), Some("h"));
    let refused = groups.send_to("g", event("bad"), None, 4).await.unwrap().await;
    assert!(refused.iter().all(|result| result.is_err()));
    groups.delete("g").await.unwrap();
    assert_eq!(groups.list().await.unwrap(), ["g"]);
    assert_eq!(tiny.log(), ["delete g"]);
}

#[tokio::test]
async fn a_responder_gets_requests_and_gives_replies_through_the_hooks() {
    let tiny = Tiny::new();
    let hooks = Marks { refuse: &["bad"], drop: &["worse"], ..Marks::new("h") };
    let fabric = tiny.fabric().layer(layers::hooks(hooks)).unwrap();
    let answers: [Answer; 4] = std::array::from_fn(|_| Answer::default());
    for (id, answer) in ["1", "worse", "2", "3"].into_iter().zip(&answers) {
        tiny.ask(Request::new(event(id), answer.clone()));
    }
    let mut requests = fabric.responder("r").serve("#").await.unwrap();
    let request = requests.recv().await.unwrap().unwrap();
    assert_eq!(request.header("in"), Some("h"));
    request.reply(event("good")).await.unwrap();
    assert_eq!(answers[0].get().unwrap().unwrap().header("out"), Some("h"));

    assert!(requests.recv().await.unwrap().is_err());
    assert!(answers[1].get().unwrap().unwrap_err().contains("h takes no worse"));

    let request = requests.recv().await.unwrap().unwrap();
    assert_eq!(request.reply(event("bad")).await.unwrap_err().message(), "h takes no bad");
    assert!(answers[2].get().unwrap().unwrap_err().contains("h takes no bad"));

    requests.recv().await.unwrap().unwrap().fail("no").await.unwrap();
    assert_eq!(answers[3].get().unwrap().unwrap_err(), "no");
}

#[tokio::test]
async fn a_publisher_that_waits_for_room_is_not_overtaken() {
    let tiny = Tiny::new().with_room(1);
    let seen = Marks::new("h");
    let fabric = tiny.fabric().layer(layers::hooks(seen.clone())).unwrap();
    fabric.publish(event("1")).await.unwrap();
    let mut second = Box::pin(fabric.publish(event("2")).into_future());
    assert!((&mut second).now_or_never().is_none());
    let mut third = Box::pin(fabric.publish(event("3")).into_future());
    assert!((&mut third).now_or_never().is_none());
    tiny.make_room(2);
    second.await.unwrap();
    third.await.unwrap();
    assert_eq!(ids(&tiny.published()), ["1", "2", "3"]);
    assert!(tiny.published().iter().all(|event| event.header("out") == Some("h")));
}

#[tokio::test]
async fn a_hook_that_panics_after_the_fact_changes_nothing() {
    struct Loud;
    impl Hooks for Loud {
        fn published(&self, _: &Event, _: &Result<Receipt>) {
            panic!("loud");
        }
        fn settled(&self, _: &Event, _: &DeliveryInfo, _: Settlement) {
            panic!("loud");
        }
    }
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1"]))]);
    let fabric = tiny.fabric().layer(layers::hooks(Arc::new(Loud))).unwrap();
    fabric.publish(event("2")).await.unwrap();
    let mut deliveries = fabric.subscribe("#").group("g").await.unwrap();
    deliveries.recv().await.unwrap().unwrap().ack().await.unwrap();
    assert_eq!(tiny.log(), ["submit a.b 2", "subscribe #", "ack all 1"]);
}
