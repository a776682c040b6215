//! What `--help` prints.

pub(crate) const MAIN: &str = "\
The project's own commands.

Usage: cargo xtask <COMMAND>

Commands:
  test [BACKEND…]   run the tests; without a backend, all that need no broker
  bench [BACKEND…]  measure Fabric beside the raw client library
  ci                the checks that CI runs after the tests
  docs [--check]    write the generated parts of README.md, or check them

`cargo xtask <COMMAND> --help` tells more.
";

pub(crate) const TEST: &str = "\
Runs the tests and every example, then sums up what ran.

Usage: cargo xtask test [BACKEND…]

Without a backend, or with `memory`, runs everything that needs no broker: the unit,
property, conformance and documentation tests of the workspace, the table of seeded
bugs, and the examples.

With another backend, runs the tests of its crate and the quickstart example against
the broker at FABRIC_TEST_<BACKEND>_URL.

Backends: memory, zmq, redis, nats, amqp, kafka, ucx (as far as they are in the workspace)
";

pub(crate) const BENCH: &str = "\
Measures Fabric and the raw client library in the same run and prints their ratio.

Usage: cargo xtask bench [BACKEND…] [--quick] [--json FILE] [--micro]

  BACKEND      which to measure; memory unless given
  --quick      fewer and shorter rounds: does it run, not how fast is it
  --json FILE  write all records to FILE, as one array
  --micro      run the micro-benchmarks of fabric-core and fabric-memory instead
";

pub(crate) const CI: &str = "\
Checks formatting, lints, each feature on its own, the documentation and the
dependency tree. CI runs it after `cargo xtask test`.

Usage: cargo xtask ci
";

pub(crate) const DOCS: &str = "\
Writes the generated parts of README.md: the capability table from the code and the
feature table from fabric/Cargo.toml.

Usage: cargo xtask docs [--check]

  --check  change nothing; fail and show the difference when README.md is out of date
";
