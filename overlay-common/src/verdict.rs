//! Why a packet did not go on.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped. Numbers are stable: a reason that goes leaves a gap.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name by which the command line and metrics call it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One line for people: what happened.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

drop_reasons! {
    // From a container.
    /// a packet on a veth that has no endpoint record
    UnknownEndpoint = 1, "unknown_endpoint";
    /// the frame ends before its headers do
    Truncated = 2, "truncated";
    /// the container sent a VLAN-tagged frame
    VlanTagged = 3, "vlan_tagged";
    /// the source MAC is not the container's own
    SpoofedMac = 4, "spoofed_mac";
    /// the source IP is not the container's own
    SpoofedIp = 5, "spoofed_ip";
    /// an ARP packet claims another's MAC or IP
    SpoofedArp = 6, "spoofed_arp";
    /// neither IP of a family that the network has, nor ARP
    UnsupportedProtocol = 7, "unsupported_protocol";
    /// an IP header whose version or lengths lie
    MalformedIp = 8, "malformed_ip";
    /// no container of the network has the destination MAC
    UnknownMac = 9, "unknown_mac";
    /// broadcast or multicast in a network that was made without
    Multicast = 10, "multicast";
    /// sent to the gateway for an address in no reachable network
    NoRoute = 11, "no_route";
    /// the destination is in another network and no policy allows it
    PolicyDenied = 12, "policy_denied";
    /// TTL ran out at the gateway
    TtlExceeded = 13, "ttl_exceeded";
    /// the destination network has no container with that address
    UnknownDestination = 14, "unknown_destination";
    /// larger than the network's MTU; answered with fragmentation-needed
    TooBig = 15, "too_big";
    /// the container sent VXLAN itself
    NestedVxlan = 16, "nested_vxlan";
    /// the outer header could not be written
    EncapFailed = 17, "encap_failed";
    /// an ARP packet that asks for nobody we know, or asks nothing
    ArpUnanswered = 18, "arp_unanswered";
    /// the network is internal: nothing but names is to be had outside it
    InternalNetwork = 19, "internal_network";
    /// the container addressed a host-local address, which only the host may
    HostLocal = 20, "host_local";
    /// sent to the gateway for a loopback, multicast or reserved address
    Martian = 21, "martian";
    /// the packet could not be rewritten for the host
    GatewayFailed = 22, "gateway_failed";

    // From the underlay: the outer packet.
    /// a VXLAN packet that ends before its headers do
    OuterTruncated = 32, "outer_truncated";
    /// a fragment of a VXLAN packet
    OuterFragment = 33, "outer_fragment";
    /// outer IPv4 or UDP header with options or with lengths that lie
    OuterMalformed = 34, "outer_malformed";
    /// the flag that makes the VNI valid is not set
    VxlanFlags = 35, "vxlan_flags";
    /// no network has this VNI
    UnknownVni = 36, "unknown_vni";
    /// the outer source is no node of the cluster
    UnknownVtep = 37, "unknown_vtep";
    /// the outer source is a node without a part in this network
    VtepNotMember = 38, "vtep_not_member";

    // From the underlay: the inner packet.
    /// the inner frame ends before its headers do
    InnerTruncated = 48, "inner_truncated";
    /// the inner frame is VLAN-tagged
    InnerVlanTagged = 49, "inner_vlan_tagged";
    /// the inner packet is no IP of a family that the network has
    InnerUnsupported = 50, "inner_unsupported";
    /// inner IP header whose version or lengths lie
    InnerMalformed = 51, "inner_malformed";
    /// VXLAN inside VXLAN
    InnerNestedVxlan = 52, "inner_nested_vxlan";
    /// the inner destination is broadcast or multicast
    InnerMulticast = 53, "inner_multicast";
    /// no container of the network has the inner destination MAC
    InnerUnknownMac = 54, "inner_unknown_mac";
    /// the inner destination lives on another host
    InnerNotLocal = 55, "inner_not_local";
    /// the outer header could not be removed
    DecapFailed = 56, "decap_failed";
    /// the underlay marked congestion on a packet whose ends do not speak ECN
    InnerNotEct = 57, "inner_not_ect";

    // On the slow path's device.
    /// a packet on the tunnel device that did not come through the underlay's checks
    NotTunnelled = 64, "not_tunnelled";

    // From the host, through the gateway device.
    /// the host sent to a host-local address that no container has
    HostUnknown = 72, "host_unknown";
    /// the host sent from another container's host-local address
    HostSpoofed = 73, "host_spoofed";
    /// the host sent to a container of an internal network
    HostInternal = 74, "host_internal";
    /// the host sent what is no IPv4, or ends before its headers do
    HostMalformed = 75, "host_malformed";
    /// the packet could not be rewritten for the container
    HostFailed = 76, "host_failed";

    // Between networks, by rules: at the sender's host and again at the receiver's.
    /// no rule of the policy between the networks allows it
    NoRule = 90, "no_rule";
    /// it may only answer, and answers no flow that a rule allows
    NoFlow = 91, "no_flow";
    /// a later fragment of a packet whose first one was not let through, or not yet
    RuleFragment = 92, "rule_fragment";
    /// its TCP, UDP or ICMP header is cut off or lies, so no rule can be applied
    RuleMalformed = 93, "rule_malformed";

    // From machines without an agent, whose packets no other host has checked.
    /// an external VTEP sent from a MAC that is no member's behind it
    ExternalMac = 150, "external_mac";
    /// an external VTEP sent from an IP that is not the one of the sending MAC
    ExternalIp = 151, "external_ip";
    /// ARP that is no question of an external member, or lies about who asks
    ExternalArp = 152, "external_arp";
    /// an external member asked for an address that no container of its network has
    ExternalArpUnanswered = 153, "external_arp_unanswered";

    // By an endpoint's rate.
    /// the container sends faster than it may
    EgressLimit = 155, "egress_limit";
    /// more is sent to the container than it may receive
    IngressLimit = 156, "ingress_limit";

    // To the host itself, in networks in which it has an address.
    /// sent to the host's port in a network, but to another address than the port's
    HostPortAddress = 157, "host_port_address";

    // On the way to another host.
    /// larger than what passes on the way to the other host, as a router there has said; the sender is told
    PathTooBig = 158, "path_too_big";


    // Broadcast and multicast.
    /// the sender sends more broadcast and multicast than it may
    MulticastStorm = 154, "multicast_storm";

    // From a container, for names.
    /// the container asks for names faster than it may
    ResolverFlood = 120, "resolver_flood";

    // IPv6 from a container.
    /// a neighbour advertisement or solicitation claims another's address
    SpoofedNd = 130, "spoofed_nd";
    /// a neighbour solicitation that asks for nobody we know, or a message that asks nothing
    NdUnanswered = 131, "nd_unanswered";
    /// the container plays router
    RouterAdvertisement = 132, "router_advertisement";
    /// the container asks for routers: it has been told all that they would say
    RouterSolicitation = 133, "router_solicitation";
    /// the container sent a redirect
    NdRedirect = 134, "nd_redirect";
    /// a report of the multicast groups that the container listens to
    MulticastListener = 135, "multicast_listener";
    /// more IPv6 extension headers, or longer ones, than anybody needs
    ExtensionHeaders = 136, "extension_headers";

    // From the underlay: inner IPv6.
    /// neighbour discovery, which never leaves its host
    InnerNd = 140, "inner_nd";
    /// more IPv6 extension headers, or longer ones, than anybody needs, in the inner packet
    InnerExtensionHeaders = 141, "inner_extension_headers";
}

#[cfg(feature = "user")]
impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(*reason as u32), Some(*reason));
            assert!(!reason.description().is_empty());
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
