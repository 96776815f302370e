//! Docker's driver protocols by hand, without an engine: what it asks, what it may never ask, and what it asks twice.

use std::path::PathBuf;

use overlay_tests::{
    exec,
    host::Host,
    netns::Netns,
    topology::{Cluster, Plan},
};
use serde_json::{Value, json};

const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
const NETWORK: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";
const ENDPOINT: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// A host that serves Docker on a socket.
struct Served {
    cluster: Cluster,
    socket: PathBuf,
}

impl Served {
    fn new() -> Self {
        let mut cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
        let socket = cluster.dir.path().join("plugins/overlay-ebpf.sock");
        let host = cluster.hosts.remove(0).with_flag("--docker-socket", &socket.display().to_string());
        cluster.hosts.push(host);
        cluster.hosts[0].start();
        Self { cluster, socket }
    }

    fn host(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    /// Status and body of the answer to a body as it is.
    #[track_caller]
    fn send(&self, call: &str, body: &str) -> (u16, Value) {
        let url = format!("http://plugin/{call}");
        let socket = self.socket.display().to_string();
        let words = ["curl", "--silent", "--unix-socket", &socket, "--data-binary", body, "--write-out"];
        let text = exec::must(words.iter().chain(&["\n%{http_code} %{content_type}", &url]));
        let (body, status) = text.rsplit_once('\n').expect("a status behind the body");
        let (status, kind) = status.split_once(' ').expect("a media type behind the status");
        assert_eq!(kind, MEDIA_TYPE, "{call}");
        (status.parse().expect("a number"), serde_json::from_str(body).expect("JSON"))
    }

    /// The answer to a call that is understood.
    #[track_caller]
    fn call(&self, call: &str, request: &Value) -> Value {
        let (status, answer) = self.send(call, &request.to_string());
        assert_eq!(status, 200, "{call}: {answer}");
        answer
    }

    /// The answer to a call that succeeds.
    #[track_caller]
    fn must(&self, call: &str, request: &Value) -> Value {
        let answer = self.call(call, request);
        assert!(answer.get("Err").is_none() && answer.get("Error").is_none(), "{call}: {answer}");
        answer
    }

    /// The sentence with which a call is refused.
    #[track_caller]
    fn refused(&self, call: &str, request: &Value) -> String {
        let answer = self.call(call, request);
        let field = if call.starts_with("Ipam") { "Error" } else { "Err" };
        answer[field].as_str().unwrap_or_else(|| panic!("{call} was not refused: {answer}")).to_owned()
    }

    /// A network as Docker makes it: its pool, then itself. The pool's id.
    #[track_caller]
    fn network(&self, name: &str) -> String {
        let pool = self.must(
            "IpamDriver.RequestPool",
            &json!({"AddressSpace": "overlay-ebpf", "Pool": "", "SubPool": "",
            "Options": {"overlay.name": name}, "V6": false}),
        );
        let data = json!({"AddressSpace": "overlay-ebpf", "Pool": pool["Pool"], "Gateway": pool["Data"]["com.docker.network.gateway"]});
        self.must(
            "NetworkDriver.CreateNetwork",
            &json!({"NetworkID": NETWORK, "IPv4Data": [data], "IPv6Data": null,
            "Options": {"com.docker.network.generic": {}, "com.docker.network.enable_ipv6": false}}),
        );
        pool["PoolID"].as_str().expect("a pool's id").to_owned()
    }
}

fn of_endpoint() -> Value {
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT})
}

#[test]
fn what_has_one_answer_is_answered_with_and_without_a_body() {
    let served = Served::new();
    let empty = json!({});
    for (call, expected) in [
        ("Plugin.Activate", json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
        ("NetworkDriver.GetCapabilities", json!({"Scope": "local", "ConnectivityScope": "global"})),
        ("NetworkDriver.DiscoverNew", empty.clone()),
        ("NetworkDriver.DiscoverDelete", empty),
        ("IpamDriver.GetCapabilities", json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})),
        (
            "IpamDriver.GetDefaultAddressSpaces",
            json!({"LocalDefaultAddressSpace": "overlay-ebpf", "GlobalDefaultAddressSpace": "overlay-ebpf"}),
        ),
    ] {
        for body in ["", "{}", "null", "no JSON"] {
            assert_eq!(served.send(call, body), (200, expected.clone()), "{call} with {body:?}");
        }
    }
}

