//! Owns reusable buffers of the thread, so that coding a chunk allocates nothing in the long run; does not keep values.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers kept per thread and type. Nested streams hold a handful at a time.
const KEPT: usize = 8;
/// A buffer that grew past this many bytes is given back to the allocator.
const KEPT_BYTES: usize = 1 << 20;

thread_local! {
    static INTS: RefCell<Vec<Vec<i64>>> = const { RefCell::new(Vec::new()) };
    static REALS: RefCell<Vec<Vec<f64>>> = const { RefCell::new(Vec::new()) };
    static BYTES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A type that has a pool.
pub(crate) trait Pooled: Sized + 'static {
    fn with_pool<R>(work: impl FnOnce(&mut Vec<Vec<Self>>) -> R) -> R;
}

macro_rules! pooled {
    ($type:ty, $pool:ident) => {
        impl Pooled for $type {
            fn with_pool<R>(work: impl FnOnce(&mut Vec<Vec<Self>>) -> R) -> R {
                $pool.with_borrow_mut(work)
            }
        }
    };
}
pooled!(i64, INTS);
pooled!(f64, REALS);
pooled!(u8, BYTES);

/// An empty vector with memory from earlier use; goes back to the pool when dropped.
pub(crate) struct Scratch<T: Pooled>(Vec<T>);

impl<T: Pooled> Scratch<T> {
    pub(crate) fn take() -> Self {
        Self(T::with_pool(Vec::pop).unwrap_or_default())
    }
}

impl<T: Pooled> Deref for Scratch<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Pooled> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T: Pooled> Drop for Scratch<T> {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        if buffer.capacity() * size_of::<T>() <= KEPT_BYTES {
            T::with_pool(|pool| {
                if pool.len() < KEPT {
                    pool.push(buffer);
                }
            });
        }
    }
}
