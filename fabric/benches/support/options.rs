//! What the command line asks for.

use std::env;
use std::path::PathBuf;

use super::Result;

/// How thoroughly to measure and where to write the records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Fewer and shorter rounds.
    pub(crate) quick: bool,
    /// One short round each, to see that everything runs: what `cargo test --benches` asks for.
    pub(crate) smoke: bool,
    /// Only what the budgets are about, as for a profiler: one worker.
    pub(crate) one_worker: bool,
    /// Where the records go.
    pub(crate) json: Option<PathBuf>,
    /// Only paths whose name contains one of these.
    only: Vec<String>,
    /// Only this arm, for profilers.
    arm: Option<String>,
    /// Only payloads of this many bytes.
    size: Option<u64>,
}

impl Options {
    /// Reads the arguments: `--quick`, `--one-worker`, `--json FILE`, `--arm NAME`, `--size BYTES`
    /// and parts of path names.
    pub(crate) fn read() -> Result<Self> {
        // Cargo says `--bench` to what it runs as a bench, and nothing to what it runs as a test.
        let mut options = Self { smoke: true, ..Self::default() };
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => options.smoke = false,
                "--quick" => options.quick = true,
                "--one-worker" => options.one_worker = true,
                "--json" => {
                    let file = arguments.next().ok_or("`--json` needs the name of a file")?;
                    options.json = Some(file.into());
                }
                "--arm" => options.arm = Some(arguments.next().ok_or("`--arm` needs a name")?),
                "--size" => {
                    options.size =
                        Some(arguments.next().ok_or("`--size` needs a number")?.parse()?);
                }
                path if !path.starts_with('-') => options.only.push(path.to_owned()),
                other => return Err(format!("unknown option `{other}`").into()),
            }
        }
        Ok(options)
    }

    /// Whether an arm is asked for.
    pub(crate) fn wants_arm(&self, name: &str) -> bool {
        self.arm.as_ref().is_none_or(|arm| arm == name)
    }

    /// Whether payloads of `size` bytes are asked for.
    pub(crate) fn wants_size(&self, size: u64) -> bool {
        self.size.is_none_or(|wanted| wanted == size)
    }

    /// Whether `path`, or something within it such as `1to1 typed`, is asked for.
    pub(crate) fn wants(&self, path: &str) -> bool {
        let asked = |part: &String| path.contains(part) || part.starts_with(path);
        self.only.is_empty() || self.only.iter().any(asked)
    }

    /// How many worker threads a runtime has, one number after the other.
    pub(crate) fn workers(&self) -> impl Iterator<Item = usize> + use<> {
        1..=if self.one_worker { 1 } else { 2 }
    }

    /// How many rounds each arm runs.
    pub(crate) const fn rounds(&self) -> usize {
        match (self.smoke, self.quick) {
            (true, _) => 1,
            (_, true) => 5,
            _ => 15,
        }
    }

    /// `events` of a full round, or the part of them that this run takes.
    pub(crate) const fn scaled(&self, events: u64) -> u64 {
        let divisor = match (self.smoke, self.quick) {
            (true, _) => 100,
            (_, true) => 3,
            _ => 1,
        };
        // At least some, and whole batches.
        let some = events / divisor / 64 * 64;
        if some < 64 { 64 } else { some }
    }
}
