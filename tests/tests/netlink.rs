//! The agent's netlink, against the kernel, in namespaces of its own. `ip` and `ethtool` are the witnesses.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is what is wanted")]

use std::{
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    pin::pin,
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures::StreamExt;
use overlay_agent::{
    api::types::NetnsRef,
    netlink::{
        ContainerConfig, ContainerLink, ContainerRoute, NetEvent, Netlink, NetlinkError, NextHop, Replaces,
        VethSide, configure, interfaces, monitor, set_gro,
    },
    netns::{NetnsError, NetnsHandle, resolve, run_in},
};
use overlay_common::mac::Mac;
use tokio::{runtime, time::timeout};

/// Long enough for a busy machine; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

const CONTAINER_MAC: Mac = Mac([0x02, 0x42, 10, 0, 0, 2]);
const CONTAINER_MTU: u16 = 1450;

/// A network namespace with a name, removed with everything in it.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ovl-{}-nl{count}-{role}", process::id());
        command("ip", &["netns", "add", &name]);
        Self { name }
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn handle(&self) -> NetnsHandle {
        resolve(&NetnsRef::Name(self.name.clone())).unwrap()
    }

    /// What `ip ARGUMENTS` says in this namespace.
    fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<&str> =
            ["-n", &self.name].into_iter().chain(arguments.split_whitespace()).collect();
        command("ip", &arguments)
    }

    /// What a command says in this namespace.
    fn exec(&self, line: &str) -> String {
        let arguments: Vec<&str> =
            ["netns", "exec", &self.name].into_iter().chain(line.split_whitespace()).collect();
        command("ip", &arguments)
    }

    /// Runs `work` with a connection of this namespace.
    fn inside<T: Send + 'static>(&self, work: impl AsyncFnOnce(Netlink) -> T + Send + 'static) -> T {
        let handle = self.handle();
        let thread = run_in(&handle, || block_on(async { work(Netlink::open().unwrap()).await }));
        block_on(thread).unwrap()
    }

    fn ifnames(&self) -> Vec<String> {
        block_on(interfaces(&self.handle())).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("the namespace {} stays behind", self.name);
        }
    }
}

fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Many `ip` commands at once, in a namespace.
fn ip_batch(namespace: &str, lines: &str) {
    let mut ip =
        Command::new("ip").args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Two namespaces and a wire: `left` has 192.0.2.1 on `wire`, `right` 192.0.2.2 and a known address.
struct Wire {
    left: Namespace,
    right: Namespace,
}

const LEFT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const RIGHT_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 2]);

impl Wire {
    fn new() -> Self {
        let (left, right) = (Namespace::new("left"), Namespace::new("right"));
        left.ip(&format!("link add wire type veth peer name wire address {RIGHT_MAC} netns {}", right.name));
        left.ip("addr add 192.0.2.1/24 dev wire");
        right.ip("addr add 192.0.2.2/24 dev wire");
        left.ip("link set wire up");
        right.ip("link set wire up");
        Self { left, right }
    }
}

async fn ifindex(netlink: &Netlink, name: &str) -> u32 {
    netlink.link_by_name(name).await.unwrap().unwrap().ifindex
}

fn container_link(ifname: &str) -> ContainerLink {
    ContainerLink { ifname: ifname.to_owned(), mac: CONTAINER_MAC, mtu: CONTAINER_MTU }
}

fn container_config(ifname: &str, gateway: Option<Ipv4Addr>) -> ContainerConfig {
    ContainerConfig {
        ifname: ifname.to_owned(),
        address: "10.0.0.2/24".parse().unwrap(),
        default_gateway: gateway,
        ipv6: None,
        replaces: Replaces::Nothing,
        mtu: CONTAINER_MTU,
    }
}

/// A pair of `ovl-host` on the host and `ifname` in the container.
fn create_veth(host: &Namespace, container: &Namespace, ifname: &str) -> Result<u32, NetlinkError> {
    create_veth_named(host, container, "ovl-host", ifname)
}

fn create_veth_named(
    host: &Namespace,
    ns: &Namespace,
    host_name: &str,
    ifname: &str,
) -> Result<u32, NetlinkError> {
    let (ns, link, host_name) = (ns.handle(), container_link(ifname), host_name.to_owned());
    host.inside(async move |netlink| netlink.create_veth(&host_name, &ns, &link).await)
}

