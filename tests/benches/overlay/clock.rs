//! How long the whole run may take.

use std::time::{Duration, Instant};

/// A deadline that rounds look at before they begin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    end: Instant,
}

impl Clock {
    /// Starts it.
    pub fn start(limit: Duration) -> Self {
        Self { end: Instant::now() + limit }
    }

    /// The part of the time left that one of so many rows may take.
    pub fn share(self, rows: usize) -> Instant {
        let left = self.end.saturating_duration_since(Instant::now());
        Instant::now() + left / u32::try_from(rows.max(1)).unwrap_or(u32::MAX)
    }
}
