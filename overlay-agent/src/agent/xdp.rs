//! Which XDP mode the underlay device gets: by what it can do, unless the settings say.

use std::collections::VecDeque;

use crate::{config::XdpMode, datapath::links::HookKind, netlink::Link};

/// The mode in force, and what to try if the device refuses it.
#[derive(Clone, Debug)]
pub struct Choice {
    wanted: XdpMode,
    candidates: Option<VecDeque<HookKind>>,
    reason: String,
}

impl Choice {
    /// Before the device is known.
    #[must_use]
    pub fn new(wanted: XdpMode) -> Self {
        Self { wanted, candidates: None, reason: String::new() }
    }

    /// The hook to use on this device, if any.
    pub fn hook(&mut self, link: &Link) -> Option<HookKind> {
        if self.candidates.is_none() {
            let (candidates, reason) = candidates(self.wanted, link);
            self.candidates = Some(candidates);
            self.reason = reason;
        }
        self.current()
    }

    /// The device refused the current hook: the next one, or none, takes its place.
    pub fn refused(&mut self, why: &str) {
        if let Some(candidates) = &mut self.candidates {
            candidates.pop_front();
        }
        self.reason = format!("the driver refused: {why}");
    }

    /// Whether XDP also delivers.
    #[must_use]
    pub fn decapsulates(&self) -> bool {
        self.wanted == XdpMode::Decap && self.current().is_some()
    }

    /// Mode in force and why.
    #[must_use]
    pub fn describe(&self) -> (&'static str, &str) {
        let mode = match (self.current(), self.wanted) {
            (None, _) => "off",
            (Some(_), XdpMode::Decap) => "decap",
            (Some(_), _) => "filter",
        };
        (mode, &self.reason)
    }

    fn current(&self) -> Option<HookKind> {
        self.candidates.as_ref()?.front().copied()
    }
}

fn candidates(wanted: XdpMode, link: &Link) -> (VecDeque<HookKind>, String) {
    let native = HookKind::Xdp { native: true };
    let generic = HookKind::Xdp { native: false };
    match wanted {
        XdpMode::Off => (VecDeque::new(), "asked for".to_owned()),
        XdpMode::Filter | XdpMode::Decap => ([native, generic].into(), "asked for".to_owned()),
        XdpMode::Auto if link.is_virtual() => (
            VecDeque::new(),
            format!("{} is a virtual device, which XDP would deny large packets", link.name),
        ),
        XdpMode::Auto => ([native].into(), format!("the driver of {} has native XDP", link.name)),
    }
}

#[cfg(test)]
mod tests {
    use overlay_common::mac::Mac;

    use super::*;

    fn link(kind: Option<&str>) -> Link {
        Link {
            ifindex: 2,
            name: "eth0".to_owned(),
            mac: Mac::default(),
            mtu: 1500,
            up: true,
            has_carrier: true,
            kind: kind.map(str::to_owned),
            controller: None,
            xdp_programs: Vec::new(),
        }
    }

    #[test]
    fn a_virtual_device_gets_no_xdp_unless_asked_for() {
        let mut auto = Choice::new(XdpMode::Auto);
        assert_eq!(auto.hook(&link(Some("veth"))), None);
        assert_eq!(auto.describe().0, "off");
        let mut filter = Choice::new(XdpMode::Filter);
        assert_eq!(filter.hook(&link(Some("veth"))), Some(HookKind::Xdp { native: true }));
    }

    #[test]
    fn a_physical_device_gets_the_filter_or_nothing() {
        let mut auto = Choice::new(XdpMode::Auto);
        assert_eq!(auto.hook(&link(None)), Some(HookKind::Xdp { native: true }));
        assert_eq!(auto.describe().0, "filter");
        auto.refused("not supported");
        assert_eq!(auto.hook(&link(None)), None);
        assert_eq!(auto.describe(), ("off", "the driver refused: not supported"));
    }

    #[test]
    fn what_was_asked_for_falls_back_to_generic_xdp() {
        let mut decap = Choice::new(XdpMode::Decap);
        decap.hook(&link(None));
        decap.refused("not supported");
        assert_eq!(decap.hook(&link(None)), Some(HookKind::Xdp { native: false }));
        assert!(decap.decapsulates());
    }
}
