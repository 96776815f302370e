//! Waiting for conditions instead of sleeping.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until `look` finds something, and returns it; `None` after the deadline.
pub fn poll<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// How long it took until `holds` was true.
///
/// # Panics
/// If it is not before the deadline.
#[track_caller]
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    let done = poll(deadline, || holds().then(|| start.elapsed()));
    done.unwrap_or_else(|| panic!("waited {deadline:?} in vain until {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_looked_at_until_it_holds_and_no_longer_than_the_deadline() {
        let mut looks = 0;
        assert_eq!(
            poll(Duration::from_secs(5), || {
                looks += 1;
                (looks == 3).then_some(looks)
            }),
            Some(3)
        );
        assert_eq!(poll(Duration::ZERO, || None::<()>), None);
    }
}
