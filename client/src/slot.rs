//! A place for the newest value between two threads.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Holds one value. Overflow: a new value replaces one that nobody took, so that whoever takes gets the newest.
#[derive(Debug)]
pub struct Slot<T> {
    inner: Arc<(Mutex<Option<T>>, Condvar)>,
}

impl<T> Slot<T> {
    /// Puts a value in. True when the slot was empty, false when an older value was dropped.
    pub fn put(&self, value: T) -> bool {
        let (value_slot, changed) = &*self.inner;
        let old = value_slot.lock().unwrap_or_else(PoisonError::into_inner).replace(value);
        changed.notify_one();
        old.is_none()
    }

    /// Takes the value out, if there is one.
    pub fn take(&self) -> Option<T> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for a value, but not longer than `timeout`.
    pub fn take_timeout(&self, timeout: Duration) -> Option<T> {
        let (value_slot, changed) = &*self.inner;
        let guard = value_slot.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, timeout, |v| v.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { inner: Arc::new((Mutex::new(None), Condvar::new())) }
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_wins() {
        let slot = Slot::default();
        assert!(slot.put(1));
        assert!(!slot.clone().put(2));
        assert_eq!((slot.take(), slot.take()), (Some(2), None));
        assert_eq!(slot.take_timeout(Duration::ZERO), None);
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let slot = Slot::default();
        let there = slot.clone();
        let waiting = std::thread::spawn(move || there.take_timeout(Duration::from_secs(60)));
        slot.put(7);
        assert_eq!(waiting.join().expect("no panic"), Some(7));
    }
}
