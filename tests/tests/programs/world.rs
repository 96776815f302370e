//! A small world in the maps: this host with two containers, another host, three networks.

use std::net::Ipv4Addr;

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuHashMap, ProgramArray, lpm_trie::Key},
    programs::{Program, ProgramError, SchedClassifier, TestRunOptions, TestRunResult},
};
use overlay_common::{
    abi::{map, program, tail_call},
    config::Config,
    endpoint::{Endpoint, FLAG_EGRESS_LIMIT, FLAG_INGRESS_LIMIT},
    fdb::{FdbEntry, FdbKey},
    flow::{Flow, FlowKey},
    gateway::{Gateway, HostAddr},
    limit::Limits,
    neigh::{Neigh, NeighKey},
    network::{FLAG_INTERNAL, FLAG_RULES, Network},
    policy::{ALLOW, Policy, PolicyKey, RULES, RuleBits, RuleBitsKey, RuleSet},
    route::{ANY_NETWORK, RouteKey, SCOPE_BITS},
    stats::{DropCount, DropKey, EndpointStats, RuleCount, RuleKey},
    verdict::DropReason,
    vtep::{self, Vtep, VtepMemberKey},
    wire::outer::{OuterHeader, TunnelEnd},
};
use overlay_tests::packet::{Addr, Frame, VXLAN_PORT};

/// Network of the container under test.
pub const VNI: u32 = 256;
/// Network that policy lets it talk to.
pub const VNI_ROUTED: u32 = 257;
/// Network that it may not talk to.
const VNI_SEPARATE: u32 = 258;
/// MTU of all networks.
pub const MTU: u16 = 1450;

/// The container under test, behind device 1: the one that a test run's packets arrive on.
pub const ME: Addr = addr(0, 2);
const MY_IFINDEX: u32 = 1;
/// Another one on the same host.
pub const LOCAL: Addr = addr(0, 3);
/// One on the other host.
pub const REMOTE: Addr = addr(0, 4);
/// The gateway.
pub const GATEWAY: Addr = addr(0, 1);
/// One on the other host, in the network that policy allows.
pub const ROUTED: Addr = addr(1, 4);
/// One in the network that policy does not allow.
pub const SEPARATE: Addr = addr(2, 4);

/// This host.
pub const LOCAL_VTEP: Addr = vtep(1);
/// The other host.
pub const REMOTE_VTEP: Addr = vtep(2);
/// A third host, without a part in the network.
pub const OTHER_VTEP: Addr = vtep(3);
/// No host of the cluster.
pub const STRANGER_VTEP: Addr = vtep(9);

/// The host's own address in the range of host-local ones.
pub const AGENT: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// Host-local address of the container under test.
pub const MY_HOST_ADDR: Ipv4Addr = Ipv4Addr::new(172, 18, 7, 2);
/// One that no container has.
pub const OTHER_HOST_ADDR: Ipv4Addr = Ipv4Addr::new(172, 18, 7, 3);
/// Hardware address of the gateway device.
pub const GATEWAY_DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

const fn addr(net: u8, host: u8) -> Addr {
    Addr { mac: [2, 0x42, 10, 0, net, host], ip: Ipv4Addr::new(10, 0, net, host) }
}

const fn vtep(host: u8) -> Addr {
    Addr { mac: [2, 0, 0, 0, 0, host], ip: Ipv4Addr::new(192, 168, 0, host) }
}

/// Hardware address of a network's gateway.
pub fn gateway_mac(vni: u32) -> [u8; 6] {
    addr(net_byte(vni), 1).mac
}

fn net_byte(vni: u32) -> u8 {
    u8::try_from(vni - VNI).expect("one of the three networks")
}

/// The programs over maps of their own.
pub struct World {
    ebpf: Ebpf,
}

