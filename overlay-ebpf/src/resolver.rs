//! How many packets of a container reach the resolver: `overlay_common::resolver`.

use overlay_common::{resolver::PACE, verdict::DropReason};

use crate::{maps::resolver_turns, turns};

/// Whether one more may go there.
#[inline(always)]
pub fn admit(ifindex: u32) -> Result<(), DropReason> {
    if turns::take(&resolver_turns, ifindex, |turns, now_ns| PACE.take(turns, now_ns)) {
        Ok(())
    } else {
        Err(DropReason::ResolverFlood)
    }
}
