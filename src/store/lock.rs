//! Keeps a second process out of a folder.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use super::Error;

/// Held as long as this process uses the folder; the system frees it when the process dies, however it dies.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Creates the folder if need be, and takes it.
    pub fn take(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder)
            .map_err(|error| Error::Other(format!("cannot create the folder {}: {error}", folder.display())))?;
        let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(folder.display().to_string())),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        assert!(matches!(FolderLock::take(folder.path()), Err(Error::InUse(_))));
        drop(lock);
        assert!(FolderLock::take(folder.path()).is_ok());
    }
}
