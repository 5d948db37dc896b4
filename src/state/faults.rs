//! Where a test watches the store and makes it fail: every write, sync and rename passes here.
//!
//! What only a crash at one moment, a full disk or a reader between two steps can show, a test must be able to bring
//! about at that moment. A hook that returns an error is such a failure; what else it does, it does in between.
//!
//! Invariants: without a hook a step costs a look at an `Option`. Whatever must reach the disk before something refers to
//! it is forced there by [`Faults::sync_file`] and [`Faults::sync_dir`]: so a test knows what a power loss leaves.
//! Neighbours: `state` and `offline::seal` say what they do; `tests/simulation` listens.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StateError;

/// What is about to be done, or is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A batch will be written: to the operating system, or with `sync` through to the disk.
    Write {
        /// Through to the disk?
        sync: bool,
    },
    /// A batch is written. A failure here is one of which nobody knows whether it was written.
    Written {
        /// Through to the disk?
        sync: bool,
    },
    /// A word of `meta` will be set.
    PutMeta(&'a str),
    /// The write-ahead log will be forced to the disk.
    Sync,
    /// It is on the disk.
    Synced,
    /// A file's bytes will be forced to the disk.
    SyncFile(&'a Path),
    /// They are on the disk.
    FileSynced(&'a Path),
    /// A file will get its name.
    Rename {
        /// Its name so far.
        from: &'a Path,
        /// Its name from then on.
        to: &'a Path,
    },
    /// It has its name, which a power loss may take back.
    Renamed {
        /// Its name so far.
        from: &'a Path,
        /// Its name from then on.
        to: &'a Path,
    },
    /// A directory's names are on the disk.
    DirSynced(&'a Path),
    /// A reader of the log has looked at one of tail and catalogue, and not yet at the other.
    LogHalfRead,
}

/// Told of every step; an error makes it fail.
pub type Hook = dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync;

/// Who listens, if anybody does.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Hook>>);

impl Faults {
    /// This hook listens.
    pub fn hooked(hook: Arc<Hook>) -> Faults {
        Faults(Some(hook))
    }

    /// Passes a step of the store.
    pub(crate) fn at(&self, step: Step<'_>) -> Result<(), StateError> {
        self.pass(step).map_err(|source| StateError::Io { path: PathBuf::from("the store"), source })
    }

    fn pass(&self, step: Step<'_>) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(step))
    }

    /// Forces a file's bytes to the disk.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.pass(Step::SyncFile(path))?;
        file.sync_all()?;
        self.pass(Step::FileSynced(path))
    }

    /// Gives a file its name, which is on the disk once the directory is synced.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Step::Rename { from, to })?;
        std::fs::rename(from, to)?;
        self.pass(Step::Renamed { from, to })
    }

    /// Forces a directory's names to the disk.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir).and_then(|d| d.sync_all())?;
        self.pass(Step::DirSynced(dir))
    }
}
