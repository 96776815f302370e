//! What this host's agent measures, for Prometheus: looked up when it is asked for, kept nowhere.
//!
//! `GET /v1/metrics` on the API's socket, and `GET /metrics` where `--metrics-listen` says. docs/operations.md lists them.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, prometheus_text, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    api::types::{DropView, EndpointView, MapView, NodeState, NodeView, PolicyView, Status},
    model::Timestamp,
};

/// Start of every metric's name.
const PREFIX: &str = "overlay";

/// Everything that is measured, at one moment.
#[derive(Debug)]
pub struct Scrape {
    /// The agent.
    pub status: Status,
    /// Dropped packets.
    pub drops: Vec<DropView>,
    /// Endpoints of all nodes; those here have counters.
    pub endpoints: Vec<EndpointView>,
    /// Nodes.
    pub nodes: Vec<NodeView>,
    /// BPF maps.
    pub maps: Vec<MapView>,
    /// Rules, with what this host counted.
    pub policies: Vec<PolicyView>,
}

/// A form in which metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// The one that a client wants, by its header `Accept`.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Scrape {
    /// All of it as text.
    ///
    /// # Errors
    /// If it cannot be written, which a text in memory always can.
    pub fn text(self, form: Form) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        match form {
            Form::Prometheus => prometheus_text::encode(&mut text, &registry)?,
            Form::OpenMetrics => text::encode(&mut text, &registry)?,
        }
        Ok(text)
    }
}

/// Labels of a series and its value.
type Series = (Vec<(&'static str, String)>, u64);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families { encoder };
        self.agent(&mut out)?;
        self.store(&mut out)?;
        self.cluster(&mut out)?;
        self.drops(&mut out)?;
        self.endpoints(&mut out)?;
        self.rules(&mut out)?;
        self.maps(&mut out)
    }
}

impl Scrape {
    fn agent(&self, out: &mut Families<'_>) -> fmt::Result {
        let status = &self.status;
        let build = vec![("version", status.version.clone()), ("node", status.node.to_string())];
        out.gauges("build_info", "Version and node of the agent", [(build, 1)])?;
        out.gauge("ready", "Whether the agent's first pass is done", status.ready.into())?;
        out.gauge(
            "pass_failed",
            "Whether the last pass over the maps failed",
            status.reconcile_error.is_some().into(),
        )?;
        out.gauge("warnings", "Warnings in the agent's status", status.warnings.len() as u64)?;
        out.gauge(
            "gateway_up",
            "Whether containers have a way out of the overlay",
            status.gateway.error.is_none().into(),
        )?;
        out.counters(
            "repairs",
            "Drift of maps, programs, devices and rules that the agent repaired",
            [(vec![], status.repaired)],
        )
    }

    fn store(&self, out: &mut Families<'_>) -> fmt::Result {
        let status = &self.status;
        let now = Timestamp::now().unix();
        let stale = status.stale.as_ref().map_or(0, |stale| now.saturating_sub(stale.since_unix_s));
        let up = status.stale.is_none() && status.store_error.is_none();
        out.gauge("store_up", "Whether the store answers and takes changes", up.into())?;
        out.gauge("store_stale_seconds", "For how long the store could not be read, 0 while it can", stale)?;
        out.gauge("store_revision", "Revision of the store that the maps show", status.revision)?;
        out.gauge(
            "store_quarantined_keys",
            "Keys of the store that cannot be read",
            status.quarantined.len() as u64,
        )
    }

    fn cluster(&self, out: &mut Families<'_>) -> fmt::Result {
        let counts = self.status.counts;
        out.gauge("networks", "Networks in the cluster", counts.networks as u64)?;
        out.gauge("endpoints", "Endpoints in the cluster", counts.endpoints as u64)?;
        out.gauge("local_endpoints", "Endpoints on this node", counts.local_endpoints as u64)?;
        let states = [
            (NodeState::Up, "up"),
            (NodeState::Stopped, "stopped"),
            (NodeState::Silent, "silent"),
            (NodeState::Down, "down"),
            (NodeState::Gone, "gone"),
        ];
        let count = |state| self.nodes.iter().filter(|node| node.state == state).count() as u64;
        let nodes = states.map(|(state, name)| (vec![("state", name.to_owned())], count(state)));
        out.gauges("nodes", "Nodes by their state, as this node sees them", nodes)
    }

