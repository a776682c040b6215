//! What tests of services stand on: a record of all that happened, and assertions over it.
//!
//! Users take `fabric::testing`, which has a fabric with all of this in it, `TestFabric`. Who tests
//! over another backend adds a [`Recorder`] to it, as the innermost layer.
//!
//! **Seeds.** Whatever is drawn by chance in a test is drawn from one seed: faults, the jitter of
//! retries, generated ids. It is [chosen at random](seed) unless the environment variable
//! `FABRIC_TEST_SEED` names one; a test that fails says which it was. On tokio's paused clock and
//! one thread the same seed brings the same run.

mod published;
mod record;
mod recorder;
mod seed;

pub use published::Published;
pub use record::{Step, What};
pub use recorder::Recorder;
pub use seed::{SEED_VARIABLE, Seeded, each_seed, seed};
