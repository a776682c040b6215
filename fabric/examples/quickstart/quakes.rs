//! The records: a week of the USGS catalogue, and some made up to be refused.

use fabric::Timestamp;
use serde::Deserialize;

const QUAKES: &str = include_str!("../data/quakes.jsonl");
const WITHOUT_MAGNITUDE: &str = include_str!("../data/quakes_without_magnitude.jsonl");

/// The bands of magnitude, from the weakest, each with the magnitude at which it ends. The scale is
/// logarithmic: a quake too weak to be felt may well have a negative magnitude.
const BANDS: [(&str, f64); 8] = [
    ("negative", 0.0),
    ("micro", 2.0),
    ("minor", 4.0),
    ("light", 5.0),
    ("moderate", 6.0),
    ("strong", 7.0),
    ("major", 8.0),
    ("great", f64::INFINITY),
];
/// The band of what has no magnitude.
pub(crate) const UNKNOWN: &str = "unknown";
/// From here on a quake does damage if it happens in the wrong place.
const STRONG_FROM: f64 = 4.0;

/// One line of the files, and what it says.
pub(crate) struct Record {
    pub(crate) json: &'static str,
    pub(crate) quake: Quake,
}

/// What is read of a record; there is more in it.
#[derive(Clone, Deserialize)]
pub(crate) struct Quake {
    pub(crate) id: String,
    pub(crate) time: Timestamp,
    #[serde(rename = "type")]
    kind: String,
    pub(crate) mag: Option<f64>,
    pub(crate) place: String,
}

impl Quake {
    /// Where it is published: `quake.quarry_blast.minor`.
    pub(crate) fn topic(&self) -> String {
        format!("quake.{}.{}", self.kind.replace(' ', "_"), self.band())
    }

    pub(crate) fn band(&self) -> &'static str {
        self.mag.map_or(UNKNOWN, band)
    }

    pub(crate) fn is_strong(&self) -> bool {
        self.mag.is_some_and(|magnitude| magnitude >= STRONG_FROM)
    }
}

/// The bands from the weakest to the strongest.
pub(crate) fn bands() -> impl Iterator<Item = &'static str> {
    BANDS.into_iter().map(|(name, _)| name)
}

/// The topics of strong quakes of any type.
pub(crate) fn strong() -> Vec<String> {
    let strong = BANDS.into_iter().filter(|(_, end)| *end > STRONG_FROM);
    strong.map(|(name, _)| format!("quake.*.{name}")).collect()
}

fn band(magnitude: f64) -> &'static str {
    // The last band has no end.
    BANDS.into_iter().find(|(_, end)| magnitude < *end).map_or("great", |(name, _)| name)
}

/// The quakes by time; the made-up ones are spread among them.
pub(crate) fn load() -> Vec<Record> {
    let mut records: Vec<Record> = QUAKES
        .lines()
        .chain(WITHOUT_MAGNITUDE.lines())
        .map(|json| Record {
            json,
            quake: serde_json::from_str(json).expect("the files beside this one hold records"),
        })
        .collect();
    records.sort_by_key(|record| record.quake.time);
    records
}
