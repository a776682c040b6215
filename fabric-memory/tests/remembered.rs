//! Subscriptions that survive a restart, on an instance that outlives the fabrics of each run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabric_core::{
    Error, ErrorKind, Event, Fabric, FileState, Group, MemoryState, NoticeKind, Position,
    Remembered, RememberedSubscription, Result, Start, StateStore, Subscription,
};
use fabric_memory::{Memory, MemoryConfig};
use futures_core::future::BoxFuture;
use tokio::time::timeout;

/// An instance that stands for the broker: it lives as long as this does.
struct World {
    name: String,
    keeper: Fabric,
}

impl World {
    fn new(name: &str) -> Self {
        let keeper = connect(name);
        Self { name: name.to_owned(), keeper }
    }

    /// A run of the program.
    fn run(&self) -> Fabric {
        connect(&self.name)
    }

    async fn publish(&self, topic: &str, n: usize) -> Position {
        let event = Event::to(topic).id(format!("{topic}-{n}")).text("x");
        self.keeper.publish(event).await.unwrap().position.unwrap()
    }
}

fn connect(name: &str) -> Fabric {
    Fabric::new(Memory::new(MemoryConfig::new().with_name(name)).unwrap())
}

/// A folder of this test's own, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("remembered-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state.json")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn plain(name: &str, patterns: &str) -> RememberedSubscription {
    RememberedSubscription::new(name, patterns.parse::<fabric_core::Patterns>().unwrap()).unwrap()
}

/// The ids of what is there now.
async fn ids(subscription: &mut Subscription) -> Vec<String> {
    let mut ids = Vec::new();
    while let Ok(Some(item)) = timeout(Duration::from_millis(50), subscription.recv()).await {
        ids.push(item.unwrap().id().to_string());
    }
    ids.sort();
    ids
}

async fn only(remembered: &Remembered) -> Subscription {
    let mut restored = remembered.restore().await.unwrap();
    assert_eq!(restored.len(), 1);
    restored.remove(0).1.unwrap()
}

#[tokio::test]
async fn a_restored_subscription_goes_on_behind_what_was_noted_and_loses_nothing() {
    let (world, folder) = (World::new("remembered-goes-on"), Folder::new());
    for n in 0..3 {
        world.publish("a.old", n).await;
    }
    {
        let fabric = world.run();
        let remembered = fabric.remembered(FileState::new(folder.file()));
        let mut reader = remembered.subscribe(plain("all", "a.*")).await.unwrap();
        for n in 3..6 {
            world.publish("a.old", n).await;
            world.publish("a.new", n).await;
        }
        // Four of six were dealt with: all of one topic, one of the other.
        let mut noted = 0;
        for _ in 0..6 {
            let delivery = reader.recv().await.unwrap().unwrap();
            if delivery.topic() == "a.new" || *delivery.id() == "a.old-3" {
                remembered.note("all", &delivery.position().unwrap()).await.unwrap();
                noted += 1;
            }
        }
        assert_eq!(noted, 4);
        remembered.flush().await.unwrap();
        fabric.close(Duration::from_secs(1)).await.unwrap();
    }
    world.publish("a.old", 6).await;
    world.publish("a.born_meanwhile", 0).await;
    let fabric = world.run();
    let remembered = fabric.remembered(FileState::new(folder.file()));
    let mut reader = only(&remembered).await;
    let got = ids(&mut reader).await;
    assert_eq!(got, ["a.born_meanwhile-0", "a.old-4", "a.old-5", "a.old-6"]);
    world.publish("a.new", 6).await;
    assert_eq!(ids(&mut reader).await, ["a.new-6"]);
}

#[tokio::test]
async fn nothing_is_lost_before_the_first_note_and_nothing_from_before_comes() {
    let (world, store) = (World::new("remembered-no-note"), MemoryState::new());
    world.publish("a.b", 0).await;
    drop(world.run().remembered(store.clone()).subscribe(plain("s", "a.*")).await.unwrap());
    world.publish("a.b", 1).await;
    world.publish("a.c", 1).await;
    let mut reader = only(&world.run().remembered(store)).await;
    assert_eq!(ids(&mut reader).await, ["a.b-1", "a.c-1"]);
}

#[tokio::test]
async fn another_of_the_same_name_keeps_the_place() {
    let (world, store) = (World::new("remembered-replaced"), MemoryState::new());
    let fabric = world.run();
    let remembered = fabric.remembered(store.clone());
    let all = plain("s", "a.*").with_start(Start::All);
    let reader = remembered.subscribe(all.clone()).await.unwrap();
    let place = world.publish("a.b", 0).await;
    world.publish("a.b", 1).await;
    remembered.note("s", &place).await.unwrap();
    drop(reader);
    let mut reader = remembered.subscribe(all.with_prefetch(7)).await.unwrap();
    assert_eq!(ids(&mut reader).await, ["a.b-1"]);
    let listed = remembered.list().await.unwrap();
    assert_eq!((listed.len(), listed[0].prefetch), (1, Some(7)));
    assert_eq!(listed[0].cursor.as_ref().unwrap().iter().next(), Some(&place));
}

