//! How much processor time the whole machine spends, interrupts included: the one figure that sees the work that
//! softirqs do on nobody's account.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// Fields of `/proc/stat` that are work: user, nice, system, irq, softirq. The others are idle, iowait and steal.
const BUSY_FIELDS: [usize; 5] = [0, 1, 2, 5, 6];

/// Processor time since boot, all processors together.
#[derive(Clone, Copy, Debug)]
pub struct Busy {
    ticks: u64,
}

impl Busy {
    /// Reads it.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    #[track_caller]
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").expect("read /proc/stat");
        Self {
            ticks: parse(&text)
                .unwrap_or_else(|| panic!("/proc/stat begins with no processor times: {text}")),
        }
    }

    /// Seconds of processor time from then until now.
    ///
    /// # Panics
    /// If the kernel does not say how long its ticks are.
    #[must_use]
    #[track_caller]
    pub fn seconds_since(self, then: Self) -> f64 {
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("the kernel's clock tick");
        (self.ticks - then.ticks) as f64 / per_second as f64
    }
}

fn parse(text: &str) -> Option<u64> {
    let fields: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|f| f.parse().ok()).collect();
    BUSY_FIELDS.iter().map(|&field| fields.get(field)).sum()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_work_is_counted_and_not_what_was_idle_waited_or_stolen() {
        let text = "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse(text), Some(1 + 20 + 300 + 600_000 + 7_000_000));
        assert_eq!(parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
        assert_eq!(parse("cpu  1 2 3\n"), None);
    }

    #[test]
    fn a_busy_thread_shows() {
        let before = Busy::now();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        let seconds = Busy::now().seconds_since(before);
        assert!(seconds >= 0.2, "{seconds} s");
    }
}