#[test]
fn name_path_and_process_lead_to_the_same_namespace() {
    let (one, other) = (Namespace::new("one"), Namespace::new("other"));
    let mut process = Command::new("ip")
        .args(["netns", "exec", &one.name, "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Once `cat` answers, the process is in the namespace.
    process.stdin.as_mut().unwrap().write_all(b"there\n").unwrap();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();

    let by_name = one.handle();
    let by_path = resolve(&NetnsRef::Path(one.path())).unwrap();
    let by_process = resolve(&NetnsRef::Pid(process.id()));
    drop(process.stdin.take());
    process.wait().unwrap();

    assert_eq!(by_name.identity(), by_path.identity());
    assert_eq!(by_name.identity(), by_process.unwrap().identity());
    assert_ne!(by_name.identity(), other.handle().identity());
    assert_eq!(by_path.path(), one.path());
}

#[test]
fn work_in_a_namespace_leaves_the_callers_thread_where_it_was() {
    let ns = Namespace::new("box");
    let inside = ns.handle().identity();
    let own = || resolve(&NetnsRef::Path("/proc/thread-self/ns/net".into()));
    // Inside, the namespace is the thread's own; outside it is not.
    let name = NetnsRef::Name(ns.name.clone());
    let seen = ns.inside(async move |_| resolve(&name).map(drop));
    assert!(matches!(seen, Err(NetnsError::OwnNamespace(_))), "{seen:?}");
    assert!(matches!(own(), Err(NetnsError::OwnNamespace(_))));
    assert_eq!(ns.handle().identity(), inside);
}

#[test]
fn work_that_panics_is_an_error_and_no_hang() {
    let ns = Namespace::new("box");
    let result = block_on(run_in(&ns.handle(), || panic!("as the test wants it")));
    assert!(matches!(result, Err::<(), _>(NetnsError::Panicked(_))), "{result:?}");
}

#[test]
fn a_veth_pair_has_both_ends_in_place_with_address_and_mtu() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    let ifindex = create_veth(&host, &container, "eth0").unwrap();

    let link = host.inside(async move |netlink| netlink.link_by_index(ifindex).await.unwrap().unwrap());
    assert_eq!((link.name.as_str(), link.mtu, link.up), ("ovl-host", u32::from(u16::MAX), false));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    assert!(link.is_virtual());
    let witness = host.ip("-d link show ovl-host");
    assert!(witness.contains("addrgenmode none"), "{witness}");

    let peer = container.inside(async |netlink| netlink.link_by_name("eth0").await.unwrap().unwrap());
    assert_eq!((peer.mac, peer.mtu, peer.up), (CONTAINER_MAC, u32::from(CONTAINER_MTU), false));
}

#[test]
fn a_veth_pair_too_small_for_ipv6_is_made_all_the_same() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    let link = ContainerLink { mtu: 1000, ..container_link("eth0") };
    let ns = container.handle();
    host.inside(async move |netlink| netlink.create_veth("ovl-host", &ns, &link).await).unwrap();
}

#[test]
fn a_name_taken_in_the_container_leaves_nothing_on_either_side() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    container.ip("link add eth0 type bridge");
    let (host_before, container_before) = (host.ifnames(), container.ip("link show"));

    let error = create_veth(&host, &container, "eth0").unwrap_err();
    let NetlinkError::IfnameExists { ifname, side } = &error else { panic!("{error:?}") };
    assert_eq!((ifname.as_str(), *side), ("eth0", VethSide::Container));
    assert_eq!((host.ifnames(), container.ip("link show")), (host_before, container_before));
}

#[test]
fn a_name_taken_on_the_host_leaves_nothing_on_either_side() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    host.ip("link add ovl-host type bridge");
    let (host_before, container_before) = (host.ip("link show"), container.ifnames());

    let error = create_veth(&host, &container, "eth0").unwrap_err();
    let NetlinkError::IfnameExists { ifname, side } = &error else { panic!("{error:?}") };
    assert_eq!((ifname.as_str(), *side), ("ovl-host", VethSide::Host));
    assert_eq!((host.ip("link show"), container.ifnames()), (host_before, container_before));
}

