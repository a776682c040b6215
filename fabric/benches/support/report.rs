//! Records for machines, a table for people.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{Compared, Result};

/// What is measured, and whether more of it is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    Throughput,
    LatencyP50,
    LatencyP99,
    LatencyP999,
    CpuPerEvent,
    NsPerEvent,
    PeakMemory,
}

impl Metric {
    const fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "events/s",
            Self::PeakMemory => "bytes",
            _ => "ns",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::LatencyP50 => "latency p50",
            Self::LatencyP99 => "latency p99",
            Self::LatencyP999 => "latency p99.9",
            Self::CpuPerEvent => "CPU per event",
            Self::NsPerEvent => "time per event",
            Self::PeakMemory => "peak memory",
        }
    }

    /// What fabric by raw is at this ratio.
    const fn by_raw(self, ratio: f64) -> f64 {
        if matches!(self, Self::Throughput) { ratio } else { 1.0 / ratio }
    }

    /// Above 1 where fabric does better.
    fn ratio(self, compared: &Compared) -> f64 {
        let sides = compared.sides;
        if self == Self::Throughput { sides.fabric / sides.raw } else { sides.raw / sides.fabric }
    }
}

/// What a line is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) path: &'static str,
    pub(crate) mode: &'static str,
    /// In bytes.
    pub(crate) size: u64,
}

#[derive(Debug, Serialize)]
struct Record {
    backend: &'static str,
    path: &'static str,
    size: u64,
    mode: &'static str,
    metric: Metric,
    nodes: u32,
    unit: &'static str,
    fabric: f64,
    raw: f64,
    ratio: f64,
    rounds: usize,
    spread: f64,
}

/// Prints each result as it comes and keeps the records.
#[derive(Debug)]
pub(crate) struct Report {
    backend: &'static str,
    nodes: u32,
    records: Vec<Record>,
    met: usize,
    missed: Vec<String>,
}

impl Report {
    pub(crate) fn new(backend: &'static str) -> Self {
        println!(
            "{:>7}  {:<34} {:>14} {:>14} {:>12}  {:>6}  budget",
            "ratio", "what", "metric", "fabric", "raw", "spread"
        );
        Self { backend, nodes: 1, records: Vec::new(), met: 0, missed: Vec::new() }
    }

    /// What comes now was measured on a broker of so many nodes.
    pub(crate) fn on_nodes(&mut self, nodes: u32) {
        self.nodes = nodes;
    }

    /// Throughput with the client's CPU time, which decides where the rounds lie too far apart.
    pub(crate) fn add_throughput(
        &mut self,
        key: Key,
        throughput: &Compared,
        cpu: &Compared,
        least: f64,
    ) {
        self.add_either((key, Metric::Throughput, throughput), cpu, Some(least));
    }

    /// Latency with the client's CPU time, which decides where the rounds lie too far apart.
    pub(crate) fn add_latency(
        &mut self,
        key: Key,
        p50: &Compared,
        cpu: &Compared,
        budget: Option<f64>,
    ) {
        self.add_either((key, Metric::LatencyP50, p50), cpu, budget);
    }

    fn add_either(
        &mut self,
        (key, metric, got): (Key, Metric, &Compared),
        cpu: &Compared,
        budget: Option<f64>,
    ) {
        let hidden = budget.is_some_and(|least| got.hides(metric.by_raw(least)));
        let (by_wall, by_cpu) = if hidden { (None, budget) } else { (budget, None) };
        self.add(key, metric, got, by_wall);
        self.add(key, Metric::CpuPerEvent, cpu, by_cpu);
    }

    /// A result that is held against `budget`, the least ratio, if there is one.
    pub(crate) fn add(&mut self, key: Key, metric: Metric, got: &Compared, budget: Option<f64>) {
        let ratio = metric.ratio(got);
        let verdict =
            budget.map_or_else(String::new, |least| self.judge(key, metric, ratio, least));
        print_line(&self.name_of(key), metric, got, &verdict);
        self.records.push(Record {
            backend: self.backend,
            path: key.path,
            size: key.size,
            mode: key.mode,
            metric,
            nodes: self.nodes,
            unit: metric.unit(),
            fabric: got.sides.fabric,
            raw: got.sides.raw,
            ratio,
            rounds: got.rounds,
            spread: got.spread,
        });
    }

    /// A result for people alone.
    pub(crate) fn aside(&self, key: Key, note: &str, metric: Metric, got: &Compared) {
        print_line(&format!("{} {note}", self.name_of(key)), metric, got, "");
    }

    fn judge(&mut self, key: Key, metric: Metric, ratio: f64, least: f64) -> String {
        if ratio >= least {
            self.met += 1;
            return format!("≥ {least:.2} met");
        }
        let missed = format!("{} {} {ratio:.2} < {least:.2}", self.name_of(key), metric.name());
        self.missed.push(missed);
        format!("≥ {least:.2} MISSED")
    }

    fn name_of(&self, key: Key) -> String {
        let nodes = if self.nodes == 1 { String::new() } else { format!(" on {}", self.nodes) };
        format!("{} {} {}{nodes}", key.path, key.mode, size(key.size))
    }

    /// Sums up, and writes the records.
    pub(crate) fn finish(self, json: Option<&Path>) -> Result<()> {
        println!("\nbudgets: {} met, {} missed", self.met, self.missed.len());
        self.missed.iter().for_each(|missed| println!("  missed: {missed}"));
        if let Some(file) = json {
            fs::write(file, serde_json::to_string_pretty(&self.records)?)?;
        }
        Ok(())
    }
}

fn print_line(what: &str, metric: Metric, got: &Compared, verdict: &str) {
    println!(
        "{:>7.3}  {what:<34} {:>14} {:>14} {:>12}  {:>5.1}%  {verdict}",
        metric.ratio(got),
        metric.name(),
        figure(metric, got.sides.fabric),
        figure(metric, got.sides.raw),
        got.spread * 100.0,
    );
}

fn figure(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Throughput if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
        Metric::Throughput => format!("{:.1} k/s", value / 1e3),
        Metric::PeakMemory => format!("{:.1} MiB", value / (1 << 20) as f64),
        _ if value >= 1e4 => format!("{:.1} µs", value / 1e3),
        _ => format!("{value:.1} ns"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
