//! How a file looks from outside.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::SystemTime};

/// Size, time and inode of a file: a name that leads to another file is found by the last, whatever the clock says. When
/// one of them differs, there is something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Look {
    /// Looks at a file; none: it is not there.
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            inode: metadata.ino(),
        })
    }
}
