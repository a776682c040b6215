//! What all brokers have in common.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::{Error, Process, Result};

/// A broker of one node or several, each of them a process.
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Its nodes.
    fn processes(&self) -> Vec<&Process>;

    /// Kills every node and starts it again, without any of its data.
    ///
    /// # Errors
    /// If one does not start.
    fn wipe(&self) -> Result<()>;

    /// Waits until the nodes that run are one broker: after a start, for a broker of several.
    ///
    /// # Errors
    /// If that takes too long.
    fn until_ready(&self) -> Result<()> {
        Ok(())
    }
}

/// Removes a folder that may be there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::new(format!("cannot remove {}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}
