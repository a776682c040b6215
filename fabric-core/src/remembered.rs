//! Subscriptions that survive a restart: what was subscribed, and how far it was read.

#[cfg(feature = "json")]
mod file;
mod store;
mod subscription;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[cfg(feature = "json")]
pub use file::FileState;
pub use store::{MemoryState, StateStore};
pub use subscription::RememberedSubscription;

use crate::capabilities::Ability;
use crate::fabric::Fabric;
use crate::notice::NoticeKind;
use crate::position::{Cursor, Position, Start};
use crate::subscription::Subscription;
use crate::{Error, ErrorKind, Result};

/// How often the place of one subscription is saved unless told otherwise.
const SAVE_EVERY: Duration = Duration::from_secs(1);

impl Fabric {
    /// Subscriptions that `store` remembers from one run of a program to the next.
    ///
    /// Nothing is read yet; [`restore`](Remembered::restore) opens what is remembered.
    pub fn remembered(&self, store: impl StateStore) -> Remembered {
        Remembered {
            fabric: self.clone(),
            save_every: SAVE_EVERY,
            inner: Arc::new(Inner {
                store: Box::new(store),
                known: Mutex::default(),
                saving: tokio::sync::Mutex::default(),
            }),
        }
    }
}

/// Subscriptions that survive a restart; see [`Fabric::remembered`]. Clones share everything.
///
/// A group keeps its own place at the broker: of such a subscription only what was asked for is
/// remembered. A subscription without a group has nobody who keeps its place, so the reader
/// [notes](Self::note) each event that it has dealt with, and a restored one goes on behind what was
/// noted **and saved**. What lies between the last save and a crash comes again.
///
/// Where a subscription without a group begins when it is restored:
///
/// * A topic in which something was noted goes on behind it.
/// * Every other topic begins with the oldest event that is kept, except for a subscription from
///   [`Start::New`] on a stack that can replay the last event of each topic: there the end of each
///   topic is noted when the subscription is first opened, so that nothing from before comes.
/// * While nothing at all was noted, it begins again at its own [`Start`].
/// * A place whose stream is gone (it was deleted, or the server lost its state) is forgotten: the
///   topic begins with the oldest event that is kept, the first item of the subscription is a
///   [`Lagged`](ErrorKind::Lagged) error that names the topic, and [`NoticeKind::PlaceLost`] is
///   told. How much the gone stream still held nobody knows, so the error counts nothing.
///
/// One reader at a time notes for one name. No task runs behind the scenes: the call to `note` that
/// finds the last save too old saves, so a program calls [`flush`](Self::flush) before it ends.
///
/// ```
/// # use fabric_core::{Fabric, MemoryState, RememberedSubscription, Result};
/// # async fn example(fabric: Fabric, store: MemoryState) -> Result<()> {
/// let remembered = fabric.remembered(store);
/// let mut open = remembered.restore().await?;
/// if open.is_empty() {
///     let orders = RememberedSubscription::new("orders", "orders.*")?;
///     open.push(("orders".to_owned(), remembered.subscribe(orders).await));
/// }
/// for (name, subscription) in open {
///     let mut subscription = subscription?;
///     while let Some(delivery) = subscription.recv().await {
///         let delivery = delivery?;
///         println!("{name}: {}", delivery.id());
///         if let Some(position) = delivery.position() {
///             remembered.note(&name, &position).await?;
///         }
///     }
/// }
/// remembered.flush().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Remembered {
    fabric: Fabric,
    save_every: Duration,
    inner: Arc<Inner>,
}

struct Inner {
    store: Box<dyn StateStore>,
    /// What was opened here.
    known: Mutex<BTreeMap<String, Known>>,
    /// Held while something is saved, so that an older state never follows a newer one.
    saving: tokio::sync::Mutex<()>,
}

struct Known {
    subscription: RememberedSubscription,
    /// Counts the changes; `saved` is the count that the store has.
    changes: u64,
    saved: u64,
    tried: Instant,
}

impl Remembered {
    /// The same with another time between two saves of one subscription's place; a second unless
    /// told otherwise, and zero for a save with every note.
    #[must_use]
    pub const fn with_save_every(mut self, time: Duration) -> Self {
        self.save_every = time;
        self
    }

