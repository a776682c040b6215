//! What a stack cannot do is refused before anything is sent, naming the option and the backend.

use std::time::Duration;

use fabric_core::{
    Ability, AckMode, Capabilities, Cursor, ErrorKind, Event, Fabric, GroupDefinition,
    IntoPatterns as _, Position, Priority, Result, RetryClass, Start, Support, Timestamp, WhenFull,
};
use futures_core::future::BoxFuture;

use crate::tiny::{Tiny, event};

type Call = fn(Fabric) -> BoxFuture<'static, Result<()>>;

fn place() -> Position {
    "a.b@1:7".parse().unwrap()
}

fn definition() -> GroupDefinition {
    GroupDefinition::new("#".into_patterns().unwrap())
}

/// A call and the ability that it needs beside those that it takes for granted.
macro_rules! needs {
    ($($ability:ident: $fabric:ident => $call:expr;)+) => {
        vec![$((Ability::$ability, (|$fabric| Box::pin(async move { $call.map(drop) })) as Call)),+]
    };
}

fn calls() -> Vec<(Ability, Call)> {
    const SECOND: Duration = Duration::from_secs(1);
    needs! {
        ExpectLast: f => f.publish(event("1")).expect_last(place()).await;
        ExpectLast: f => f.submit(event("1")).expect_last(place()).await;
        ExpectLast: f => f.publish(event("1")).expect_empty().await;
        Transient: f => f.publish(event("1")).transient().await;
        Ttl: f => f.publish(Event::to("a").ttl(SECOND)).await;
        Delay: f => f.publish(Event::to("a").delay(SECOND)).await;
        Delay: f => f.publish(Event::to("a").deliver_at(Timestamp::now())).await;
        Priority: f => f.publish(Event::to("a").priority(Priority::High)).await;
        FanOut: f => f.subscribe("a").await;
        Groups: f => f.subscribe("a").group("g").await;
        LiveGroups: f => f.subscribe("a").live_group("g").await;
        GroupRedefine: f => f.subscribe("a").group("g").redefine_group().await;
        Lease: f => f.subscribe("a").group("g").ack_wait(SECOND).await;
        Attempts: f => f.subscribe("a").group("g").max_deliver(3).await;
        DeadLetters: f => f.subscribe("a").group("g").max_deliver(3).await;
        AckConfirmed: f => f.subscribe("a").group("g").ack_mode(AckMode::Confirmed).await;
        Prefetch: f => f.subscribe("a").prefetch(3).await;
        WhenFullBlock: f => f.subscribe("a").when_full(WhenFull::Block).await;
        WhenFullDropOldest: f => f.subscribe("a").when_full(WhenFull::DropOldest).await;
        WhenFullDropNewest: f => f.subscribe("a").when_full(WhenFull::DropNewest).await;
        WhenFullFail: f => f.subscribe("a").when_full(WhenFull::Fail).await;
        StartAll: f => f.subscribe("a").start_at(Start::All).await;
        StartLast: f => f.subscribe("a").start_at(Start::Last).await;
        StartLastPerTopic: f => f.subscribe("a").start_at(Start::LastPerTopic).await;
        StartTime: f => f.subscribe("a").start_at(Timestamp::now()).await;
        StartPosition: f => f.subscribe("a.b").start_at(Start::At(place())).await;
        StartPosition: f => f.subscribe("a.b").start_at(Start::After(place())).await;
        StartPosition: f => f.subscribe("a.b").start_at(Cursor::new()).await;
        Replay: f => f.replay("a").await;
        StartTime: f => f.replay("a").start_at(Timestamp::now()).await;
        StartPosition: f => f.replay("a.b").start_at(Start::At(place())).await;
        RequestReply: f => f.request(event("1")).await;
        RequestReply: f => f.responder("r").serve("a").await;
        GroupDefine: f => f.groups()?.define("g", definition()).await;
        GroupRedefine: f => f.groups()?.redefine("g", "a").await;
        GroupReset: f => f.groups()?.reset("g", Start::All).await;
        GroupDelete: f => f.groups()?.delete("g").await;
        GroupList: f => f.groups()?.list().await;
        GroupInfo: f => f.groups()?.info("g").await;
        GroupSend: f => f.groups()?.send_to("g", event("1"), None, 1).await;
    }
}

