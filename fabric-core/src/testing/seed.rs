//! One seed for all that is drawn by chance in a test.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tokio::runtime::Builder;

/// The environment variable that names the seed.
pub const SEED_VARIABLE: &str = "FABRIC_TEST_SEED";

/// The seed that the environment names, if it does.
fn named() -> Option<u64> {
    let text = env::var(SEED_VARIABLE).ok()?;
    let seed = text.trim().parse();
    Some(seed.unwrap_or_else(|_| panic!("{SEED_VARIABLE} is a whole number, not `{text}`")))
}

/// The seed that `FABRIC_TEST_SEED` names, else a random one.
///
/// # Panics
/// If the variable is set to something that is no number.
#[must_use]
pub fn seed() -> u64 {
    // Few digits are easily typed again.
    named().unwrap_or_else(|| fastrand::u64(..1_000_000_000))
}

/// Draws chance on this thread from a seed, and says which it was where the test fails.
#[derive(Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// From here on, on this thread.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        fastrand::seed(seed);
        Self(seed)
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.0
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {0}: {SEED_VARIABLE}={0} repeats this run", self.0);
        }
    }
}

/// Runs `test` once for each of `seeds`, each on a clock of its own that is paused; where
/// `FABRIC_TEST_SEED` is set, for that seed alone.
///
/// ```
/// use fabric_core::testing::each_seed;
///
/// each_seed(0..20, async |seed| {
///     tokio::time::sleep(std::time::Duration::from_secs(seed)).await;
/// });
/// ```
///
/// # Panics
/// As `test` does, after saying with which seed.
pub fn each_seed(seeds: impl IntoIterator<Item = u64>, test: impl AsyncFn(u64)) {
    let run = |seed: u64| {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
        fastrand::seed(seed);
        let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(test(seed))));
        if let Err(panic) = ran {
            eprintln!("the seed was {seed}: {SEED_VARIABLE}={seed} repeats this run");
            resume_unwind(panic);
        }
    };
    match named() {
        Some(seed) => run(seed),
        None => seeds.into_iter().for_each(run),
    }
}
