//! How much memory a client takes while events flow through it, each in a process of its own.

use std::sync::Arc;

use super::suite::on;
use super::{Arm, Begin, Client, Work};
use crate::support::{
    Compared, Key, Metric, Options, Report, Result, peak, peak_of_child, resident, say_peak,
};

const SIZE: u64 = 1 << 10;
const EVENTS: u64 = 60_000;

/// Which child to be.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) arm: Arm,
    /// How the backend is used, in the bench's own word.
    pub(crate) way: String,
    pub(crate) nodes: u32,
    pub(crate) url: String,
    events: u64,
}

impl Child {
    fn role(&self) -> String {
        let Self { arm, way, nodes, url, events } = self;
        format!("{} {way} {nodes} {events} {url}", arm.name())
    }

    fn read(role: &str) -> Result<Self> {
        let mut words = role.splitn(5, ' ');
        let mut word = || words.next().ok_or_else(|| format!("no such role: {role}"));
        let (arm, way) = (Arm::named(word()?)?, word()?.to_owned());
        let (nodes, events) = (word()?.parse()?, word()?.parse()?);
        Ok(Self { arm, way, nodes, events, url: word()?.to_owned() })
    }

    /// Plays `role`: connects by `connect`, moves events, and says how much memory that took.
    pub(crate) fn play<F>(role: &str, connect: impl FnOnce(Self) -> F) -> Result<()>
    where
        F: Future<Output = Result<Arc<dyn Client>>> + Send + 'static,
    {
        let child = Self::read(role)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let events = child.events;
        let before = resident()?;
        let connecting = connect(child);
        on(&runtime, async move {
            let client = connecting.await?;
            let payload = vec![7; SIZE as usize].into();
            let work = Work { topic: "bench.peak.moved", payload, events };
            let mut reader = client.read(work.topic, Begin::New).await?;
            let reading = tokio::spawn(async move {
                reader.take(events).await?;
                Ok::<_, crate::support::Failure>(reader)
            });
            client.publish(&work).await?;
            reading.await??.close().await?;
            client.clear(work.topic).await
        })?;
        say_peak(peak()?.saturating_sub(before).max(1));
        Ok(())
    }
}

/// Measures fabric and raw in child processes.
pub(crate) fn peaks(
    options: &Options,
    report: &mut Report,
    (mode, way): (&'static str, &str),
    nodes: u32,
    url: &str,
) -> Result<()> {
    if !options.wants("peak") {
        return Ok(());
    }
    let of = |arm| {
        let (way, url) = (way.to_owned(), url.to_owned());
        let child = Child { arm, way, nodes, url, events: options.scaled(EVENTS) };
        peak_of_child(&child.role()).map(|bytes| bytes as f64)
    };
    let got = Compared::once(of(Arm::Fabric)?, of(Arm::Raw)?);
    report.add(Key { path: "end_to_end", mode, size: SIZE }, Metric::PeakMemory, &got, None);
    Ok(())
}