#[tokio::test]
async fn each_option_is_refused_by_its_name_where_its_ability_is_missing() {
    for (ability, call) in calls() {
        for level in [Support::No, Support::Unknown] {
            let tiny = Tiny::new().can(Capabilities::all(Support::Native).with(ability, level));
            let error = call(tiny.fabric()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{ability}: {error}");
            assert_eq!(error.retry(), RetryClass::Never);
            assert_eq!(error.backend(), Some("tiny"), "{ability}: {error}");
            assert!(error.message().contains(ability.as_str()), "{ability}: {error}");
            assert!(error.operation().is_some(), "{ability}: {error}");
            assert_eq!(tiny.log(), Vec::<String>::new(), "{ability}");
        }
        // With the ability the same call goes through.
        let tiny = Tiny::new().can(Capabilities::all(Support::Emulated));
        call(tiny.fabric()).await.unwrap_or_else(|error| panic!("{ability}: {error}"));
    }
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let tiny = Tiny::new();
    let f = tiny.fabric();
    let second = Duration::from_secs(1);
    let calls: Vec<(&str, Result<()>)> = vec![
        ("`ack_wait` needs", f.subscribe("a").ack_wait(second).await.map(drop)),
        ("`ack_wait` needs", f.subscribe("a").live_group("g").ack_wait(second).await.map(drop)),
        ("`max_deliver` needs", f.subscribe("a").max_deliver(3).await.map(drop)),
        ("`ack_mode` needs", f.subscribe("a").ack_mode(AckMode::Confirmed).await.map(drop)),
        ("`redefine_group` needs", f.subscribe("a").redefine_group().await.map(drop)),
        (
            "`ack_wait` of zero",
            f.subscribe("a").group("g").ack_wait(Duration::ZERO).await.map(drop),
        ),
        ("`max_deliver` of zero", f.subscribe("a").group("g").max_deliver(0).await.map(drop)),
        ("`prefetch` of zero", f.subscribe("a").prefetch(0).await.map(drop)),
        ("does not match", f.subscribe("c").start_at(Start::At(place())).await.map(drop)),
        ("does not match", f.replay("c").start_at(Start::After(place())).await.map(drop)),
        ("would be empty", f.replay("a").start_at(Start::New).await.map(drop)),
    ];
    for (text, result) in calls {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.message().contains(text), "{text}: {error}");
    }
    assert_eq!(tiny.log(), Vec::<String>::new());
}

#[tokio::test]
async fn bad_names_are_refused_before_anything_is_sent() {
    let tiny = Tiny::new();
    let f = tiny.fabric();
    let calls: Vec<Result<()>> = vec![
        f.publish(Event::to("a..b")).await.map(drop),
        f.publish(Event::to("dlq.g")).await.map(drop),
        f.publish(Event::to("_reply.g")).await.map(drop),
        f.publish(Event::to("_fabric.g")).await.map(drop),
        f.subscribe("a..b").await.map(drop),
        f.subscribe("a.b>").await.map(drop),
        f.subscribe("a").group("g.h").await.map(drop),
        f.replay(["a", ""]).await.map(drop),
        f.request(Event::to("dlq.g").build().unwrap()).await.map(drop),
        f.responder("r.s").serve("a").await.map(drop),
        f.groups().unwrap().info("g.h").await.map(drop),
        f.groups().unwrap().send_to("g", Event::to("dlq.g"), None, 1).await.map(drop),
    ];
    for (n, result) in calls.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTopic, "{n}: {error}");
    }
    assert_eq!(tiny.log(), Vec::<String>::new());
}

#[tokio::test]
async fn an_event_larger_than_the_stack_takes_is_refused() {
    let limits =
        Capabilities::all(Support::Native).with_max_payload(Some(10)).with_max_headers(Some(12));
    let tiny = Tiny::new().can(limits);
    let f = tiny.fabric();
    let sized = |bytes: usize| Event::to("a.b").id("1").payload(vec![b'x'; bytes]);
    f.publish(sized(10).header("tenant", "acme!!")).await.unwrap();
    tiny.log();
    for event in [
        sized(11),
        sized(1).header("tenant", "acme!!!"),
        sized(1).header("tenant", "acme").extension("ref", "x"),
    ] {
        let error = f.publish(event).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::TooLarge, RetryClass::Never));
        assert!(error.message().contains("`tiny` takes"), "{error}");
    }
    let error = f.request(sized(11).build().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(tiny.log(), Vec::<String>::new());
}

#[tokio::test]
async fn a_family_that_is_missing_is_refused() {
    let error = Tiny::new().fabric().admin().unwrap_err();
    assert_eq!((error.kind(), error.backend()), (ErrorKind::Unsupported, Some("tiny")));
    let least = Capabilities::NONE.with(Ability::Replay, Support::Native);
    Tiny::new().fabric().require(least).unwrap();
    let tiny = Tiny::new().can(Capabilities::all(Support::Emulated));
    let error = tiny.fabric().require(least).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unsupported, Some("require")));
    assert!(error.message().contains("replay as native (it has: emulated)"), "{error}");
}
