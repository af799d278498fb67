//! Owns a file that goes with its last holder once the manifest does not list it any more.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::Storage;

/// A file that is written, shared by all that was said of it in its time and that older snapshots hold.
pub(crate) struct StoredFile {
    name: String,
    storage: Arc<dyn Storage>,
    unlisted: AtomicBool,
}

impl StoredFile {
    /// The file called `name`, which the manifest lists, or is about to.
    pub(crate) fn new(name: impl Into<String>, storage: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), storage, unlisted: AtomicBool::new(false) })
    }

    /// Says that the manifest no longer lists it: it is removed when the last holder lets go.
    pub(crate) fn mark_unlisted(&self) {
        self.unlisted.store(true, Ordering::Release);
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        if self.unlisted.load(Ordering::Acquire)
            && let Err(error) = self.storage.remove(&self.name)
        {
            // Not in the manifest any more, so the next open removes it as an orphan.
            tracing::warn!(file = %self.name, %error, "cannot remove a replaced file");
        }
    }
}
