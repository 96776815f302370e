//! Drop counters: how they moved while something was done.

use std::{collections::BTreeMap, fmt, time::Duration};

use overlay_common::verdict::DropReason;

use crate::{host::Host, views, wait};

/// Longest time from a packet that is sent to its counter that has moved.
const DEADLINE: Duration = Duration::from_secs(2);

/// Whose packets, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Name of the reason.
    pub reason: String,
    /// The network, if known.
    pub network: Option<String>,
    /// The local endpoint, if any.
    pub endpoint: Option<String>,
}

/// Packets by site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops(BTreeMap<Site, u64>);

impl Drops {
    /// The counters of a host now.
    #[must_use]
    #[track_caller]
    pub fn of(host: &Host) -> Self {
        let rows: Vec<views::Dropped> = host.json(&["drops"]);
        let mut drops = Self::default();
        for row in rows {
            *drops
                .0
                .entry(Site { reason: row.reason, network: row.network, endpoint: row.endpoint })
                .or_default() += row.packets;
        }
        drops
    }

    /// What was added since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let delta =
            |(site, now): (&Site, &u64)| (site.clone(), now - before.0.get(site).copied().unwrap_or(0));
        Self(self.0.iter().map(delta).filter(|(_, packets)| *packets > 0).collect())
    }

    /// Packets dropped for one reason, wherever.
    #[must_use]
    pub fn by_reason(&self, reason: DropReason) -> u64 {
        self.0.iter().filter(|(site, _)| site.reason == reason.name()).map(|(_, packets)| packets).sum()
    }

    /// Packets dropped, for whatever reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The only site, if there is exactly one.
    #[must_use]
    pub fn only(&self) -> Option<(&Site, u64)> {
        let mut sites = self.0.iter();
        sites.next().filter(|_| sites.next().is_none()).map(|(site, packets)| (site, *packets))
    }
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.0.iter().map(|(site, packets)| {
            let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
            format!(
                "{} ×{packets} (network {}, endpoint {})",
                site.reason,
                name(&site.network),
                name(&site.endpoint)
            )
        });
        let rows: Vec<String> = rows.collect();
        f.write_str(&if rows.is_empty() { "no counter".to_owned() } else { rows.join(", ") })
    }
}

/// Does something and checks that on this host exactly this reason moved, by exactly `packets`, at one
/// site. The error says what moved instead.
///
/// # Errors
/// If anything else moved, or too little.
pub fn check(host: &Host, reason: DropReason, packets: u64, action: impl FnOnce()) -> Result<Site, String> {
    let before = Drops::of(host);
    action();
    let moved = || Drops::of(host).since(&before);
    let enough = wait::poll(DEADLINE, || Some(moved()).filter(|moved| moved.by_reason(reason) >= packets));
    let moved = enough.unwrap_or_else(moved);
    match moved.only() {
        Some((site, count)) if site.reason == reason.name() && count == packets => Ok(site.clone()),
        _ => Err(format!("expected {} ×{packets} and nothing else, but moved: {moved}", reason.name())),
    }
}

/// Like [`check`], for a test of one reason.
///
/// # Panics
/// If anything else moved, or too little.
#[track_caller]
pub fn expect(host: &Host, reason: DropReason, packets: u64, action: impl FnOnce()) -> Site {
    match check(host, reason, packets, action) {
        Ok(site) => site,
        Err(error) => panic!("{error}"),
    }
}
