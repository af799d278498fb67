//! Owns looking after what is gone: cut-offs that move with time, erasures that are done; does not rewrite files.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sync::Mutex;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::delete::finished;
use super::retention::advance;
use crate::clock::Clock;
use crate::error::Result;
use crate::manifest::{Edit, Manifest};
use crate::shard::SharedView;
use crate::shard::view::SegmentMap;

/// How often it looks.
const TICK: Duration = Duration::from_secs(5);

/// Keeps the manifest's list of what is gone short and its cut-offs up to date.
pub(crate) struct Keeper {
    manifest: Arc<Mutex<Manifest>>,
    /// In order of shards.
    views: Vec<Arc<SharedView>>,
    clock: Arc<dyn Clock>,
    /// Each shard's segments when erasures were last looked for in them.
    seen: Mutex<Vec<Weak<SegmentMap>>>,
}

impl Keeper {
    pub(crate) fn new(manifest: Arc<Mutex<Manifest>>, views: Vec<Arc<SharedView>>, clock: Arc<dyn Clock>) -> Self {
        Self { manifest, views, clock, seen: Mutex::default() }
    }

    /// Moves cut-offs, lets go of files behind them, forgets erasures that no file needs any more.
    ///
    /// # Errors
    /// A failed write of the manifest: it is tried again the next time.
    pub(crate) fn keep(&self) -> Result<()> {
        advance(&mut self.manifest.lock(), &self.views, self.clock.now_ns())?;
        let mut seen = self.seen.lock();
        seen.resize_with(self.views.len(), Weak::new);
        for ((shard, view), seen) in (0..).zip(&self.views).zip(seen.iter_mut()) {
            self.forget_finished(shard, view, seen)?;
        }
        Ok(())
    }

    /// Looks through the files only when there are others than the last time.
    fn forget_finished(&self, shard: u32, view: &SharedView, seen: &mut Weak<SegmentMap>) -> Result<()> {
        let now = view.load();
        let same = Weak::ptr_eq(seen, &Arc::downgrade(&now.segments));
        if now.masks.erasures().next().is_none() || same {
            return Ok(());
        }
        let done: Vec<Edit> = finished(&now).into_iter().map(|number| Edit::ErasureRemoved { number }).collect();
        if !done.is_empty() {
            let mut manifest = self.manifest.lock();
            // A dropped table took its erasures along, perhaps in this very moment.
            let there = |edit: &&Edit| matches!(edit, Edit::ErasureRemoved { number } if manifest.state().erasures.contains_key(number));
            let done: Vec<Edit> = done.iter().filter(there).cloned().collect();
            manifest.append(&done)?;
            view.set_masks(manifest.state(), shard);
        }
        *seen = Arc::downgrade(&now.segments);
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
