//! ICMP echo.

use std::net::IpAddr;

use crate::{exec::Finished, netns::Netns};

/// Three echo requests, 50 ms apart, each waited for at most a second.
#[track_caller]
pub fn ping(netns: &Netns, to: impl Into<IpAddr>, extra: &[&str]) -> Finished {
    let to = to.into().to_string();
    netns.run(&[&["ping", "-n", "-c", "3", "-i", "0.05", "-W", "1"], extra, &[to.as_str()]].concat())
}

/// Pings, and all three requests have to be answered, once each.
///
/// # Panics
/// If they are not.
#[track_caller]
pub fn expect_ping(netns: &Netns, to: impl Into<IpAddr>, extra: &[&str]) {
    let finished = ping(netns, to, extra);
    assert!(finished.stdout.contains("3 received, 0% packet loss"), "{finished}");
    assert!(!finished.stdout.contains("DUP"), "answered twice: {finished}");
}

/// Pings, and no request may be answered.
///
/// # Panics
/// If one is.
#[track_caller]
pub fn expect_no_ping(netns: &Netns, to: impl Into<IpAddr>) {
    let finished = ping(netns, to, &[]);
    assert!(finished.stdout.contains(" 0 received"), "{finished}");
}
