//! Requests, where the suite cannot look: what comes late, and what is left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::time::Duration;

use fabric_core::{ErrorKind, Event, Fabric};

/// What nothing may take longer than.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Waits until the fabric has counted so many late answers.
async fn counted(fabric: &Fabric, late: &str) {
    let seen = async {
        while fabric.health().await.details["late answers"] != late {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WATCHDOG, seen).await.unwrap();
}

async fn late_answers_are_counted(options: &str) {
    let fabric = support::connect(options).await.unwrap();
    let mut requests = fabric.responder("slow").serve("ask").await.unwrap();
    let asking = fabric.request(Event::to("ask").text("?")).timeout(Duration::from_millis(200));
    let error = asking.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let request = tokio::time::timeout(WATCHDOG, requests.recv()).await.unwrap();
    request.unwrap().unwrap().reply(Event::to("ask").text("late")).await.unwrap();
    counted(&fabric, "1").await;
    // What is asked next gets its own answer, with what it follows from.
    let asked = Event::to("ask").id("q").correlation_id("talk").text("?").build().unwrap();
    let (answer, _) = tokio::join!(fabric.request(asked), async {
        let request = tokio::time::timeout(WATCHDOG, requests.recv()).await.unwrap();
        request.unwrap().unwrap().reply(Event::to("ask").text("in time")).await.unwrap();
    });
    let answer = answer.unwrap();
    assert_eq!(answer.text().unwrap(), "in time");
    assert_eq!(answer.causation_id().unwrap(), &"q");
    assert_eq!(answer.correlation_id().unwrap(), &"talk");
    counted(&fabric, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_answers_are_dropped_and_counted() {
    late_answers_are_counted("prefix=late").await;
    late_answers_are_counted("prefix=late-core&mode=core").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_what_does_not_follow_from_its_request() {
    let fabric = support::connect("prefix=says&mode=core").await.unwrap();
    let mut requests = fabric.responder("r").serve("ask.*").await.unwrap();
    let (answer, _) = tokio::join!(fabric.request(Event::to("ask.a").id("q").text("?")), async {
        let request = tokio::time::timeout(WATCHDOG, requests.recv()).await.unwrap();
        let reply = Event::to("answers.b").causation_id("c").correlation_id("d").text("!");
        request.unwrap().unwrap().reply(reply).await.unwrap();
    });
    let answer = answer.unwrap();
    assert_eq!(answer.topic().as_str(), "answers.b");
    assert_eq!(answer.causation_id().unwrap(), &"c");
    assert_eq!(answer.correlation_id().unwrap(), &"d");
}