#[test]
fn a_container_lives_and_dies_by_the_calls_that_docker_makes() {
    let served = Served::new();
    let pool = served.network("blue");
    let address =
        served.must("IpamDriver.RequestAddress", &json!({"PoolID": pool, "Address": "", "Options": null}));
    assert_eq!(address["Address"], "10.0.0.2/24");
    let create = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": {},
        "Interface": {"Address": "10.0.0.2/24", "AddressIPv6": "", "MacAddress": ""}});
    let created = served.must("NetworkDriver.CreateEndpoint", &create);
    assert_eq!(created, json!({"Interface": {"MacAddress": "02:42:0a:00:00:02"}}), "nothing that was given");
    assert_eq!(served.must("NetworkDriver.CreateEndpoint", &create), created, "the same, when asked again");

    let join = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/var/run/docker/netns/4f", "Options": {}});
    let joined = served.must("NetworkDriver.Join", &join);
    assert_eq!(joined["Gateway"], "10.0.0.1");
    assert_eq!(joined["InterfaceName"]["DstPrefix"], "eth");
    let device = joined["InterfaceName"]["SrcName"].as_str().expect("a device");

    // What Docker does with it.
    let container = Netns::new("container");
    let host = served.host();
    host.netns().ip(&["link", "set", device, "netns", container.name()]);
    container.ip(&["link", "set", device, "name", "eth0"]);
    container.ip(&["address", "add", "10.0.0.2/24", "dev", "eth0"]);
    container.ip(&["link", "set", "eth0", "up"]);
    container.must(&["ping", "-c", "1", "-W", "2", "10.0.0.1"]);
    let features = container.must(&["ethtool", "-k", "eth0"]);
    assert!(features.contains("generic-receive-offload: on"), "{features}");
    host.overlay(&["verify"]);

    let ports = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": {"com.docker.network.portmap":
        [{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080},
         {"Proto": 17, "IP": "", "Port": 53, "HostIP": "0.0.0.0", "HostPort": 0, "HostPortEnd": 0}]}});
    served.must("NetworkDriver.ProgramExternalConnectivity", &ports);
    let published = || host.json::<Vec<Value>>(&["publish", "ls"]).len();
    assert_eq!(published(), 2);
    let info = served.must("NetworkDriver.EndpointOperInfo", &of_endpoint());
    assert_eq!(info["Value"]["com.docker.network.endpoint.macaddress"], "02:42:0a:00:00:02");
    served.must("NetworkDriver.RevokeExternalConnectivity", &of_endpoint());
    assert_eq!(published(), 0);

    // And its end, all of it twice: what is gone is no error.
    served.must("NetworkDriver.Leave", &of_endpoint());
    for _ in 0..2 {
        served.must("NetworkDriver.DeleteEndpoint", &of_endpoint());
        served.must("IpamDriver.ReleaseAddress", &json!({"PoolID": pool, "Address": "10.0.0.2"}));
    }
    assert_eq!(host.endpoints().len(), 0);
    assert!(container.links().iter().all(|link| link == "lo"), "{:?}", container.links());
    for _ in 0..2 {
        served.must("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
        served.must("IpamDriver.ReleasePool", &json!({"PoolID": pool}));
    }
    assert!(!host.cli(&["network", "inspect", "blue"]).is_success());
    host.overlay(&["verify"]);
}