/// What a run did.
pub struct Run {
    /// The program's return code.
    pub verdict: u32,
    /// The packet afterwards.
    pub frame: Frame,
    /// Drop counters that moved in this world so far: network, device, reason, packets.
    pub drops: Vec<(u32, u32, DropReason, u64)>,
    /// Traffic counters of the container under test.
    pub stats: EndpointStats,
}

impl World {
    /// Loads the object and fills the maps.
    pub fn load() -> Self {
        let object = std::env::var_os("OVERLAY_BPF_OBJECT").expect("OVERLAY_BPF_OBJECT names the BPF object");
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log_level(), &0u8, true)
            .load_file(object)
            .expect("the BPF object loads");
        let behind: &mut SchedClassifier =
            ebpf.program_mut(program::FROM_ENDPOINT6).unwrap().try_into().unwrap();
        behind.load().expect("the verifier takes the program");
        let target = behind.fd().unwrap().try_clone().unwrap();
        let mut calls: ProgramArray<_> = ebpf.map_mut(map::TAIL_CALLS).unwrap().try_into().unwrap();
        calls.set(tail_call::FROM_ENDPOINT6, &target, 0).unwrap();
        let mut world = Self { ebpf };
        world.fill();
        world
    }

    /// With a gateway device, and a host-local address for the container under test.
    pub fn with_gateway() -> Self {
        let mut world = Self::load();
        let gateway = Gateway {
            ifindex: 1,
            range: [172, 18, 0, 0],
            mask: [255, 255, 0, 0],
            agent: AGENT.octets(),
            mac: GATEWAY_DEVICE_MAC,
            pad: [0; 2],
        };
        let mut map: Array<_, Gateway> = world.ebpf.map_mut(map::GATEWAY).unwrap().try_into().unwrap();
        map.set(0, gateway, 0).unwrap();
        let addr = HostAddr { ipv4: MY_HOST_ADDR.octets() };
        world.put(map::HOST_ADDRS, MY_IFINDEX, addr);
        world.put(map::HOST_OWNERS, addr, MY_IFINDEX);
        world
    }

    /// With IPv6 in all networks and for all containers.
    pub fn with_ipv6() -> Self {
        let mut world = Self::load();
        let mut me: HashMap<_, u32, Endpoint> =
            world.ebpf.map_mut(map::ENDPOINTS).unwrap().try_into().unwrap();
        let record = me.get(&MY_IFINDEX, 0).unwrap();
        me.insert(MY_IFINDEX, Endpoint { ipv6: ME.ipv6().octets(), ..record }, 0).unwrap();
        for vni in [VNI, VNI_ROUTED, VNI_SEPARATE] {
            let gateway = addr(net_byte(vni), 1);
            let mut networks: HashMap<_, u32, Network> =
                world.ebpf.map_mut(map::NETWORKS).unwrap().try_into().unwrap();
            let record = networks.get(&vni, 0).unwrap();
            networks.insert(vni, Network { gateway_ipv6: gateway.ipv6().octets(), ..record }, 0).unwrap();
            world.put(map::NEIGH, NeighKey { vni, addr: gateway.ipv6().into() }, Neigh::new(gateway.mac));
            for scope in [vni, ANY_NETWORK] {
                world.add_ipv6_route(scope, vni);
            }
        }
        world.add_ipv6_route(VNI, VNI_ROUTED);
        let places = [(VNI, ME), (VNI, LOCAL), (VNI, REMOTE), (VNI_ROUTED, ROUTED), (VNI_SEPARATE, SEPARATE)];
        for (vni, at) in places {
            world.put(map::NEIGH, NeighKey { vni, addr: at.ipv6().into() }, Neigh::new(at.mac));
        }
        world
    }

    fn add_ipv6_route(&mut self, scope: u32, vni: u32) {
        let first = addr(net_byte(vni), 0).ipv6();
        let key = RouteKey { scope_vni_be: scope.to_be(), addr: first.into() };
        let mut routes: LpmTrie<_, RouteKey, u32> =
            self.ebpf.map_mut(map::ROUTES).unwrap().try_into().unwrap();
        routes.insert(&Key::new(SCOPE_BITS + 64, key), vni, 0).unwrap();
    }

    /// Makes the network of the container under test internal.
    pub fn make_internal(&mut self) {
        let mut map: HashMap<_, u32, Network> = self.ebpf.map_mut(map::NETWORKS).unwrap().try_into().unwrap();
        let network = map.get(&VNI, 0).unwrap();
        map.insert(VNI, Network { flags: FLAG_INTERNAL, ..network }, 0).unwrap();
    }

    /// Lets rules decide in one direction between the network of the container under test and the one it is routed to.
    pub fn set_rules(&mut self, direction: PolicyKey, rules: RuleSet) {
        let ids = rules.rules.iter().take(rules.count as usize).map(|rule| rule.id).chain([0]);
        let cpus = aya::util::nr_cpus().unwrap();
        for rule in ids {
            let key = RuleKey { src_vni: direction.src_vni, dst_vni: direction.dst_vni, rule };
            let zero = vec![RuleCount::default(); cpus].try_into().unwrap();
            let mut map: PerCpuHashMap<_, RuleKey, RuleCount> =
                self.ebpf.map_mut(map::RULE_STATS).unwrap().try_into().unwrap();
            map.insert(key, zero, 0).unwrap();
        }
        self.put(map::RULES, direction, rules);
        self.put(map::POLICY, direction, Policy { action: RULES });
        self.add_route(direction.src_vni, direction.dst_vni);
        let mut map: HashMap<_, u32, Network> = self.ebpf.map_mut(map::NETWORKS).unwrap().try_into().unwrap();
        let network = map.get(&direction.src_vni, 0).unwrap();
        map.insert(direction.src_vni, Network { flags: FLAG_RULES, ..network }, 0).unwrap();
    }

    /// Says which rules' labels an endpoint has.
    pub fn set_bits(&mut self, (vni, peer_vni): (u32, u32), endpoint: Addr, bits: RuleBits) {
        self.put(map::RULE_BITS, RuleBitsKey { vni, peer_vni, addr: endpoint.ip.into() }, bits);
    }

    /// Packets and flows that a rule let through.
    pub fn counted(&self, direction: PolicyKey, rule: u32) -> (u64, u64) {
        let map: PerCpuHashMap<_, RuleKey, RuleCount> =
            self.ebpf.map(map::RULE_STATS).unwrap().try_into().unwrap();
        let key = RuleKey { src_vni: direction.src_vni, dst_vni: direction.dst_vni, rule };
        let counts = map.get(&key, 0).unwrap();
        (counts.iter().map(|count| count.packets).sum(), counts.iter().map(|count| count.flows).sum())
    }

    /// The flows that are remembered.
    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let map: HashMap<_, FlowKey, Flow> = self.ebpf.map(map::FLOWS).unwrap().try_into().unwrap();
        map.iter().map(Result::unwrap).collect()
    }

    /// Makes all flows idle for that much longer.
    pub fn age_flows(&mut self, by_ns: u64) {
        for (key, flow) in self.flows() {
            self.put(map::FLOWS, key, Flow { seen_ns: flow.seen_ns - by_ns, ..flow });
        }
    }

    /// Says how fast the containers under test, and the one that is its neighbour, may send and receive.
    pub fn set_limits(&mut self, limits: Limits) {
        let flag = |rate, flag| if rate == 0 { 0 } else { flag };
        let flags = flag(limits.egress_bytes_per_s, FLAG_EGRESS_LIMIT)
            | flag(limits.ingress_bytes_per_s, FLAG_INGRESS_LIMIT);
        let record = Endpoint { vni: VNI, ipv4: ME.ip.octets(), mac: ME.mac, flags, ipv6: [0; 16] };
        self.put(map::ENDPOINTS, MY_IFINDEX, record);
        self.put(map::LIMITS, MY_IFINDEX, limits);
        for at in [ME, LOCAL] {
            let entry = FdbEntry::local(MY_IFINDEX).with_flags(record.flags_as_receiver());
            self.add_place(VNI, at, entry);
        }
    }

    /// Has the way to the other host take no larger packets of containers than these.
    pub fn narrow_path(&mut self, path_mtu: u16) {
        let mut vteps: Array<_, Vtep> = self.ebpf.map_mut(map::VTEPS).unwrap().try_into().unwrap();
        let vtep = vteps.get(&1, 0).unwrap();
        vteps.set(1, Vtep { path_mtu, ..vtep }, 0).unwrap();
    }

    /// Sets the host's flags.
    pub fn set_flags(&mut self, flags: u32) {
        let config = Config {
            underlay_ifindex: 1,
            tunnel_ifindex: 1,
            vtep_addr: LOCAL_VTEP.ip.octets(),
            vxlan_port_be: VXLAN_PORT.to_be(),
            underlay_mtu: 1500,
            flags,
            underlay_mac: LOCAL_VTEP.mac,
            pad: [0; 2],
        };
        let mut map: Array<_, Config> = self.ebpf.map_mut(map::CONFIG).unwrap().try_into().unwrap();
        map.set(0, config, 0).unwrap();
    }

    /// Forgets the container under test.
    pub fn remove_endpoint(&mut self) {
        let mut map: HashMap<_, u32, Endpoint> =
            self.ebpf.map_mut(map::ENDPOINTS).unwrap().try_into().unwrap();
        map.remove(&MY_IFINDEX).unwrap();
    }

    /// Runs a program on a packet.
    pub fn run(&mut self, name: &str, frame: &Frame) -> Run {
        let mut out = vec![0; 4096];
        let options =
            TestRunOptions { data_in: Some(&frame.0), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = run(&mut self.ebpf, name, options).expect("the test run");
        out.truncate(result.data_size_out as usize);
        Run { verdict: result.return_value, frame: Frame(out), drops: self.drops(), stats: self.stats() }
    }

    fn drops(&self) -> Vec<(u32, u32, DropReason, u64)> {
        let map: PerCpuHashMap<_, DropKey, DropCount> =
            self.ebpf.map(map::DROPS).unwrap().try_into().unwrap();
        let mut drops: Vec<_> = map
            .iter()
            .map(Result::unwrap)
            .map(|(key, counts)| {
                let packets = counts.iter().map(|count| count.packets).sum();
                (key.vni, key.ifindex, DropReason::from_number(key.reason).expect("a known reason"), packets)
            })
            .collect();
        drops.sort_unstable();
        drops
    }

    fn stats(&self) -> EndpointStats {
        let map: PerCpuHashMap<_, u32, EndpointStats> =
            self.ebpf.map(map::ENDPOINT_STATS).unwrap().try_into().unwrap();
        let sum = |pick: fn(&EndpointStats) -> u64| map.get(&MY_IFINDEX, 0).unwrap().iter().map(pick).sum();
        EndpointStats {
            tx_packets: sum(|s| s.tx_packets),
            tx_bytes: sum(|s| s.tx_bytes),
            rx_packets: sum(|s| s.rx_packets),
            rx_bytes: sum(|s| s.rx_bytes),
        }
    }

    fn fill(&mut self) {
        self.set_flags(0);
        for vni in [VNI, VNI_ROUTED, VNI_SEPARATE] {
            self.add_network(vni);
        }
        let record = Endpoint { vni: VNI, ipv4: ME.ip.octets(), mac: ME.mac, flags: 0, ipv6: [0; 16] };
        self.put(map::ENDPOINTS, MY_IFINDEX, record);
        self.add_place(VNI, ME, FdbEntry::local(MY_IFINDEX));
        self.add_place(VNI, LOCAL, FdbEntry::local(MY_IFINDEX));
        for (vni, remote) in [(VNI, REMOTE), (VNI_ROUTED, ROUTED), (VNI_SEPARATE, SEPARATE)] {
            self.add_place(vni, remote, FdbEntry::remote(1, REMOTE_VTEP.ip.octets()));
        }
        self.put(map::POLICY, PolicyKey { src_vni: VNI, dst_vni: VNI_ROUTED }, Policy { action: ALLOW });
        self.add_route(VNI, VNI_ROUTED);
        for (vni, vtep) in
            [(VNI, REMOTE_VTEP), (vtep::ANY_NETWORK, REMOTE_VTEP), (vtep::ANY_NETWORK, OTHER_VTEP)]
        {
            self.put(map::VTEP_MEMBERS, VtepMemberKey { vni, vtep_addr: vtep.ip.octets() }, 1u32);
        }
        let end = |vtep: Addr| TunnelEnd { mac: vtep.mac, addr: vtep.ip.octets() };
        let header = OuterHeader::template(end(LOCAL_VTEP), end(REMOTE_VTEP), VXLAN_PORT);
        let mut vteps: Array<_, Vtep> = self.ebpf.map_mut(map::VTEPS).unwrap().try_into().unwrap();
        vteps.set(1, Vtep { header, path_mtu: 0, pad: [0; 6] }, 0).unwrap();
        self.zero_stats();
    }

    fn add_network(&mut self, vni: u32) {
        let gateway = addr(net_byte(vni), 1);
        let record = Network {
            gateway_ipv4: gateway.ip.octets(),
            gateway_mac: gateway.mac,
            mtu: MTU,
            flags: 0,
            gateway_ipv6: [0; 16],
        };
        self.put(map::NETWORKS, vni, record);
        self.put(map::NEIGH, NeighKey { vni, addr: gateway.ip.into() }, Neigh::new(gateway.mac));
        self.add_route(vni, vni);
        self.add_route(ANY_NETWORK, vni);
    }

    fn add_place(&mut self, vni: u32, at: Addr, entry: FdbEntry) {
        self.put(map::FDB, FdbKey::new(vni, at.mac), entry);
        self.put(map::NEIGH, NeighKey { vni, addr: at.ip.into() }, Neigh::new(at.mac));
    }

    fn add_route(&mut self, scope: u32, vni: u32) {
        let key = RouteKey { scope_vni_be: scope.to_be(), addr: addr(net_byte(vni), 0).ip.into() };
        let mut routes: LpmTrie<_, RouteKey, u32> =
            self.ebpf.map_mut(map::ROUTES).unwrap().try_into().unwrap();
        routes.insert(&Key::new(SCOPE_BITS + 96 + 24, key), vni, 0).unwrap();
    }

    fn put<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> = self.ebpf.map_mut(name).unwrap().try_into().unwrap();
        map.insert(key, value, 0).unwrap();
    }

    fn zero_stats(&mut self) {
        let cpus = aya::util::nr_cpus().unwrap();
        let zero = vec![EndpointStats::default(); cpus].try_into().unwrap();
        let mut map: PerCpuHashMap<_, u32, EndpointStats> =
            self.ebpf.map_mut(map::ENDPOINT_STATS).unwrap().try_into().unwrap();
        map.insert(MY_IFINDEX, zero, 0).unwrap();
    }
}

/// Name of the global that aya-log's programs take their level from.
fn aya_log_level() -> &'static str {
    "AYA_LOG_LEVEL"
}

/// Runs a program; the first time it is loaded before, since the verifier takes longer than all else.
fn run(ebpf: &mut Ebpf, name: &str, options: TestRunOptions<'_>) -> Result<TestRunResult, ProgramError> {
    match ebpf.program_mut(name).unwrap() {
        Program::SchedClassifier(program) => {
            if program.fd().is_err() {
                program.load()?;
            }
            program.test_run(options)
        }
        Program::Xdp(program) => {
            if program.fd().is_err() {
                program.load()?;
            }
            program.test_run(options)
        }
        _ => panic!("{name} is of another type"),
    }
}
