//! Owns looking after what is gone: cut-offs that move with time, erasures that are done; does not rewrite files.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::delete::forget_finished;
use super::retention::advance;
use crate::clock::Clock;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::shard::SharedView;

/// How often it looks.
const TICK: Duration = Duration::from_secs(5);

/// Keeps the manifest's list of what is gone short and its cut-offs up to date.
pub(crate) struct Keeper {
    pub(crate) manifest: Arc<Mutex<Manifest>>,
    /// In order of shards.
    pub(crate) views: Vec<Arc<SharedView>>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Keeper {
    /// Moves cut-offs, lets go of files behind them, forgets erasures that no file needs any more.
    ///
    /// # Errors
    /// A failed write of the manifest: it is tried again the next time.
    pub(crate) fn keep(&self) -> Result<()> {
        let mut manifest = self.manifest.lock();
        advance(&mut manifest, &self.views, self.clock.now_ns())?;
        for (shard, view) in (0..).zip(&self.views) {
            forget_finished(&mut manifest, view, shard)?;
        }
        Ok(())
    }
}

/// The thread of a keeper. Ends when it is dropped.
pub(crate) struct KeeperThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl KeeperThread {
    pub(crate) fn start(keeper: Arc<Keeper>) -> Self {
        let (stop, stopped) = bounded::<()>(0);
        let body = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = keeper.keep() {
                    tracing::warn!(%error, "retention could not be carried out; trying again");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("keep".into())
            .spawn(body)
            .expect("the system starts threads when the node starts");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for KeeperThread {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the keeper of retention panicked");
        }
    }
}