#[tokio::test]
async fn a_group_is_restored_with_its_options_and_keeps_its_own_place() {
    let (world, folder) = (World::new("remembered-group"), Folder::new());
    let wanted = plain("workers", "a.*")
        .with_group(Group::new("g").unwrap())
        .with_ack_wait(Duration::from_secs(9))
        .with_max_deliver(4);
    {
        let remembered = world.run().remembered(FileState::new(folder.file()));
        let mut reader = remembered.subscribe(wanted.clone()).await.unwrap();
        let place = world.publish("a.b", 0).await;
        world.publish("a.b", 1).await;
        reader.recv().await.unwrap().unwrap().ack().await.unwrap();
        let error = remembered.note("workers", &place).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("settle"), "{error}");
    }
    let remembered = world.run().remembered(FileState::new(folder.file()));
    assert_eq!(remembered.list().await.unwrap(), [wanted]);
    let mut reader = only(&remembered).await;
    assert_eq!(reader.definition().unwrap().max_deliver, Some(4));
    let second = reader.recv().await.unwrap().unwrap();
    assert_eq!(second.id().to_string(), "a.b-1");
    second.ack().await.unwrap();
}

#[tokio::test]
async fn a_place_in_a_stream_that_is_gone_is_told_and_the_rest_goes_on() {
    let (world, store) = (World::new("remembered-gone"), MemoryState::new());
    {
        let remembered = world.run().remembered(store.clone());
        let _reader = remembered.subscribe(plain("s", "a.*")).await.unwrap();
        for topic in ["a.kept", "a.lost"] {
            let place = world.publish(topic, 0).await;
            remembered.note("s", &place).await.unwrap();
        }
        remembered.flush().await.unwrap();
    }
    // The stream of one topic is made anew: its place is of another life.
    let mut stored = store.load().await.unwrap().remove(0);
    let places = stored.cursor.take().unwrap();
    let gone: Position = "a.lost@dead:7".parse().unwrap();
    stored.cursor = Some(
        places
            .iter()
            .map(|place| if place.topic == "a.lost" { gone.clone() } else { place.clone() })
            .collect(),
    );
    store.save(&stored).await.unwrap();
    world.publish("a.kept", 1).await;
    let fabric = world.run();
    let mut notices = fabric.notices();
    let remembered = fabric.remembered(store.clone());
    let mut reader = only(&remembered).await;
    let told = reader.recv().await.unwrap().unwrap_err();
    assert_eq!((told.kind(), told.context("topic")), (ErrorKind::Lagged, Some("a.lost")));
    assert_eq!(told.missed(), None);
    assert_eq!(ids(&mut reader).await, ["a.kept-1", "a.lost-0"]);
    let notice = std::iter::from_fn(|| notices.try_next())
        .find(|notice| matches!(notice.kind, NoticeKind::PlaceLost { .. }));
    let Some(NoticeKind::PlaceLost { name, position }) = notice.map(|notice| notice.kind) else {
        panic!("no notice");
    };
    assert_eq!((name.as_str(), position), ("s", gone.clone()));
    // It is told once.
    remembered.flush().await.unwrap();
    let cursor = store.load().await.unwrap().remove(0).cursor.unwrap();
    assert!(cursor.iter().all(|place| *place != gone) && cursor.iter().len() == 1);
}

#[tokio::test]
async fn a_broker_that_lost_everything_is_read_from_its_oldest_event() {
    let store = MemoryState::new();
    {
        let world = World::new("remembered-new-world");
        let remembered = world.run().remembered(store.clone());
        let _reader = remembered.subscribe(plain("s", "a.*")).await.unwrap();
        for topic in ["a.b", "a.c"] {
            remembered.note("s", &world.publish(topic, 0).await).await.unwrap();
        }
        remembered.flush().await.unwrap();
    }
    let world = World::new("remembered-new-world");
    world.publish("a.b", 9).await;
    let mut reader = only(&world.run().remembered(store)).await;
    for topic in ["a.b", "a.c"] {
        let told = reader.recv().await.unwrap().unwrap_err();
        assert_eq!((told.kind(), told.context("topic")), (ErrorKind::Lagged, Some(topic)));
    }
    assert_eq!(ids(&mut reader).await, ["a.b-9"]);
}

