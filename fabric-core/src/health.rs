//! Health: whether a backend can do its work now, and why not.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// How well a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It cannot work.
    Down,
    /// It works, with a reservation that `reason` names.
    Degraded,
    /// It works.
    Up,
}

/// The answer to a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// How well.
    pub status: HealthStatus,
    /// How long the check took.
    pub latency: Duration,
    /// Why it is not up.
    pub reason: Option<String>,
    /// Figures for people: connections, topics, what is pending.
    pub details: BTreeMap<&'static str, String>,
}

impl Health {
    /// Up, found out in `latency`.
    #[must_use]
    pub const fn up(latency: Duration) -> Self {
        Self { status: HealthStatus::Up, latency, reason: None, details: BTreeMap::new() }
    }

    /// Working, but.
    #[must_use]
    pub fn degraded(latency: Duration, reason: impl Into<String>) -> Self {
        Self { status: HealthStatus::Degraded, reason: Some(reason.into()), ..Self::up(latency) }
    }

    /// Not working, and why.
    #[must_use]
    pub fn down(latency: Duration, reason: impl Into<String>) -> Self {
        Self { status: HealthStatus::Down, reason: Some(reason.into()), ..Self::up(latency) }
    }

    /// Adds one figure.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        self.details.insert(name, value.to_string());
        self
    }

    /// Whether it works.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.status == HealthStatus::Up
    }
}