#[test]
fn a_name_that_the_kernel_would_change_is_refused() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    let before = container.ifnames();
    let error = create_veth(&host, &container, "eth%d").unwrap_err();
    assert!(matches!(error, NetlinkError::Ifname(_)), "{error:?}");
    assert_eq!(container.ifnames(), before);
}

#[test]
fn a_container_gets_address_route_loopback_and_no_ipv6() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    create_veth(&host, &container, "eth0").unwrap();
    let gateway = Ipv4Addr::new(10, 0, 0, 1);
    let routes = block_on(configure(&container.handle(), container_config("eth0", Some(gateway)))).unwrap();

    assert_eq!(
        routes,
        [ContainerRoute { destination: "0.0.0.0/0".parse().unwrap(), gateway: gateway.into() }]
    );
    let (link, addresses, device, loopback) = container.inside(async |netlink| {
        let link = netlink.link_by_name("eth0").await.unwrap().unwrap();
        let addresses = netlink.ipv4_addresses(link.ifindex).await.unwrap();
        let device = netlink.default_route_device().await.unwrap();
        (link, addresses, device, netlink.link_by_name("lo").await.unwrap().unwrap())
    });
    assert!(link.up && loopback.up);
    assert_eq!(addresses, ["10.0.0.2/24".parse().unwrap()]);
    assert_eq!(device, Some(link.ifindex));
    assert!(container.ip("route show default").starts_with("default via 10.0.0.1 dev eth0"));
    assert_eq!(container.exec("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6"), "1\n");
    assert_eq!(container.exec("cat /proc/sys/net/ipv6/conf/lo/disable_ipv6"), "0\n");
}

#[test]
fn a_default_route_that_is_there_stays() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    create_veth(&host, &container, "eth0").unwrap();
    create_veth_named(&host, &container, "ovl-host1", "eth1").unwrap();
    let first = Some(Ipv4Addr::new(10, 0, 0, 1));
    block_on(configure(&container.handle(), container_config("eth0", first))).unwrap();

    let second =
        ContainerConfig { address: "10.0.1.2/24".parse().unwrap(), ..container_config("eth1", None) };
    let second = ContainerConfig { default_gateway: Some(Ipv4Addr::new(10, 0, 1, 1)), ..second };
    for config in [second, container_config("eth0", first)] {
        assert_eq!(block_on(configure(&container.handle(), config)).unwrap(), []);
    }
    let routes = container.ip("route show default");
    assert_eq!(routes.lines().count(), 1, "{routes}");
    assert!(routes.starts_with("default via 10.0.0.1 dev eth0"), "{routes}");
}