#[tokio::test]
async fn what_is_forgotten_is_not_restored_and_what_cannot_be_noted_is_refused() {
    let (world, store) = (World::new("remembered-forgotten"), MemoryState::new());
    let fabric = world.run();
    let remembered = fabric.remembered(store);
    let kind = |result: Result<()>| result.unwrap_err().kind();
    let place = world.publish("a.b", 0).await;
    assert_eq!(kind(remembered.note("s", &place).await), ErrorKind::NotFound);
    let _reader = remembered.subscribe(plain("s", "a.*")).await.unwrap();
    let elsewhere = world.publish("b", 0).await;
    assert_eq!(kind(remembered.note("s", &elsewhere).await), ErrorKind::Config);
    remembered.note("s", &place).await.unwrap();
    assert!(remembered.forget("s").await.unwrap());
    assert!(!remembered.forget("s").await.unwrap());
    assert_eq!(kind(remembered.note("s", &place).await), ErrorKind::NotFound);
    remembered.flush().await.unwrap();
    assert!(remembered.restore().await.unwrap().is_empty());
    let group = plain("s", "a").with_group(Group::new("g").unwrap());
    let both = group.with_cursor([place].into_iter().collect());
    assert_eq!(remembered.subscribe(both).await.unwrap_err().kind(), ErrorKind::Config);
    assert!(remembered.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_that_cannot_be_opened_harms_no_other_and_a_damaged_file_is_no_empty_one() {
    let (world, folder) = (World::new("remembered-mismatch"), Folder::new());
    let store = FileState::new(folder.file());
    let grouped = |name: &str, patterns: &str| {
        plain(name, patterns).with_group(Group::new("shared").unwrap())
    };
    store.save(&grouped("bad", "other.*")).await.unwrap();
    store.save(&grouped("good", "a.*")).await.unwrap();
    let fabric = world.run();
    let _first = fabric.subscribe("a.*").group("shared").await.unwrap();
    let remembered = fabric.remembered(store);
    let restored = remembered.restore().await.unwrap();
    let names: Vec<_> = restored.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bad", "good"]);
    assert_eq!(restored[0].1.as_ref().unwrap_err().kind(), ErrorKind::GroupMismatch);
    assert!(restored[1].1.is_ok());
    assert_eq!(remembered.list().await.unwrap().len(), 2);
    std::fs::write(folder.file(), "{").unwrap();
    assert_eq!(remembered.restore().await.unwrap_err().kind(), ErrorKind::Config);
    let error = remembered.subscribe(plain("more", "a.*")).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Config, Some("subscribe")));
    assert_eq!(std::fs::read_to_string(folder.file()).unwrap(), "{");
}

/// Counts the saves, and refuses them while told to.
#[derive(Clone, Debug, Default)]
struct Counting(MemoryState, Arc<Mutex<(u32, bool)>>);

impl StateStore for Counting {
    fn load(&self) -> BoxFuture<'_, Result<Vec<RememberedSubscription>>> {
        self.0.load()
    }

    fn save<'a>(&'a self, subscription: &'a RememberedSubscription) -> BoxFuture<'a, Result<()>> {
        let mut counted = self.1.lock().unwrap();
        counted.0 += 1;
        if counted.1 {
            return Box::pin(async { Err(Error::new(ErrorKind::Full, "the disk is full")) });
        }
        self.0.save(subscription)
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.0.remove(name)
    }
}

#[tokio::test(start_paused = true)]
async fn notes_are_saved_once_a_second_and_a_failed_save_is_made_up_for() {
    let (world, store) = (World::new("remembered-throttled"), Counting::default());
    let saves = || store.1.lock().unwrap().0;
    let stored = async || {
        let cursor = store.load().await.unwrap().remove(0).cursor.unwrap();
        cursor.iter().next().cloned()
    };
    let remembered = world.run().remembered(store.clone());
    let _reader = remembered.subscribe(plain("s", "a")).await.unwrap();
    assert_eq!(saves(), 1);
    let mut last = None;
    for n in 0..1000 {
        let place = world.publish("a", n).await;
        remembered.note("s", &place).await.unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
        last = Some(place);
    }
    assert_eq!(saves(), 1 + 9);
    assert_ne!(stored().await, last);
    remembered.flush().await.unwrap();
    assert_eq!((saves(), stored().await), (11, last));
    remembered.flush().await.unwrap();
    assert_eq!(saves(), 11);

    store.1.lock().unwrap().1 = true;
    tokio::time::advance(Duration::from_secs(1)).await;
    let place = world.publish("a", 1000).await;
    assert_eq!(remembered.note("s", &place).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(remembered.flush().await.unwrap_err().kind(), ErrorKind::Full);
    store.1.lock().unwrap().1 = false;
    remembered.flush().await.unwrap();
    assert_eq!(stored().await, Some(place));
}
