//! A plain subscriber: a copy of every event, and nothing to settle.

use std::collections::{BTreeMap, HashSet};

use fabric::{Error, ErrorKind, Event, EventId, Result, Subscription};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::quakes::{self, Quake};
use crate::report::{Report, Step, section};
use crate::{Run, WATCHDOG};

/// How many of the strongest quakes are shown.
const SHOWN: usize = 4;

/// A census that is being taken.
pub(crate) struct Counting(JoinHandle<Result<Census>>);

#[derive(Default)]
pub(crate) struct Census {
    ids: HashSet<EventId>,
    missed: usize,
    by_band: BTreeMap<&'static str, usize>,
    strongest: Vec<(f64, Quake)>,
}

pub(crate) async fn open(run: &Run, report: &mut Report) -> Result<Option<Counting>> {
    if !report.can(Step::Seen, &run.fabric) {
        return Ok(None);
    }
    let events = run.fabric.subscribe("quake.#").await?;
    let (source, expected) = (run.source.clone(), run.records.len());
    Ok(Some(Counting(tokio::spawn(async move {
        let mut census = Census::default();
        // After too long a wait, what came until then is what there is.
        let counted = timeout(WATCHDOG, census.take(events, &source, expected)).await;
        counted.unwrap_or(Ok(()))?;
        Ok(census)
    }))))
}

impl Counting {
    pub(crate) async fn finish(self, run: &Run, report: &mut Report) -> Result<()> {
        let census = self.0.await.map_err(panicked)??;
        section("A plain subscriber to quake.#");
        for band in quakes::bands().chain([quakes::UNKNOWN]) {
            let count = census.by_band.get(band).copied().unwrap_or_default();
            println!("  {band:<9} {count:>5}  {}", "▇".repeat(count.div_ceil(25)));
        }
        println!("  the strongest:");
        for (magnitude, Quake { time, place, .. }) in &census.strongest {
            let time = &time.to_string()[..16].replace('T', " ");
            println!("    M {magnitude:.1}  {time}  {place}");
        }
        report.check_with_missed(Step::Seen, run.records.len(), census.ids.len(), census.missed);
        Ok(())
    }
}

impl Census {
    /// Counts until all were seen or told to be missed.
    async fn take(&mut self, mut events: Subscription, source: &str, all: usize) -> Result<()> {
        while self.ids.len() + self.missed < all {
            match events.recv().await {
                Some(Ok(event)) if event.source() == source => self.count(&event)?,
                Some(Ok(_of_another_run)) => {}
                Some(Err(error)) => match error.missed() {
                    Some(missed) => self.missed += missed as usize,
                    None if error.kind() == ErrorKind::Closed => return Err(error),
                    // Something else on these topics, or a link that comes back.
                    None => eprintln!("  the plain subscriber: {error}"),
                },
                None => break,
            }
        }
        Ok(())
    }

    fn count(&mut self, event: &Event) -> Result<()> {
        if !self.ids.insert(event.id().clone()) {
            return Ok(());
        }
        let quake: Quake = event.json()?;
        *self.by_band.entry(quake.band()).or_default() += 1;
        if let Some(magnitude) = quake.mag {
            self.strongest.push((magnitude, quake));
            self.strongest.sort_by(|(a, _), (b, _)| b.total_cmp(a));
            self.strongest.truncate(SHOWN);
        }
        Ok(())
    }
}

pub(crate) fn panicked(cause: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Closed, "a task of the quickstart panicked").with_source(cause)
}
