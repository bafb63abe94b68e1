//! Files that appear whole or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

/// A file on its way: written under a temporary name beside its target, and gone unless [`Pending::finish`] is reached.
pub(crate) struct Pending {
    file: NamedTempFile,
    target: PathBuf,
}

impl Pending {
    /// Starts a file; the folder must be there.
    pub(crate) fn new(target: &Path) -> Result<Self> {
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".sluicegate-");
        if let Some(all) = readable_by_all() {
            builder.permissions(all);
        }
        let file = builder
            .tempfile_in(folder)
            .with_context(|| format!("cannot write {}", target.display()))?;
        Ok(Self {
            file,
            target: target.to_owned(),
        })
    }

    /// Writes the content.
    pub(crate) fn write(&mut self, content: &[u8]) -> Result<()> {
        self.file
            .write_all(content)
            .and_then(|()| self.file.flush())
            .with_context(|| format!("cannot write {}", self.target.display()))
    }

    /// Gives the file its name, in place of an older one.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        self.file
            .persist(&self.target)
            .map_err(|e| e.error)
            .with_context(|| format!("cannot write {}", self.target.display()))?;
        Ok(self.target)
    }
}

/// Writes to standard output stop quietly when the reader has gone (`sluicegate ... | head`).
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// What a file gets by default: temporary files are private, results are not.
#[cfg(unix)]
fn readable_by_all() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(Permissions::from_mode(0o666)) // the umask of the process takes its share
}

#[cfg(not(unix))]
fn readable_by_all() -> Option<Permissions> {
    None
}
