//! Both sides in turn, medians of rounds, and how far the rounds lie apart.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::Result;

/// The two sides of a comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides<T> {
    pub(crate) fabric: T,
    pub(crate) raw: T,
}

/// What one round took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) events: u64,
    pub(crate) wall: Duration,
    /// Of all threads of this process, in the kernel too.
    pub(crate) cpu: Duration,
}

impl Span {
    pub(crate) fn events_per_second(&self) -> f64 {
        self.events as f64 / self.wall.as_secs_f64()
    }

    pub(crate) fn ns_per_event(&self) -> f64 {
        self.wall.as_secs_f64() * 1e9 / self.events as f64
    }

    pub(crate) fn cpu_ns_per_event(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.events as f64
    }
}

/// Measures a span in wall time and CPU time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    pub(crate) fn stop(self, events: u64) -> Span {
        Span { events, wall: self.wall.elapsed(), cpu: cpu_time() - self.cpu }
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// CPU time of all threads that the process `pid` has now.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += text.split(' ').next().ok_or("no time in schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// What both sides gave, round by round.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<T>(Vec<Sides<T>>);

/// Runs both sides in turn: a warm-up each, then `rounds` rounds; who begins changes every round.
pub(crate) fn in_turn<T>(
    rounds: usize,
    mut fabric: impl FnMut() -> Result<T>,
    mut raw: impl FnMut() -> Result<T>,
) -> Result<Pairs<T>> {
    raw()?;
    fabric()?;
    let mut pairs = Vec::with_capacity(rounds);
    for round in 0..rounds {
        pairs.push(if round % 2 == 0 {
            let raw = raw()?;
            Sides { fabric: fabric()?, raw }
        } else {
            let fabric = fabric()?;
            Sides { fabric, raw: raw()? }
        });
    }
    Ok(Pairs(pairs))
}

impl<T: Clone> Pairs<T> {
    /// Rounds of two sides that were run elsewhere, in turn.
    pub(crate) fn of(fabric: &[T], raw: &[T]) -> Self {
        let sides = fabric.iter().cloned().zip(raw.iter().cloned());
        Self(sides.map(|(fabric, raw)| Sides { fabric, raw }).collect())
    }
}

impl<T> Pairs<T> {
    /// Medians of one figure of each round.
    pub(crate) fn compare(&self, figure: impl Fn(&T) -> f64) -> Compared {
        let of = |side: fn(&Sides<T>) -> &T| {
            self.0.iter().map(|round| figure(side(round))).collect::<Vec<_>>()
        };
        let (mut fabric, mut raw) = (of(|round| &round.fabric), of(|round| &round.raw));
        let mut ratios: Vec<f64> = fabric.iter().zip(&raw).map(|(f, r)| f / r).collect();
        let quartiles = [quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)];
        Compared {
            sides: Sides { fabric: quantile(&mut fabric, 0.5), raw: quantile(&mut raw, 0.5) },
            rounds: self.0.len(),
            spread: (quartiles[1] - quartiles[0]) / quantile(&mut ratios, 0.5),
            quartiles,
        }
    }
}

/// One figure of both sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    /// Medians over the rounds.
    pub(crate) sides: Sides<f64>,
    pub(crate) rounds: usize,
    /// The distance between the quartiles of the rounds' ratios, as a part of their median.
    pub(crate) spread: f64,
    /// Of the rounds' ratios, fabric by raw.
    pub(crate) quartiles: [f64; 2],
}

impl Compared {
    /// A single measurement.
    pub(crate) const fn once(fabric: f64, raw: f64) -> Self {
        let quartiles = [fabric / raw; 2];
        Self { sides: Sides { fabric, raw }, rounds: 1, spread: 0.0, quartiles }
    }

    /// Whether the rounds' ratios lie on both sides of `ratio` (fabric by raw).
    pub(crate) fn hides(&self, ratio: f64) -> bool {
        self.quartiles[0] < ratio && ratio < self.quartiles[1]
    }
}

/// The value below which `part` of `values` lie, between neighbours by distance; sorts them.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = part * values.len().saturating_sub(1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
    at(below) + (at(above) - at(below)) * place.fract()
}
