//! What the agent found broken and put right by itself.

use std::{
    collections::VecDeque,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use super::lock;
use crate::verify::{Difference, Repair};

/// Repairs that are remembered one by one; all are counted.
const REMEMBERED: usize = 64;

/// Repairs since the agent started.
#[derive(Debug, Default)]
pub struct Repairs(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    count: u64,
    last: VecDeque<Repair>,
}

impl Repairs {
    /// Writes down what was repaired just now.
    pub fn note(&self, repaired: impl IntoIterator<Item = Difference>) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut log = lock(&self.0);
        for difference in repaired {
            let Difference { layer, subject, reason, .. } = &difference;
            tracing::warn!(%layer, subject, reason, "was not as we left it; repaired");
            log.count += 1;
            log.last.push_back(Repair { unix_seconds: since_1970.as_secs(), difference });
        }
        let excess = log.last.len().saturating_sub(REMEMBERED);
        log.last.drain(..excess);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        lock(&self.0).count
    }

    /// The last of them, the oldest first.
    #[must_use]
    pub fn last(&self) -> Vec<Repair> {
        lock(&self.0).last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{Concerns, Layer};

    #[test]
    fn all_are_counted_and_the_last_ones_remembered() {
        let repairs = Repairs::default();
        let difference = |number: usize| Difference {
            layer: Layer::Map,
            subject: number.to_string(),
            found: None,
            wanted: None,
            reason: String::new(),
            concerns: Concerns::default(),
        };
        repairs.note((0..REMEMBERED + 10).map(difference));
        assert_eq!(repairs.count(), REMEMBERED as u64 + 10);
        let last = repairs.last();
        assert_eq!((last.len(), last[0].difference.subject.as_str()), (REMEMBERED, "10"));
    }
}