    /// Several containers of a network may have had one name, one after the other: their counters are one series.
    fn drops(&self, out: &mut Families<'_>) -> fmt::Result {
        let mut sums: BTreeMap<Vec<(&'static str, String)>, (u64, u64)> = BTreeMap::new();
        for drop in &self.drops {
            let name = |name: Option<&crate::model::Name>| name.map(ToString::to_string).unwrap_or_default();
            let labels = vec![
                ("reason", drop.reason.clone()),
                ("network", name(drop.network.as_ref())),
                ("endpoint", name(drop.endpoint.as_ref())),
            ];
            let sum = sums.entry(labels).or_default();
            *sum = (sum.0 + drop.packets, sum.1 + drop.bytes);
        }
        let packets = sums.iter().map(|(labels, (packets, _))| (labels.clone(), *packets));
        out.counters("dropped_packets", "Packets dropped, by reason, network and local endpoint", packets)?;
        let bytes = sums.iter().map(|(labels, (_, bytes))| (labels.clone(), *bytes));
        out.counters("dropped_bytes", "Bytes of dropped packets", bytes)
    }

    fn endpoints(&self, out: &mut Families<'_>) -> fmt::Result {
        let series = |value: fn(&crate::api::types::LocalEndpointView) -> u64| {
            self.endpoints.iter().filter_map(move |endpoint| {
                let labels = vec![
                    ("network", endpoint.network.to_string()),
                    ("endpoint", endpoint.name.to_string()),
                    ("id", endpoint.id.to_string()),
                ];
                Some((labels, value(endpoint.local.as_ref()?)))
            })
        };
        out.counters(
            "endpoint_transmit_packets",
            "Packets forwarded from a local endpoint",
            series(|e| e.tx_packets),
        )?;
        out.counters("endpoint_transmit_bytes", "Their bytes", series(|e| e.tx_bytes))?;
        out.counters(
            "endpoint_receive_packets",
            "Packets delivered to a local endpoint",
            series(|e| e.rx_packets),
        )?;
        out.counters("endpoint_receive_bytes", "Their bytes", series(|e| e.rx_bytes))
    }

    fn rules(&self, out: &mut Families<'_>) -> fmt::Result {
        let series = |value: fn(&crate::api::types::RuleCounts) -> u64| {
            self.policies.iter().filter_map(move |rule| {
                let labels = vec![
                    ("from", rule.from.to_string()),
                    ("to", rule.to.to_string()),
                    ("rule", rule.id.map_or_else(|| "audit".to_owned(), |id| id.to_string())),
                ];
                Some((labels, value(rule.counted.as_ref()?)))
            })
        };
        out.counters(
            "rule_packets",
            "Packets that passed by a rule; of rule \"audit\", that no rule allows",
            series(|c| c.packets),
        )?;
        out.counters("rule_flows", "Flows that a rule opened", series(|c| c.flows))
    }

    fn maps(&self, out: &mut Families<'_>) -> fmt::Result {
        let series = |value: fn(&MapView) -> usize| {
            self.maps.iter().map(move |map| (vec![("map", map.name.clone())], value(map) as u64))
        };
        out.gauges("map_entries", "Entries in a BPF map", series(|map| map.entries))?;
        out.gauges("map_max_entries", "Entries that a BPF map can hold", series(|map| map.max_entries))
    }
}

/// Writes families of series.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauges(name, help, [(Vec::new(), value)])
    }

    fn gauges(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = Series>) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
                .encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = Series>) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
