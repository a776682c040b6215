//! Where things are: the root, the crates, their tests, benches and examples.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::{self, Feature};

/// The workspace as its manifests describe it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) members: Vec<Member>,
}

/// One crate.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) features: Vec<Feature>,
}

impl Workspace {
    pub(crate) fn load() -> Result<Self> {
        // Cargo sets the variable for `cargo run`; the fallback serves a binary started by hand.
        let own =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = PathBuf::from(own).parent().map(Path::to_path_buf).unwrap_or_default();
        let members = manifest::members(&read(&root.join("Cargo.toml"))?)
            .into_iter()
            .map(|dir| Member::load(root.join(dir)))
            .collect::<Result<_>>()?;
        Ok(Self { root, members })
    }

    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The crate `name`, which this project cannot be without.
    pub(crate) fn expect_member(&self, name: &str) -> Result<&Member> {
        let missing = || Error::new(format!("the crate `{name}` is not in the workspace"));
        self.member(name).ok_or_else(missing)
    }

    pub(crate) fn target_dir(&self) -> PathBuf {
        self.root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
    }
}

impl Member {
    fn load(dir: PathBuf) -> Result<Self> {
        let path = dir.join("Cargo.toml");
        let text = read(&path)?;
        let unnamed = || Error::new(format!("{} has no name in [package]", path.display()));
        let name = manifest::package_name(&text).ok_or_else(unnamed)?;
        Ok(Self { name, dir, features: manifest::features(&text) })
    }

    /// The names of the targets that cargo finds in `tests`, `benches` or `examples`, sorted.
    pub(crate) fn targets(&self, kind: &str) -> Result<Vec<String>> {
        let folder = self.dir.join(kind);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let failed = |error| Error::new(format!("cannot list {}: {error}", folder.display()));
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let is_file = path.extension().is_some_and(|extension| extension == "rs");
            if is_file || path.join("main.rs").exists() {
                names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
            }
        }
        names.sort();
        Ok(names)
    }
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path)
        .map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|error| Error::new(format!("cannot write {}: {error}", path.display())))
}