    /// Opens a subscription and remembers it.
    ///
    /// One that is remembered under the same name is replaced. Its place is kept where both are
    /// without a group and the new one has no cursor of its own.
    ///
    /// # Errors
    /// As [`Fabric::subscribe`]; `Config` for a name or a cursor that cannot be used; and what the
    /// store says. After an error nothing has changed in the store, save where saving itself failed
    /// midway.
    ///
    /// # Cancel safety
    /// A group may have been made, and the subscription may be remembered; no member stays behind.
    pub async fn subscribe(&self, subscription: RememberedSubscription) -> Result<Subscription> {
        let mut wanted = subscription;
        wanted.validate().map_err(describe("subscribe"))?;
        let _saving = self.inner.saving.lock().await;
        if wanted.group.is_none() && wanted.cursor.is_none() {
            wanted.cursor = match self.find(&wanted.name).await? {
                Some(before) => before.cursor,
                None => None,
            };
            if wanted.cursor.is_none() && matches!(wanted.start, None | Some(Start::New)) {
                wanted.cursor = self.ends(&wanted).await?;
            }
        }
        let opened = self.open(&mut wanted).await?;
        self.inner.store.save(&wanted).await.map_err(describe("subscribe"))?;
        self.inner.lock().insert(wanted.name.clone(), Known::saved(wanted));
        Ok(opened)
    }

    /// Opens everything that is remembered, by name. One that cannot be opened is an error beside
    /// the others and stays remembered.
    ///
    /// # Errors
    /// What the store says: a damaged file is not the same as nothing remembered.
    ///
    /// # Cancel safety
    /// What was opened is dropped; the store is unchanged.
    pub async fn restore(&self) -> Result<Vec<(String, Result<Subscription>)>> {
        let _saving = self.inner.saving.lock().await;
        let mut opened = Vec::new();
        for mut wanted in self.current("restore").await? {
            let subscription = match wanted.validate() {
                Ok(()) => self.open(&mut wanted).await,
                Err(error) => Err(describe("restore")(error)),
            };
            let name = wanted.name.clone();
            if subscription.is_ok() {
                let mut known = self.inner.lock();
                match known.get_mut(&name) {
                    Some(entry) if entry.subscription == wanted => {}
                    Some(entry) => entry.replace(wanted),
                    None => {
                        // A place that was lost is worth a save with the next note.
                        let mut entry = Known::saved(wanted);
                        entry.changes += 1;
                        known.insert(name.clone(), entry);
                    }
                }
            }
            opened.push((name, subscription));
        }
        Ok(opened)
    }

    /// Notes that the events of the subscription `name` up to `position`, in its topic and
    /// partition, were dealt with. Going back is ignored.
    ///
    /// The place is saved now if the last save is older than
    /// [`with_save_every`](Self::with_save_every) says and none is under way; else with a later note
    /// or with [`flush`](Self::flush).
    ///
    /// # Errors
    /// `NotFound` for a name that was not opened here, `Config` for a group, which keeps its own
    /// place, and for a topic outside the patterns; and what the store says: the note is kept then,
    /// and saved with a later one.
    ///
    /// # Cancel safety
    /// The note is made with the first poll; it may or may not have been saved.
    pub async fn note(&self, name: &str, position: &Position) -> Result<()> {
        let due = {
            let mut known = self.inner.lock();
            let entry = known.get_mut(name).ok_or_else(|| {
                let text = format!("no subscription `{name}` is open here; subscribe or restore");
                describe("note")(Error::new(ErrorKind::NotFound, text))
            })?;
            entry.advance(position).map_err(describe("note"))?;
            entry.tried.elapsed() >= self.save_every
        };
        if due && let Ok(_saving) = self.inner.saving.try_lock() {
            self.inner.save(name).await.map_err(describe("note"))?;
        }
        Ok(())
    }

    /// Saves every place that was noted and not saved.
    ///
    /// # Errors
    /// What the store says first; the others are saved all the same.
    ///
    /// # Cancel safety
    /// Some may have been saved; the rest still can be.
    pub async fn flush(&self) -> Result<()> {
        let _saving = self.inner.saving.lock().await;
        let unsaved: Vec<_> = {
            let known = self.inner.lock();
            known.iter().filter(|(_, e)| e.changes != e.saved).map(|(n, _)| n.clone()).collect()
        };
        let mut result = Ok(());
        for name in unsaved {
            result = result.and(self.inner.save(&name).await);
        }
        result.map_err(describe("flush"))
    }

    /// Forgets a subscription; whether it was remembered. One that is open stays so, and so does its
    /// group at the broker.
    ///
    /// # Errors
    /// What the store says; it is still remembered then.
    ///
    /// # Cancel safety
    /// It may or may not have been forgotten.
    pub async fn forget(&self, name: &str) -> Result<bool> {
        let _saving = self.inner.saving.lock().await;
        let was = self.inner.store.remove(name).await.map_err(describe("forget"))?;
        Ok(self.inner.lock().remove(name).is_some() || was)
    }

