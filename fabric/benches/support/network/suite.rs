//! The paths that each backend is measured on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::arms::Rounds;
use super::{Arm, Arms, Begin, Client, IN_FLIGHT, Work};
use crate::support::{Key, Metric, Options, Report, Result, Span, Stopwatch, cpu_of, quantile};

/// In bytes.
pub(crate) const SIZES: [u64; 4] = [64, 1 << 10, 64 << 10, 1 << 20];

/// What fabric has to reach of the raw arm.
const THROUGHPUT: f64 = 0.95;
const LATENCY: f64 = 1.0 / 1.05;

/// The most bytes that one round publishes.
const ROUND_BYTES: u64 = 64 << 20;

/// Longer than any round takes.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Runs paths and reports them.
pub(crate) struct Suite<'a> {
    pub(crate) options: &'a Options,
    pub(crate) report: &'a mut Report,
    runtime: Runtime,
}

impl<'a> Suite<'a> {
    /// One worker thread: the other cores are the broker's.
    pub(crate) fn new(options: &'a Options, report: &'a mut Report) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { options, report, runtime })
    }

    /// Runs `task` on the worker.
    pub(crate) fn on<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        on(&self.runtime, task)
    }

    /// The arms that are asked for.
    pub(crate) fn arms(&self) -> Vec<Arm> {
        Arm::ALL.into_iter().filter(|arm| self.options.wants_arm(arm.name())).collect()
    }

    /// Publishing, pipelined, until all is confirmed.
    pub(crate) fn publish(&mut self, arms: &Arms, size: u64, events: u64) -> Result<()> {
        self.throughput(arms, "publish", size, events, |client, work| async move {
            let watch = Stopwatch::start();
            client.publish(&work).await?;
            let span = watch.stop(work.events);
            client.clear(work.topic).await?;
            Ok(span)
        })
    }

    /// Reading what was published before, each event acked. The clock starts at the second event:
    /// joining a group takes its time.
    pub(crate) fn consume(&mut self, arms: &Arms, size: u64, events: u64) -> Result<()> {
        self.throughput(arms, "consume", size, events, |client, work| async move {
            client.publish(&work).await?;
            let mut reader = client.read(work.topic, Begin::First).await?;
            reader.take(1).await?;
            let watch = Stopwatch::start();
            reader.take(work.events - 1).await?;
            let span = watch.stop(work.events - 1);
            reader.close().await?;
            client.clear(work.topic).await?;
            Ok(span)
        })
    }

    /// Publishing and reading at the same time.
    pub(crate) fn end_to_end(&mut self, arms: &Arms, size: u64, events: u64) -> Result<()> {
        self.through(arms, "end_to_end", size, events)
    }

    /// The same on a path of another name.
    pub(crate) fn through(
        &mut self,
        arms: &Arms,
        path: &'static str,
        size: u64,
        events: u64,
    ) -> Result<()> {
        self.through_at_least(arms, (path, THROUGHPUT), size, events)
    }

    /// The same with a budget of its own.
    pub(crate) fn through_at_least(
        &mut self,
        arms: &Arms,
        path: (&'static str, f64),
        size: u64,
        events: u64,
    ) -> Result<()> {
        self.throughput_at_least(arms, path, size, events, |client, work| async move {
            let mut reader = client.read(work.topic, Begin::New).await?;
            let before = client.measured().map(cpu_of).transpose()?;
            let watch = Stopwatch::start();
            let events = work.events;
            let reading = tokio::spawn(async move {
                reader.take(events).await?;
                Ok::<_, crate::support::Failure>(reader)
            });
            client.publish(&work).await?;
            let reader = reading.await??;
            let mut span = watch.stop(work.events);
            if let (Some(pid), Some(before)) = (client.measured(), before) {
                span.cpu = cpu_of(pid)?.saturating_sub(before);
            }
            reader.close().await?;
            client.clear(work.topic).await?;
            Ok(span)
        })
    }

    /// Requests, [`IN_FLIGHT`] at a time.
    pub(crate) fn request(&mut self, arms: &Arms, size: u64, events: u64) -> Result<()> {
        self.throughput(arms, "request", size, events, |client, work| async move {
            let _serving = client.serve(work.topic).await?;
            let watch = Stopwatch::start();
            let askers = (0..IN_FLIGHT as u64).map(|number| {
                let (client, work) = (Arc::clone(&client), work.clone());
                let share = work.events / IN_FLIGHT as u64
                    + u64::from(number < work.events % IN_FLIGHT as u64);
                tokio::spawn(async move {
                    for _ in 0..share {
                        client.ask(&work).await?;
                    }
                    Ok::<_, crate::support::Failure>(())
                })
            });
            for asker in askers.collect::<Vec<_>>() {
                asker.await??;
            }
            Ok(watch.stop(work.events))
        })
    }

    /// One publish after the other, each confirmed.
    pub(crate) fn publish_latency(&mut self, arms: &Arms, size: u64, events: u64) -> Result<()> {
        self.latency(arms, "publish", size, events, |client, work| async move {
            let mut samples = Vec::with_capacity(work.events as usize);
            for _ in 0..work.events {
                let began = Instant::now();
                client.publish_one(&work).await?;
                samples.push(began.elapsed().as_nanos() as f64);
            }
            client.clear(work.topic).await?;
            Ok(samples)
        })
    }

    /// One event after the other, published, received and acked.
    pub(crate) fn end_to_end_latency(&mut self, arms: &Arms, size: u64, events: u64) -> Result<()> {
        self.latency(arms, "end_to_end", size, events, |client, work| async move {
            let mut reader = client.read(work.topic, Begin::New).await?;
            let mut samples = Vec::with_capacity(work.events as usize);
            for _ in 0..work.events {
                let began = Instant::now();
                client.publish_one(&work).await?;
                reader.take(1).await?;
                samples.push(began.elapsed().as_nanos() as f64);
            }
            reader.close().await?;
            client.clear(work.topic).await?;
            Ok(samples)
        })
    }

    /// One request after the other.
    pub(crate) fn request_latency(&mut self, arms: &Arms, size: u64, events: u64) -> Result<()> {
        self.latency(arms, "request", size, events, |client, work| async move {
            let _serving = client.serve(work.topic).await?;
            let mut samples = Vec::with_capacity(work.events as usize);
            for _ in 0..work.events {
                let began = Instant::now();
                client.ask(&work).await?;
                samples.push(began.elapsed().as_nanos() as f64);
            }
            Ok(samples)
        })
    }

    /// What is measured in a round of `path`, unless it was not asked for.
    fn work(&self, path: &'static str, size: u64, events: u64) -> Option<Work> {
        let most = if self.options.quick { ROUND_BYTES / 4 } else { ROUND_BYTES };
        let events = self.options.scaled(events).min(most / size);
        let payload = vec![7; size as usize].into();
        let topic = TOPICS.iter().find(|(of, _)| *of == path)?.1;
        let wanted = self.options.wants(path) && self.options.wants_size(size);
        wanted.then_some(Work { topic, payload, events })
    }

    /// Runs rounds that give spans and holds throughput against the usual budget.
    fn throughput<F>(
        &mut self,
        arms: &Arms,
        path: &'static str,
        size: u64,
        events: u64,
        round: impl Fn(Arc<dyn Client>, Work) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<Span>> + Send + 'static,
    {
        self.throughput_at_least(arms, (path, THROUGHPUT), size, events, round)
    }

    fn throughput_at_least<F>(
        &mut self,
        arms: &Arms,
        (path, least_of_raw): (&'static str, f64),
        size: u64,
        events: u64,
        round: impl Fn(Arc<dyn Client>, Work) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<Span>> + Send + 'static,
    {
        let Some(work) = self.work(path, size, events) else { return Ok(()) };
        let rounds = Rounds::run(arms, self.options.rounds(), |client| {
            on(&self.runtime, round(Arc::clone(client), work.clone()))
        });
        let rounds = rounds.map_err(|failure| format!("{path} of {size} bytes: {failure}"))?;
        for (mode, ours, theirs, least) in [
            (arms.modes[0], Arm::Fabric, Arm::Raw, least_of_raw),
            (arms.modes[1], Arm::Profile, Arm::Bare, arms.least_of_bare),
        ] {
            let Some(pairs) = rounds.pairs(ours, theirs) else { continue };
            let key = Key { path, mode, size };
            let throughput = pairs.compare(Span::events_per_second);
            let cpu = pairs.compare(Span::cpu_ns_per_event);
            self.report.add_throughput(key, &throughput, &cpu, least);
        }
        if let Some(pairs) = rounds.pairs(Arm::Fabric, Arm::Bare) {
            let key = Key { path, mode: arms.modes[0], size };
            let throughput = pairs.compare(Span::events_per_second);
            self.report.aside(key, "(bare)", Metric::Throughput, &throughput);
        }
        Ok(())
    }

    /// Runs rounds that give nanoseconds and holds their median against the budget.
    fn latency<F>(
        &mut self,
        arms: &Arms,
        path: &'static str,
        size: u64,
        events: u64,
        round: impl Fn(Arc<dyn Client>, Work) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<Vec<f64>>> + Send + 'static,
    {
        let Some(work) = self.work(path, size, events) else { return Ok(()) };
        let rounds = Rounds::run(arms, self.options.rounds(), |client| {
            let watch = Stopwatch::start();
            let mut samples = on(&self.runtime, round(Arc::clone(client), work.clone()))?;
            let cpu = watch.stop(work.events).cpu_ns_per_event();
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| quantile(&mut samples, part));
            Ok([p50, p99, p999, cpu])
        });
        let rounds = rounds.map_err(|failure| format!("{path} of {size} bytes: {failure}"))?;
        for (mode, ours, theirs) in
            [(arms.modes[0], Arm::Fabric, Arm::Raw), (arms.modes[1], Arm::Profile, Arm::Bare)]
        {
            let Some(pairs) = rounds.pairs(ours, theirs) else { continue };
            let key = Key { path, mode, size };
            let budget = (ours == Arm::Fabric).then_some(LATENCY);
            let [p50, p99, p999, cpu] =
                [0, 1, 2, 3].map(|place| pairs.compare(|round: &[f64; 4]| round[place]));
            self.report.add_latency(key, &p50, &cpu, budget);
            self.report.add(key, Metric::LatencyP99, &p99, None);
            self.report.add(key, Metric::LatencyP999, &p999, None);
        }
        Ok(())
    }
}

/// One topic for each path, so that none finds what another left.
const TOPICS: [(&str, &str); 7] = [
    ("publish", "bench.publish.moved"),
    ("consume", "bench.consume.moved"),
    ("end_to_end", "bench.through.moved"),
    ("request", "bench.request.asked"),
    ("broker", "bench.broker.moved"),
    ("fan_out8", "bench.out.moved"),
    ("fan_in8", "bench.in.moved"),
];

/// Runs `task` on the runtime's worker; it may not hang.
pub(super) fn on<T: Send + 'static>(
    runtime: &Runtime,
    task: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let task = runtime.spawn(task);
    let finished = runtime.block_on(async { tokio::time::timeout(WATCHDOG, task).await });
    finished.map_err(|_| "a round hangs: events were lost")??
}
