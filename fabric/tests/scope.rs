//! Scoped use: the fabric is closed at the end, whatever happened inside.

#![cfg(feature = "memory")]

use std::future::pending;
use std::time::Duration;

use fabric::{ErrorKind, Event, Fabric, Result, connect};

#[tokio::test]
async fn a_scope_returns_what_its_work_returned_and_closes() {
    let fabric = connect("memory://").await.unwrap();
    let kept = fabric.clone();
    let sum = fabric
        .scope(async |fabric| -> Result<usize> {
            let mut events = fabric.subscribe("#").await?;
            fabric.publish(Event::to("a").text("four")).await?;
            let event = events.recv().await.expect("it is open")?;
            Ok(event.text()?.len())
        })
        .await
        .unwrap();
    assert_eq!(sum.unwrap(), 4);
    assert_is_closed(&kept).await;
}

#[tokio::test]
async fn a_scope_closes_also_when_its_work_fails() {
    let fabric = connect("memory://").await.unwrap();
    let kept = fabric.clone();
    let work = async |fabric: Fabric| fabric.publish(Event::to("not a topic")).await;
    let failed = fabric.scope(work).await.unwrap();
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidTopic);
    assert_is_closed(&kept).await;
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_is_given_up_closes_nothing() {
    let fabric = connect("memory://").await.unwrap();
    let kept = fabric.clone();
    let scope = fabric.scope(async |_| pending::<()>().await);
    tokio::time::timeout(Duration::from_secs(1), scope).await.unwrap_err();
    kept.publish(Event::to("a")).await.unwrap();
}

async fn assert_is_closed(fabric: &Fabric) {
    let error = fabric.publish(Event::to("a")).await.expect_err("the scope has closed it");
    assert_eq!(error.kind(), ErrorKind::Closed);
    fabric.close(Duration::from_secs(1)).await.expect("closing once more is fine");
}
