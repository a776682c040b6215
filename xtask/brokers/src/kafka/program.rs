//! Where the broker comes from.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::{announce, find, from_debian, on_path, run};
use crate::{Error, Result, cache};

/// The version that is installed.
const VERSION: &str = "4.1.0";

/// A Java and the archives that are Kafka.
#[derive(Clone, Debug)]
pub struct Program {
    java: PathBuf,
    libraries: PathBuf,
}

impl Program {
    pub(super) fn java(&self) -> &Path {
        &self.java
    }

    /// The arguments that run one of Kafka's classes with no more than a test needs.
    pub(super) fn class(&self, name: &str) -> Vec<OsString> {
        let mut classes = self.libraries.clone().into_os_string();
        classes.push("/*");
        // One thread compiles and collects: brokers for tests are many, their work is small.
        let fixed =
            ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp"];
        let mut all: Vec<OsString> = fixed.iter().map(OsString::from).collect();
        all.extend([classes, name.into()]);
        all
    }
}

/// Kafka: of the folder in `FABRIC_KAFKA_HOME`, else of `kafka-server-start.sh` on the PATH, else
/// Apache's artifact `kafka_2.13` from Maven, which is installed into the cache.
///
/// # Errors
/// If there is none and none can be installed, or there is no Java.
pub fn program() -> Result<Program> {
    let hint = |error: Error| {
        let way = "install Java 17 or later and Maven, or name a Kafka 4 in FABRIC_KAFKA_HOME";
        Error::new(format!("{error}\nno Kafka: {way}"))
    };
    let home = env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let java = match home.filter(|java| java.is_file()) {
        Some(java) => java,
        None => from_debian("java", "default-jre-headless").map_err(hint)?,
    };
    let libraries = match installed() {
        Some(libraries) => libraries,
        None => cache::filled(&format!("kafka-{VERSION}"), install).map_err(hint)?,
    };
    Ok(Program { java, libraries })
}

fn installed() -> Option<PathBuf> {
    let home = env::var_os("FABRIC_KAFKA_HOME").map(PathBuf::from).or_else(|| {
        let script = on_path("kafka-server-start.sh")?.canonicalize().ok()?;
        Some(script.parent()?.parent()?.to_owned())
    })?;
    Some(home.join("libs"))
}

fn install(folder: &Path) -> Result<()> {
    announce(&format!("installing Apache Kafka {VERSION} from Maven"));
    let maven = from_debian("mvn", "maven")?;
    let project = folder.join("pom.xml");
    let failed = |error| Error::new(format!("cannot write {}: {error}", project.display()));
    std::fs::write(&project, PROJECT.replace("VERSION", VERSION)).map_err(failed)?;
    run(Command::new(maven)
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(&project)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", folder.display())))?;
    let archives = find(folder, &|path| path.extension().is_some_and(|end| end == "jar"));
    match archives.len() {
        0 => Err(Error::new("Maven brought no archives")),
        _ => Ok(()),
    }
}

/// A project that has Kafka for a dependency, and what makes it say something, and is nothing else.
const PROJECT: &str = "\
<project xmlns=\"http://maven.apache.org/POM/4.0.0\">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fabric</groupId>
  <artifactId>broker</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>VERSION</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
";