#[test]
fn addresses_are_given_once_and_kept_through_a_restart_of_the_agent() {
    let served = Served::new();
    let pool = served.network("blue");
    let request = |address: &str| json!({"PoolID": pool, "Address": address, "Options": null});
    let next = || served.must("IpamDriver.RequestAddress", &request(""))["Address"].clone();
    assert_eq!(next(), "10.0.0.2/24");
    assert_eq!(next(), "10.0.0.3/24");
    assert_eq!(served.must("IpamDriver.RequestAddress", &request("10.0.0.9"))["Address"], "10.0.0.9/24");
    let taken = served.refused("IpamDriver.RequestAddress", &request("10.0.0.9"));
    assert!(taken.contains("10.0.0.9") && taken.contains("reserved"), "{taken}");
    served.host().terminate();
    served.host().start();
    assert_eq!(next(), "10.0.0.4/24");
    served.must("IpamDriver.ReleaseAddress", &request("10.0.0.9"));
    served.must("IpamDriver.RequestAddress", &request("10.0.0.9"));
    let gateway = json!({"PoolID": pool, "Address": "", "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    assert_eq!(served.must("IpamDriver.RequestAddress", &gateway)["Address"], "10.0.0.1/24");
    let outside = served.refused("IpamDriver.RequestAddress", &request("10.5.0.9"));
    assert!(outside.contains("does not lie in subnet 10.0.0.0/24"), "{outside}");
    served.host().overlay(&["verify"]);
}

#[test]
fn a_network_of_both_families_has_a_pool_of_each_and_its_endpoints_an_address_of_each() {
    let served = Served::new();
    let pool = |subnet: &str, is_ipv6: bool| {
        let asked = json!({"AddressSpace": "overlay-ebpf", "Pool": subnet, "SubPool": "",
            "Options": {"overlay.name": "six"}, "V6": is_ipv6});
        served.must("IpamDriver.RequestPool", &asked)
    };
    let pools = [pool("10.9.0.0/24", false), pool("fd00:9::/64", true)];
    let gateway = json!({"PoolID": pools[1]["PoolID"], "Address": "fd00:9::99",
        "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    assert_eq!(served.must("IpamDriver.RequestAddress", &gateway)["Address"], "fd00:9::99/64");
    let data = |pool: &Value| json!({"AddressSpace": "overlay-ebpf", "Pool": pool["Pool"]});
    let network = json!({"NetworkID": NETWORK, "IPv4Data": [data(&pools[0])], "IPv6Data": [data(&pools[1])],
        "Options": {"com.docker.network.generic": {}, "com.docker.network.enable_ipv6": true}});
    served.must("NetworkDriver.CreateNetwork", &network);
    let made: Value = served.host().json(&["network", "inspect", "six"]);
    assert_eq!((&made["ipv6_subnet"], &made["ipv6_gateway"]), (&json!("fd00:9::/64"), &json!("fd00:9::99")));

    let address = |call: &str, pool: &Value, address: &str| {
        served.must(call, &json!({"PoolID": pool["PoolID"], "Address": address, "Options": null}))["Address"]
            .clone()
    };
    let given = |pool, wanted| address("IpamDriver.RequestAddress", pool, wanted);
    assert_eq!(given(&pools[0], ""), "10.9.0.2/24");
    assert_eq!(given(&pools[1], "fd00:9::77"), "fd00:9::77/64");
    let create = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": {},
        "Interface": {"Address": "10.9.0.2/24", "AddressIPv6": "fd00:9::77/64", "MacAddress": ""}});
    let created = served.must("NetworkDriver.CreateEndpoint", &create);
    assert_eq!(created, json!({"Interface": {"MacAddress": "02:42:0a:09:00:02"}}), "nothing that was given");
    assert_eq!(served.must("NetworkDriver.CreateEndpoint", &create), created, "the same, when asked again");
    let joined = served.must("NetworkDriver.Join", &of_endpoint());
    assert_eq!((&joined["Gateway"], &joined["GatewayIPv6"]), (&json!("10.9.0.1"), &json!("fd00:9::99")));

    // Who gives no addresses gets them, and one that was given back can be had again.
    assert_eq!(given(&pools[1], ""), "fd00:9::2/64");
    address("IpamDriver.ReleaseAddress", &pools[1], "fd00:9::2");
    assert_eq!(given(&pools[1], "fd00:9::2"), "fd00:9::2/64");
    served.must("NetworkDriver.DeleteEndpoint", &of_endpoint());
    let nothing = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": null});
    let created = served.must("NetworkDriver.CreateEndpoint", &nothing);
    assert_eq!(created["Interface"]["AddressIPv6"], "fd00:9::3/64", "{created}");
    served.host().overlay(&["verify"]);
}

#[test]
fn an_endpoint_that_waits_to_be_moved_outlives_the_agent() {
    let served = Served::new();
    served.network("blue");
    let create = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": null});
    let created = served.must("NetworkDriver.CreateEndpoint", &create);
    assert_eq!(created["Interface"]["Address"], "10.0.0.2/24", "who gives no address gets one");
    served.host().kill9();
    served.host().start();
    served.host().overlay(&["verify", "--repair"]);
    let joined = served.must("NetworkDriver.Join", &of_endpoint());
    let device = joined["InterfaceName"]["SrcName"].as_str().expect("a device");
    assert!(served.host().netns().has_link(device), "it waits");
    let endpoint = &served.host().endpoints()[0];
    assert_eq!(endpoint.ip, "10.0.0.2/24");
}

#[test]
fn what_is_wrong_is_answered_in_the_protocols_own_way() {
    let served = Served::new();
    let (status, answer) = served.send("NetworkDriver.Dance", "{}");
    assert_eq!(
        (status, answer["Err"].as_str()),
        (404, Some("this driver knows no call NetworkDriver.Dance"))
    );
    for (call, field) in [("NetworkDriver.CreateNetwork", "Err"), ("IpamDriver.RequestAddress", "Error")] {
        for body in ["", "{", "[]", "{\"NetworkID\": 7}"] {
            let (status, answer) = served.send(call, body);
            let sentence = answer[field].as_str().unwrap_or_default();
            assert!(
                status == 400 && sentence.contains("cannot be understood"),
                "{call} {body:?}: {status} {answer}"
            );
        }
    }
    let pool = |pool: &str| json!({"NetworkID": NETWORK, "IPv4Data": [{"AddressSpace": "x", "Pool": pool}]});
    for (call, request, part) in [
        ("NetworkDriver.CreateNetwork", json!({"NetworkID": "no id", "IPv4Data": null}), "printable"),
        (
            "NetworkDriver.CreateNetwork",
            json!({"NetworkID": "short", "IPv4Data": [{"Pool": "10.1.0.0/24"}]}),
            "no id of a network",
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({"NetworkID": NETWORK, "IPv4Data": null}),
            "needs an IPv4 subnet",
        ),
        ("NetworkDriver.CreateNetwork", pool("10.1.0.7/24"), "has bits set behind its prefix"),
        ("NetworkDriver.CreateNetwork", pool("fd00::/64"), "needs an IPv4 subnet"),
        ("NetworkDriver.CreateEndpoint", of_endpoint(), "is not in the cluster"),
        ("NetworkDriver.CreateEndpoint", json!({"NetworkID": NETWORK, "EndpointID": "x"}), "hexadecimal"),
        ("NetworkDriver.Join", of_endpoint(), "is not in the cluster"),
        ("NetworkDriver.EndpointOperInfo", of_endpoint(), "is not there"),
        (
            "IpamDriver.RequestPool",
            json!({"V6": true, "Pool": "fe80::/64"}),
            "has no addresses for containers",
        ),
        (
            "IpamDriver.RequestPool",
            json!({"V6": true, "Pool": "fd00::/64", "SubPool": "fd00::/80"}),
            "IPv4 alone",
        ),
        ("IpamDriver.RequestPool", json!({"Pool": "ten"}), "is no network"),
        ("IpamDriver.RequestAddress", json!({"PoolID": "x"}), "pool is not known"),
    ] {
        let sentence = served.refused(call, &request);
        assert!(sentence.contains(part), "{call} {request}: {sentence}");
    }
    let networks: Vec<Value> = served.host().json(&["network", "ls"]);
    assert_eq!(networks.len(), 0);
}