    /// Everything that is remembered, by name, with what was noted here and not saved yet.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn list(&self) -> Result<Vec<RememberedSubscription>> {
        self.current("list").await
    }

    async fn current(&self, operation: &'static str) -> Result<Vec<RememberedSubscription>> {
        let mut all = self.inner.store.load().await.map_err(describe(operation))?;
        let known = self.inner.lock();
        for stored in &mut all {
            if let Some(entry) = known.get(&stored.name).filter(|e| e.changes != e.saved) {
                stored.clone_from(&entry.subscription);
            }
        }
        drop(known);
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    async fn find(&self, name: &str) -> Result<Option<RememberedSubscription>> {
        Ok(self.current("subscribe").await?.into_iter().find(|known| known.name == name))
    }

    /// The end of each topic now, where this stack can say it: before it, nothing is asked for.
    async fn ends(&self, wanted: &RememberedSubscription) -> Result<Option<Cursor>> {
        let needed = [Ability::Replay, Ability::StartLastPerTopic, Ability::StartPosition];
        let capabilities = self.fabric.capabilities();
        if !needed.into_iter().all(|ability| capabilities.can(ability)) {
            return Ok(None);
        }
        let mut last = self.fabric.replay(&wanted.patterns).start_at(Start::LastPerTopic).await?;
        let mut cursor = Cursor::new();
        while let Some(delivery) = last.recv().await {
            match delivery.map(|delivery| delivery.position()) {
                Ok(Some(position)) => cursor.advance(&position),
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                // One that cannot be read has no place here: its topic begins with the oldest.
                Ok(None) | Err(_) => {}
            }
        }
        Ok(Some(cursor))
    }

    /// Opens `wanted` where it was; places that are gone are taken off its cursor.
    async fn open(&self, wanted: &mut RememberedSubscription) -> Result<Subscription> {
        let mut lost: Vec<Position> = Vec::new();
        loop {
            let error = match self.fabric.clone().open(Ok(wanted.options())).await {
                Ok(mut subscription) => {
                    for position in lost.iter().rev() {
                        subscription.begin_with(place_lost(wanted, position));
                        self.fabric.tell(NoticeKind::PlaceLost {
                            name: wanted.name.clone(),
                            position: position.clone(),
                        });
                    }
                    return Ok(subscription);
                }
                Err(error) => error,
            };
            let gone = match &wanted.cursor {
                Some(cursor) if error.kind() == ErrorKind::NotFound => {
                    let topic = error.context("topic");
                    let named = |p: &&Position| topic.is_some_and(|topic| p.topic == *topic);
                    let mut gone: Vec<_> = cursor.iter().filter(named).cloned().collect();
                    if gone.is_empty() {
                        gone = cursor.iter().cloned().collect();
                    }
                    gone
                }
                _ => Vec::new(),
            };
            if gone.is_empty() {
                return Err(error);
            }
            if let Some(cursor) = &mut wanted.cursor {
                *cursor = cursor.iter().filter(|place| !gone.contains(place)).cloned().collect();
            }
            lost.extend(gone);
        }
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered")
            .field("store", &self.inner.store)
            .field("save_every", &self.save_every)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves one; the caller holds `saving`.
    async fn save(&self, name: &str) -> Result<()> {
        let Some((subscription, changes)) = self.lock().get_mut(name).map(|entry| {
            entry.tried = Instant::now();
            (entry.subscription.clone(), entry.changes)
        }) else {
            return Ok(());
        };
        self.store.save(&subscription).await?;
        if let Some(entry) = self.lock().get_mut(name) {
            entry.saved = changes;
        }
        Ok(())
    }
}

impl Known {
    fn saved(subscription: RememberedSubscription) -> Self {
        Self { subscription, changes: 0, saved: 0, tried: Instant::now() }
    }

    fn replace(&mut self, subscription: RememberedSubscription) {
        self.subscription = subscription;
        self.changes += 1;
    }

    fn advance(&mut self, position: &Position) -> Result<()> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        let subscription = &mut self.subscription;
        if let Some(group) = &subscription.group {
            let name = &subscription.name;
            return refuse(format!(
                "`{name}` reads as the group `{group}`, which keeps its own place: settle instead"
            ));
        }
        if !subscription.patterns.matches(&position.topic) {
            let RememberedSubscription { name, patterns, .. } = subscription;
            return refuse(format!(
                "the position `{position}` lies in a topic that `{name}` does not read: [{patterns}]"
            ));
        }
        subscription.cursor.get_or_insert_default().advance(position);
        self.changes += 1;
        Ok(())
    }
}

/// The error of the operation that a user called.
fn describe(operation: &'static str) -> impl Fn(Error) -> Error {
    move |error| error.with_operation(operation)
}

fn place_lost(wanted: &RememberedSubscription, position: &Position) -> Error {
    Error::new(
        ErrorKind::Lagged,
        format!(
            "the place `{position}` of `{}` is in a stream that is gone: what that still held is \
             lost, and the topic begins with the oldest event that is kept",
            wanted.name
        ),
    )
    .with("topic", &position.topic)
}