#[test]
fn configuring_an_interface_that_is_not_there_says_so() {
    let container = Namespace::new("box");
    for (ifname, named) in [("eth0", "eth0"), ("../all", "../all")] {
        let error = block_on(configure(&container.handle(), container_config(ifname, None))).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
    assert!(!container.ip("link show lo").contains("UP"), "nothing may be done before the check");
}

#[test]
fn removing_what_is_gone_succeeds() {
    let host = Namespace::new("host");
    host.ip("link add name box type bridge");
    host.inside(async |netlink| {
        let ifindex = ifindex(&netlink, "box").await;
        netlink.delete(ifindex).await.unwrap();
        assert_eq!(netlink.link_by_index(ifindex).await.unwrap(), None);
        netlink.delete(ifindex).await.unwrap();
        netlink.delete_by_name("box").await.unwrap();
        assert!(netlink.set_up(ifindex).await.unwrap_err().is_gone());
    });
}

#[test]
fn all_links_are_listed_even_when_one_message_cannot_hold_them() {
    let host = Namespace::new("host");
    let batch: String = (0..200).map(|i| format!("link add many{i} type bridge\n")).collect();
    ip_batch(&host.name, &batch);
    let names = host.ifnames();
    assert_eq!(names.iter().filter(|name| name.starts_with("many")).count(), 200);
}

#[test]
fn the_tunnel_device_is_external_silent_and_takes_the_largest_packets() {
    let host = Namespace::new("host");
    let link = host.inside(async |netlink| {
        let ifindex = netlink.create_tunnel("ovl-tunnel", 4789).await.unwrap();
        netlink.link_by_index(ifindex).await.unwrap().unwrap()
    });
    assert_eq!((link.name.as_str(), link.mtu, link.up), ("ovl-tunnel", 65485, false));
    let witness = host.ip("-d link show ovl-tunnel");
    for setting in ["vxlan external", "dstport 4789", "nolearning", "addrgenmode none"] {
        assert!(witness.contains(setting), "no {setting:?} in {witness}");
    }
}

#[test]
fn the_tunnel_device_is_kept_while_its_settings_are_right() {
    let host = Namespace::new("host");
    let create = async |netlink: Netlink| {
        let ifindex = netlink.create_tunnel("ovl-tunnel", 4789).await.unwrap();
        netlink.start_tunnel(ifindex, 4789).await.unwrap();
        ifindex
    };
    let first = host.inside(create);
    host.ip("link set ovl-tunnel down mtu 1400");
    let again = host.inside(create);
    assert_eq!(first, again);
    assert!(host.ip("link show ovl-tunnel").contains("UP"));
    assert!(host.ip("link show ovl-tunnel").contains("mtu 65485"));

    let other =
        host.inside(async |netlink: Netlink| netlink.create_tunnel("ovl-tunnel", 8472).await.unwrap());
    assert_ne!(first, other);
    assert!(host.ip("-d link show ovl-tunnel").contains("dstport 8472"));
}

#[test]
fn the_tunnel_device_takes_neither_name_nor_port_from_another() {
    let host = Namespace::new("host");
    let create = async |netlink: Netlink| {
        let ifindex = netlink.create_tunnel("ovl-tunnel", 4789).await?;
        netlink.start_tunnel(ifindex, 4789).await
    };

    host.ip("link add ovl-tunnel type bridge");
    let taken = host.inside(create);
    assert!(matches!(taken, Err(NetlinkError::IfnameExists { side: VethSide::Host, .. })), "{taken:?}");
    assert!(host.ip("-d link show ovl-tunnel").contains(" bridge "));
    host.ip("link del ovl-tunnel");

    for other in ["external", "id 5"] {
        host.ip(&format!("link add other type vxlan {other} dstport 4789"));
        host.ip("link set other up");
        let taken = host.inside(create);
        assert!(matches!(taken, Err(NetlinkError::PortTaken(4789))), "{other}: {taken:?}");
        host.ip("link del other");
        host.inside(async |netlink| netlink.delete_by_name("ovl-tunnel").await).unwrap();
    }
}

#[test]
fn the_next_hop_is_what_the_routes_say() {
    let wire = Wire::new();
    wire.left.ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1400");
    wire.left.inside(async |netlink| {
        let oif = ifindex(&netlink, "wire").await;
        let direct = NextHop { oif, gateway: None, prefsrc: Some(LEFT), mtu: None };
        assert_eq!(netlink.next_hop(RIGHT).await.unwrap(), direct);
        let routed = NextHop { gateway: Some(RIGHT), mtu: Some(1400), ..direct };
        assert_eq!(netlink.next_hop(Ipv4Addr::new(198, 51, 100, 7)).await.unwrap(), routed);
        for nowhere in [Ipv4Addr::new(203, 0, 113, 1), LEFT] {
            let result = netlink.next_hop(nowhere).await;
            assert!(
                matches!(result, Err(NetlinkError::NoRoute(address)) if address == nowhere),
                "{result:?}"
            );
        }
    });
}

#[test]
fn the_default_route_with_the_best_metric_names_the_device() {
    let wire = Wire::new();
    wire.left.ip("link add spare type bridge");
    wire.left.ip("link set spare up");
    wire.left.inside(async |netlink| assert_eq!(netlink.default_route_device().await.unwrap(), None));
    wire.left.ip("route add default dev spare metric 200");
    wire.left.ip("route add default via 192.0.2.2 metric 100");
    wire.left.inside(async |netlink| {
        let device = netlink.default_route_device().await.unwrap();
        assert_eq!(device, Some(ifindex(&netlink, "wire").await));
    });
}

#[test]
fn a_managed_neighbour_is_resolved_without_traffic_until_it_is_forgotten() {
    let wire = Wire::new();
    let managed = wire.left.inside(async |netlink| {
        let oif = ifindex(&netlink, "wire").await;
        assert_eq!(netlink.neighbour(oif, RIGHT).await.unwrap(), None);
        let mac = timeout(PATIENCE, resolve_neighbour(&netlink, oif, RIGHT)).await.unwrap();
        assert_eq!(mac, RIGHT_MAC);
        assert_eq!(netlink.neighbours(oif).await.unwrap(), [(RIGHT, RIGHT_MAC)]);
        assert_eq!(netlink.neighbours(oif + 1000).await.unwrap(), []);
        netlink.manage_neighbour(oif, RIGHT).await.unwrap();
        oif
    });
    let witness = wire.left.ip("neigh show 192.0.2.2");
    assert!(witness.contains("extern_learn") && witness.contains(&RIGHT_MAC.to_string()), "{witness}");

    wire.left.inside(async move |netlink| {
        netlink.forget_neighbour(managed, RIGHT).await.unwrap();
        assert_eq!(netlink.neighbour(managed, RIGHT).await.unwrap(), None);
        netlink.forget_neighbour(managed, RIGHT).await.unwrap();
    });
}

/// Waits for the kernel's news of a neighbour rather than for time to pass.
async fn resolve_neighbour(netlink: &Netlink, oif: u32, address: Ipv4Addr) -> Mac {
    let mut events = pin!(monitor().unwrap());
    netlink.manage_neighbour(oif, address).await.unwrap();
    loop {
        if let Some(mac) = netlink.neighbour(oif, address).await.unwrap() {
            return mac;
        }
        events.next().await.unwrap();
    }
}

#[test]
fn a_managed_neighbour_is_found_again_under_a_new_hardware_address() {
    let wire = Wire::new();
    let new_mac = Mac([0x02, 0, 0, 0, 0, 3]);
    let right = wire.right.name.clone();
    wire.left.inside(async move |netlink| {
        let oif = ifindex(&netlink, "wire").await;
        timeout(PATIENCE, resolve_neighbour(&netlink, oif, RIGHT)).await.unwrap();
        let mut events = pin!(monitor().unwrap());
        // A new address of an interface is announced if `arp_notify` is set.
        command("ip", &["netns", "exec", &right, "sysctl", "-q", "net.ipv4.conf.wire.arp_notify=1"]);
        command("ip", &["-n", &right, "link", "set", "wire", "address", &new_mac.to_string()]);
        let changed = async {
            while netlink.neighbour(oif, RIGHT).await.unwrap() != Some(new_mac) {
                events.next().await.unwrap();
            }
        };
        timeout(PATIENCE, changed).await.unwrap();
    });
}

#[test]
fn a_neighbour_that_does_not_answer_has_no_address() {
    let wire = Wire::new();
    wire.left.inside(async |netlink| {
        let oif = ifindex(&netlink, "wire").await;
        netlink.manage_neighbour(oif, NOBODY).await.unwrap();
        assert_eq!(netlink.neighbour(oif, NOBODY).await.unwrap(), None);
        assert_eq!(netlink.neighbours(oif).await.unwrap(), []);
    });
}

#[test]
fn an_administrators_permanent_neighbour_stays_as_it_is() {
    let wire = Wire::new();
    wire.left.ip("neigh add 192.0.2.99 lladdr 02:00:00:00:00:63 dev wire nud permanent");
    let before = wire.left.ip("neigh show 192.0.2.99");
    wire.left.inside(async |netlink| {
        let oif = ifindex(&netlink, "wire").await;
        netlink.manage_neighbour(oif, NOBODY).await.unwrap();
        assert_eq!(netlink.neighbour(oif, NOBODY).await.unwrap(), Some(Mac([0x02, 0, 0, 0, 0, 0x63])));
        netlink.forget_neighbour(oif, NOBODY).await.unwrap();
    });
    assert_eq!(wire.left.ip("neigh show 192.0.2.99"), before);
}

#[test]
fn the_monitor_tells_of_links_neighbours_and_addresses() {
    let wire = Wire::new();
    wire.left.ip("link add name box type bridge");
    let left = wire.left.name.clone();
    wire.left.inside(async move |netlink| {
        let (oif, ifindex) = (ifindex(&netlink, "wire").await, ifindex(&netlink, "box").await);
        let name = "box".to_owned();
        let steps = [
            ("link set box mtu 1400", NetEvent::LinkChanged { ifindex, name: name.clone() }),
            ("addr add 10.9.9.9/32 dev box", NetEvent::AddressChanged { ifindex }),
            ("addr del 10.9.9.9/32 dev box", NetEvent::AddressChanged { ifindex }),
            (
                "neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev wire",
                NetEvent::NeighbourChanged { oif, address: Ipv4Addr::new(192, 0, 2, 50) },
            ),
            (
                "neigh del 192.0.2.50 dev wire",
                NetEvent::NeighbourChanged { oif, address: Ipv4Addr::new(192, 0, 2, 50) },
            ),
            ("link del box", NetEvent::LinkGone { ifindex, name }),
        ];
        for (change, event) in steps {
            let mut events = pin!(monitor().unwrap());
            let change: Vec<&str> = ["-n", &left].into_iter().chain(change.split_whitespace()).collect();
            command("ip", &change);
            let seen = async { while events.next().await.unwrap() != event {} };
            assert!(timeout(PATIENCE, seen).await.is_ok(), "{change:?} is not told as {event:?}");
        }
    });
}

#[test]
fn a_link_that_leaves_its_bridge_is_not_told_as_gone() {
    let host = Namespace::new("host");
    for line in [
        "link add bridge0 type bridge",
        "link add port type veth peer name other",
        "link set port master bridge0",
    ] {
        host.ip(line);
    }
    let name = host.name.clone();
    host.inside(async move |netlink| {
        let port = ifindex(&netlink, "port").await;
        let mut events = pin!(monitor().unwrap());
        command("ip", &["-n", &name, "link", "set", "port", "nomaster"]);
        command("ip", &["-n", &name, "link", "del", "bridge0"]);
        let gone = async {
            loop {
                if let NetEvent::LinkGone { ifindex, .. } = events.next().await.unwrap() {
                    return ifindex;
                }
            }
        };
        assert_ne!(timeout(PATIENCE, gone).await.unwrap(), port);
    });
}

#[test]
fn a_reader_that_is_too_slow_is_told_that_events_were_lost() {
    let host = Namespace::new("host");
    host.ip("link add box type bridge");
    let batch: String = (0..2000).map(|i| format!("link set box mtu {}\n", 1000 + i % 2)).collect();
    let name = host.name.clone();
    host.inside(async move |_| {
        let mut events = pin!(monitor().unwrap());
        // The runtime has one thread, and this blocks it: nobody reads the socket meanwhile.
        ip_batch(&name, &batch);
        let told = async { while events.next().await.unwrap() != NetEvent::Overrun {} };
        assert!(timeout(PATIENCE, told).await.is_ok());
    });
}

#[test]
fn a_veth_computes_every_checksum_until_it_is_told_not_to() {
    let wire = Wire::new();
    let ask = async |netlink: Netlink| netlink.has_generic_checksum("wire").await.unwrap();
    assert!(wire.left.inside(ask));
    wire.left.exec("ethtool -K wire tx off");
    assert!(!wire.left.inside(ask));
}

#[test]
fn gro_is_turned_on_and_off_in_the_container() {
    let (host, container) = (Namespace::new("host"), Namespace::new("box"));
    create_veth(&host, &container, "eth0").unwrap();
    for (on, witness) in [(true, "generic-receive-offload: on"), (false, "generic-receive-offload: off")] {
        block_on(set_gro(&container.handle(), "eth0", on)).unwrap();
        let features = container.exec("ethtool -k eth0");
        assert!(features.contains(witness), "{features}");
    }
    let missing = block_on(set_gro(&container.handle(), "eth7", true)).unwrap_err();
    assert!(matches!(&missing, NetlinkError::NoSuchLink(name) if name == "eth7"), "{missing:?}");
}

#[test]
fn features_of_a_missing_device_say_so() {
    let host = Namespace::new("host");
    let missing = host.inside(async |netlink| netlink.has_generic_checksum("eth7").await).unwrap_err();
    assert!(matches!(&missing, NetlinkError::NoSuchLink(name) if name == "eth7"), "{missing:?}");
}
