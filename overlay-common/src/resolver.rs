//! How often a container may ask for names: the resolver is one for all, and its socket too.

use crate::turns::Pace;

/// A thousand packets a second of each container.
pub const PACE: Pace = Pace { interval_ns: 1_000_000, burst: 256 };
