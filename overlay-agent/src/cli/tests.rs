//! What is parsed into what, and what is printed, to the character.

use std::{ffi::OsString, net::Ipv4Addr, path::PathBuf, time::Duration};

use clap::CommandFactory;
use overlay_common::vni::Vni;
use rstest::rstest;
use serde_json::json;

use super::{output::Style, *};
use crate::api::types::{
    AttachRequest, Counts, CreateNetwork, DetachRequest, DetachResult, Drain, DropView, EndpointView,
    GatewayView, LocalEndpointView, MapDump, MapView, NetnsRef, NetworkView, NodeDetail, NodeState, NodeView,
    PolicyAction, PolicyView, RemovedNode, RuleCounts, StaleView, Status, UnderlayView, XdpView,
};
use crate::{
    doctor::{Finding, Health},
    model::{Allowance, FrontEnd, Limits, Owner, Timestamp, Traffic},
};

const PLAIN: Style = Style { colour: false };

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("overlay").chain(line.split_whitespace()))
}

fn command(line: &str) -> Command {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

fn attach_request(line: &str) -> (String, AttachRequest) {
    let Command::Attach(attach) = command(line) else { panic!("{line}") };
    let (network, request) = attach.request().unwrap();
    (network.to_string(), request)
}

fn detach_request(line: &str) -> DetachRequest {
    let Command::Detach(detach) = command(line) else { panic!("{line}") };
    detach.request().1
}

#[test]
fn the_commands_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_an_example_in_its_help() {
    fn check(command: &clap::Command) {
        let subcommands: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
        subcommands.iter().for_each(|sub| check(sub));
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(
            !subcommands.is_empty() || help.contains("  overlay "),
            "{} shows no example",
            command.get_name()
        );
    }
    check(&Cli::command());
}

#[test]
fn the_global_options_stand_anywhere_and_have_defaults() {
    let default = parse("status").unwrap();
    assert_eq!((default.socket, default.output), (PathBuf::from("/run/overlay/overlay.sock"), Format::Table));
    for line in ["--socket /x.sock -o json node ls", "node ls -o json --socket /x.sock"] {
        let cli = parse(line).unwrap();
        assert_eq!((cli.socket, cli.output), (PathBuf::from("/x.sock"), Format::Json), "{line}");
    }
}

#[test]
fn network_create_takes_everything_over() {
    let line = "network create net1 --subnet 10.1.0.0/16 --gateway 10.1.0.9 --ip-range 10.1.2.0/24 --vni 300 \
                --mtu 1400 --internal --multicast --label a=1 --label b=x=y --label c=";
    let Command::Network(network::Command::Create(create)) = command(line) else { panic!("{line}") };
    let request = serde_json::to_value(CreateNetwork::try_from(create).unwrap()).unwrap();
    let expected = json!({
        "name": "net1", "subnet": "10.1.0.0/16", "gateway": "10.1.0.9", "ip_range": "10.1.2.0/24", "vni": 300,
        "mtu": 1400, "internal": true, "multicast": true, "labels": {"a": "1", "b": "x=y", "c": ""},
    });
    assert_eq!(request, expected);
}

#[test]
fn network_create_leaves_out_what_was_not_said() {
    let Command::Network(network::Command::Create(create)) = command("network create net1") else { panic!() };
    let request = serde_json::to_value(CreateNetwork::try_from(create).unwrap()).unwrap();
    let expected = json!({
        "name": "net1", "subnet": null, "gateway": null, "ip_range": null, "vni": null, "mtu": null,
        "internal": false, "labels": {},
    });
    assert_eq!(request, expected);
}

#[rstest]
#[case("", json!(null))]
#[case("--ipv6", json!({"subnet": null, "gateway": null}))]
#[case("--subnet fd00::/64", json!({"subnet": "fd00::/64", "gateway": null}))]
#[case("--subnet fd00::/64 --gateway fd00::9 --gateway 10.1.0.9", json!({"subnet": "fd00::/64", "gateway": "fd00::9"}))]
fn network_create_takes_ipv6_from_any_option(#[case] options: &str, #[case] expected: serde_json::Value) {
    let line = format!("network create net1 --subnet 10.1.0.0/16 {options}");
    let Command::Network(network::Command::Create(create)) = command(&line) else { panic!("{line}") };
    let request = CreateNetwork::try_from(create).unwrap();
    assert_eq!(request.subnet, Some("10.1.0.0/16".parse().unwrap()));
    assert_eq!(serde_json::to_value(request.ipv6).unwrap(), expected);
}

#[test]
fn two_values_of_one_family_are_refused() {
    let line = "network create net1 --subnet 10.1.0.0/16 --subnet 10.2.0.0/16";
    let Command::Network(network::Command::Create(create)) = command(line) else { panic!("{line}") };
    let error = CreateNetwork::try_from(create).unwrap_err().to_string();
    assert_eq!(error, "--subnet 10.1.0.0/16 and 10.2.0.0/16 are of one family: give one of each");
    let (_, request) = attach_request("attach net1 --netns a --ip fd00::9 --ip 10.0.0.9");
    assert_eq!(request.ip.zip(request.ipv6), Some(([10, 0, 0, 9].into(), "fd00::9".parse().unwrap())));
}

#[test]
fn attach_takes_everything_over() {
    let line = "attach net1 --pid 42 --name web --alias www --alias front --label app=web --ifname eth3 --ip 10.0.0.9 --mac 02:42:0a:00:00:09 --publish 8080:80 --publish 53:5353/udp --egress-rate 100mbit --ingress-rate 1.5gbit --default-route";
    let (network, request) = attach_request(line);
    assert_eq!(network, "net1");
    let expected = json!({"netns": {"pid": 42}, "name": "web",
        "aliases": ["www", "front"], "labels": {"app": "web"}, "ifname": "eth3", "ip": "10.0.0.9", "mac": "02:42:0a:00:00:09",
        "publish": [{"host_port": 8080, "port": 80, "protocol": "tcp"}, {"host_port": 53, "port": 5353, "protocol": "udp"}],
        "limits": {"egress_bits_per_s": 100_000_000, "ingress_bits_per_s": 1_500_000_000}, "default_route": true});
    assert_eq!(serde_json::to_value(request).unwrap(), expected);
}

#[test]
fn a_limit_is_set_or_taken_away_and_what_is_not_named_stays() {
    let line = "endpoint limit net1 web --egress-rate none --ingress-rate 2gbit";
    let Command::Endpoint(endpoint::Command::Limit(limit)) = command(line) else { panic!("{line}") };
    let expected = json!({"set": {"ingress_bits_per_s": 2_000_000_000}, "remove": ["egress"]});
    assert_eq!(serde_json::to_value(limit.change()).unwrap(), expected);
    assert!(parse("endpoint limit net1 web").is_err());
}

#[rstest]
#[case("bbox1", NetnsRef::Name("bbox1".into()))]
#[case("/run/netns/bbox1", NetnsRef::Path("/run/netns/bbox1".into()))]
#[case("./bbox1", NetnsRef::Path(std::env::current_dir().unwrap().join("bbox1")))]
fn a_namespace_with_a_slash_is_a_path_made_absolute(#[case] text: &str, #[case] expected: NetnsRef) {
    assert_eq!(attach_request(&format!("attach net1 --netns {text}")).1.netns, expected);
    assert_eq!(detach_request(&format!("detach net1 --netns {text}")), DetachRequest::Netns(expected));
}

#[test]
fn detach_goes_by_name_or_process_too() {
    assert_eq!(detach_request("detach net1 --name web"), DetachRequest::Name("web".parse().unwrap()));
    assert_eq!(detach_request("detach net1 --pid 7"), DetachRequest::Netns(NetnsRef::Pid(7)));
}

#[rstest]
#[case(
    "netwrk ls",
    "unrecognized subcommand 'netwrk'; tip: a similar subcommand exists: 'network'; try '--help'."
)]
#[case(
    "attach net1",
    "the following required arguments were not provided: <--netns <PATH|NAME>|--pid <PID>>; try '--help'."
)]
#[case(
    "attach net1 --netns a --pid 1",
    "the argument '--netns <PATH|NAME>' cannot be used with '--pid <PID>'; try '--help'."
)]
#[case(
    "detach net1 --name a --pid 1",
    "the argument '--name <NAME>' cannot be used with '--pid <PID>'; try '--help'."
)]
#[case(
    "attach net1 --netns ..",
    "invalid value '..' for '--netns <PATH|NAME>': a network namespace has a name or a path with a '/'; try '--help'."
)]
#[case(
    "attach net1 --pid 0",
    "invalid value '0' for '--pid <PID>': a process has a number above 0; try '--help'."
)]
#[case(
    "network create net1 --vni 0",
    "invalid value '0' for '--vni <N>': \"0\" is no VNI: it must lie between 1 and 16777215; try '--help'."
)]
#[case(
    "network create ../x",
    "invalid value '../x' for '<NAME>': \"../x\" is no name: use 1 to 63 letters, digits, '_', '.' and '-', the first \
     a letter or digit; try '--help'."
)]
#[case(
    "network create net1 --subnet 10.0.0.0",
    "invalid value '10.0.0.0' for '--subnet <CIDR>': invalid IP address syntax; try '--help'."
)]
#[case(
    "network create net1 --label x",
    "invalid value 'x' for '--label <K=V>': a label has the form KEY=VALUE; try '--help'."
)]
#[case("status --timeout 3", "the following required arguments were not provided: --wait; try '--help'.")]
fn wrong_usage_is_one_line(#[case] line: &str, #[case] expected: &str) {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert_eq!(usage_line(&error.to_string()), expected);
}

#[rstest]
#[case("drops --watch")]
#[case("drops -w")]
#[case("network ls --watch=0.5")]
#[case("network ls --watch --filter name=a")]
#[case("endpoint inspect a --watch=2")]
#[case("publish ls --watch")]
fn what_shows_something_can_be_watched(#[case] line: &str) {
    command(line);
}

#[rstest]
#[case("network ls --watch=0", "seconds lie between 0.1 and 86400")]
#[case("network rm a --watch", "unexpected argument '--watch'")]
#[case("network ls --dry-run", "unexpected argument '--dry-run'")]
fn nothing_else_can(#[case] line: &str, #[case] expected: &str) {
    let said = usage_line(&parse(line).unwrap_err().to_string());
    assert!(said.contains(expected), "{said}");
}

#[test]
fn under_what_is_not_well_stands_what_to_do() {
    let finding = |check, health, fix: Option<&str>| Finding {
        check,
        health,
        found: "as found".to_owned(),
        fix: fix.map(str::to_owned),
    };
    let findings = [
        finding("kernel", Health::Ok, None),
        finding("GRO", Health::Note, Some("turn it on")),
        finding("store", Health::Wrong, Some("start it")),
    ];
    let expected = lines(
        "
        |IS     CHECK   FOUND
        |ok     kernel  as found
        |note   GRO     as found
        |               -> turn it on
        |WRONG  store   as found
        |               -> start it",
    );
    assert_eq!(doctor::text(&findings, PLAIN), expected);
    let coloured = doctor::text(&findings, Style { colour: true });
    assert!(coloured.contains('\u{1b}'), "{coloured:?}");
}

#[test]
fn an_argument_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let name = OsString::from_vec(vec![0xff]);
    assert!(Cli::try_parse_from([OsString::from("overlay"), "network".into(), "rm".into(), name]).is_err());
}

fn endpoint(name: &str) -> EndpointView {
    EndpointView {
        published: Vec::new(),
        owner: None,
        limits: Limits::default(),
        id: "00112233445566ff".parse().unwrap(),
        name: name.parse().unwrap(),
        aliases: Vec::new(),
        labels: [].into(),
        network: "ov_net1".parse().unwrap(),
        node: "host1".parse().unwrap(),
        vtep: None,
        ip: "10.0.0.2/24".parse().unwrap(),
        ipv6: None,
        mac: "02:42:0a:00:00:02".parse().unwrap(),
        ifname: "eth0".into(),
        netns: "/run/netns/bbox1".into(),
        local: None,
    }
}

fn owner() -> Owner {
    Owner { front_end: FrontEnd::Cni, network: "blue".parse().unwrap(), id: "4f2a".parse().unwrap() }
}

fn network() -> NetworkView {
    NetworkView {
        name: "ov_net1".parse().unwrap(),
        vni: Vni::new(256).unwrap(),
        subnet: "10.0.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        ip_range: None,
        ipv6_subnet: None,
        ipv6_gateway: None,
        mtu: 1450,
        internal: false,
        multicast: false,
        labels: [("team".to_owned(), "db".to_owned()), ("x".to_owned(), "\u{1b}[2J\n".to_owned())].into(),
        scope: "global".into(),
        endpoints: vec![endpoint("bbox1")],
    }
}

fn dropped(packets: u64) -> DropView {
    DropView {
        reason: "isolated".into(),
        number: 7,
        description: "no policy lets these networks talk".into(),
        vni: 256,
        network: Some("ov_net1".parse().unwrap()),
        endpoint: Some("bbox3".parse().unwrap()),
        packets,
        bytes: packets * 98,
    }
}

/// Lines without the indentation that keeps them readable here.
fn lines(text: &str) -> String {
    text.trim_matches('\n')
        .lines()
        .map(|line| format!("{}\n", line.trim_start_matches("        |")))
        .collect()
}

#[test]
fn networks_are_a_table() {
    let expected = lines(
        "
        |NAME     VNI  SUBNET       GATEWAY   MTU   INTERNAL  SCOPE
        |ov_net1  256  10.0.0.0/24  10.0.0.1  1450  no        global",
    );
    assert_eq!(network::table(&[network()], PLAIN), expected);
}

#[test]
fn an_empty_table_is_its_header() {
    assert_eq!(network::table(&[], PLAIN), "NAME  VNI  SUBNET  GATEWAY  MTU  INTERNAL  SCOPE\n");
    assert_eq!(policy::table(&[], PLAIN), POLICY_HEADER);
}

const POLICY_HEADER: &str = "FROM  TO  ACTION  TRAFFIC  FROM LABELS  TO LABELS  PACKETS  FLOWS  ID\n";

#[test]
fn a_network_is_shown_with_its_endpoints_and_without_terminal_commands() {
    let expected = lines(
        r"
        |name:         ov_net1
        |VNI:          256
        |subnet:       10.0.0.0/24
        |gateway:      10.0.0.1
        |IP range:     -
        |IPv6 subnet:  -
        |IPv6 gateway: -
        |MTU:          1450
        |internal:     no
        |multicast:    no
        |scope:        global
        |labels:       team=db, x=\u{1b}[2J\n
        |
        |NAME   NETWORK  NODE   IP           MAC                IFNAME  ID
        |bbox1  ov_net1  host1  10.0.0.2/24  02:42:0a:00:00:02  eth0    00112233445566ff",
    );
    assert_eq!(network::detail(&network(), PLAIN), expected);
}

#[test]
fn an_endpoint_of_this_host_is_shown_with_its_counters() {
    let local = LocalEndpointView {
        host_ip: Some(Ipv4Addr::new(172, 18, 0, 9)),
        host_ifname: "ovl001122334455".into(),
        host_ifindex: 12,
        tx_packets: 3,
        tx_bytes: 294,
        rx_packets: 2,
        rx_bytes: 196,
        drops: vec![dropped(5)],
    };
    let expected = lines(
        "
        |name:           bbox1
        |id:             00112233445566ff
        |network:        ov_net1
        |node:           host1
        |IP:             10.0.0.2/24
        |IPv6:           -
        |MAC:            02:42:0a:00:00:02
        |interface:      eth0
        |namespace:      /run/netns/bbox1
        |aliases:        -
        |labels:         -
        |owner:          cni, network blue, id 4f2a
        |host interface: ovl001122334455 (index 12)
        |host-local IP:  172.18.0.9
        |sent:           3 packets, 294 bytes
        |received:       2 packets, 196 bytes
        |
        |REASON    NUMBER  NETWORK  ENDPOINT  PACKETS  BYTES  DESCRIPTION
        |isolated  7       ov_net1  bbox3     5        490    no policy lets these networks talk",
    );
    assert_eq!(
        endpoint::details(
            &[EndpointView { local: Some(local), owner: Some(owner()), ..endpoint("bbox1") }],
            PLAIN
        ),
        expected
    );
}

#[test]
fn endpoints_are_chosen_by_the_front_end_that_had_them_made() {
    let made = EndpointView { owner: Some(owner()), ..endpoint("web") };
    let Command::Endpoint(endpoint::Command::Ls { filters, .. }) = command("endpoint ls --filter owner=cni")
    else {
        panic!("ls")
    };
    assert!(endpoint::fits(&made, &filters));
    assert!(!endpoint::fits(&endpoint("by-hand"), &filters));
}

#[test]
fn endpoints_of_one_name_are_shown_one_after_the_other() {
    let shown = endpoint::details(&[endpoint("a"), endpoint("a")], PLAIN);
    assert_eq!(shown.matches("name:      a\n").count(), 2);
    assert_eq!(shown.matches("\n\nname:").count(), 1);
}

fn node_view() -> NodeView {
    NodeView {
        name: "host1".parse().unwrap(),
        state: NodeState::Down,
        drain: Some(Drain::Draining),
        since: Some(Timestamp::from_unix(1_000_000 - 310)),
        registered: Some(Timestamp::from_unix(1_000_000 - 2 * 86_400 - 3 * 3_600 - 5)),
        epoch: 3,
        id: "0123".into(),
        vtep: Ipv4Addr::new(192, 0, 2, 1),
        vxlan_port: 4789,
        endpoints: 1,
        version: "0.1.0".into(),
        local: true,
    }
}

#[test]
fn a_node_is_shown_with_its_endpoints() {
    let node = NodeView { state: NodeState::Up, drain: None, since: None, ..node_view() };
    let detail = NodeDetail { node, attachments: vec![endpoint("bbox1")] };
    let expected = lines(
        "
        |name:       host1
        |id:         0123
        |state:      up
        |since:      -
        |registered: 1970-01-10T10:46:35Z
        |epoch:      3
        |VTEP:       192.0.2.1, UDP port 4789
        |agent:      0.1.0
        |local:      yes
        |
        |NAME   NETWORK  NODE   IP           MAC                IFNAME  ID
        |bbox1  ov_net1  host1  10.0.0.2/24  02:42:0a:00:00:02  eth0    00112233445566ff",
    );
    assert_eq!(node::detail(&detail, PLAIN), expected);
    let json = serde_json::to_value(&detail).unwrap();
    assert_eq!((&json["state"], &json["endpoints"]), (&json!("up"), &json!(1)));
    assert_eq!(json["attachments"][0]["name"], "bbox1");
}

#[test]
fn removing_a_node_says_what_went_with_it_and_whether_it_is_still_listed() {
    let removed = |collected: &[&str], is_listed| RemovedNode {
        name: "host2".parse().unwrap(),
        collected: collected.iter().map(|name| name.parse().unwrap()).collect(),
        is_listed,
    };
    assert_eq!(node::sentence(&removed(&[], false)), "host2 removed\n");
    assert_eq!(
        node::sentence(&removed(&["a", "b"], true)),
        "host2 removed, with its endpoints a, b; it is listed as gone until it returns or `overlay node rm` is used \
         on it again\n"
    );
}

#[rstest]
#[case(0, "0s")]
#[case(59, "59s")]
#[case(60, "1m")]
#[case(310, "5m10s")]
#[case(86_399, "23h59m")]
#[case(86_400 * 400 + 3_600, "400d1h")]
fn ages_have_two_units(#[case] seconds: u64, #[case] expected: &str) {
    assert_eq!(output::age(Duration::from_secs(seconds)), expected);
}

/// A whole direction, a rule, and what is counted beside it.
fn policies() -> Vec<PolicyView> {
    let whole = PolicyView {
        from: "a".parse().unwrap(),
        to: "b".parse().unwrap(),
        action: PolicyAction::Allow,
        id: None,
        allows: None,
        audit: false,
        counted: None,
    };
    let allows = Allowance {
        traffic: Traffic::Tcp(Some("5432-5433".parse().unwrap())),
        from_labels: [("app".to_owned(), "web".to_owned())].into(),
        ..Allowance::default()
    };
    let rule = PolicyView {
        id: Some("0a1b2c3d".parse().unwrap()),
        allows: Some(allows),
        audit: true,
        counted: Some(RuleCounts { packets: 7, flows: 2 }),
        ..whole.clone()
    };
    let rest = PolicyView {
        action: PolicyAction::Audit,
        audit: true,
        counted: Some(RuleCounts { packets: 5, flows: 0 }),
        ..whole.clone()
    };
    vec![whole, rule, rest]
}

#[test]
fn a_rule_reads_back_as_it_was_printed_and_a_whole_direction_says_no_more_than_it_did() {
    let [whole, rule, _] = &policies()[..] else { panic!("three") };
    assert_eq!(serde_json::from_str::<PolicyView>(&serde_json::to_string(rule).unwrap()).unwrap(), *rule);
    let json = serde_json::to_value(whole).unwrap();
    assert_eq!(json, serde_json::json!({"from": "a", "to": "b", "action": "allow", "audit": false}));
}

#[rstest]
#[case("--proto tcp --port 80", true)]
#[case("--proto tcp --port 80-90 --from-label a=b --from-label c=d --to-label e=f", true)]
#[case("--one-way --audit", true)]
#[case("", true)]
#[case("--port 80", false)]
#[case("--audit", false)]
#[case("--proto sctp", false)]
#[case("--proto tcp --port 0", false)]
#[case("--proto tcp --port 9-8", false)]
#[case("--from-label nothing", false)]
fn rules_are_read_from_the_command_line(#[case] options: &str, #[case] is_right: bool) {
    assert_eq!(parse(&format!("policy allow a b {options}")).is_ok(), is_right);
}

#[test]
fn nodes_and_policies_are_tables() {
    let expected = lines(
        "
        |NAME   STATE           FOR    AGE   VTEP       PORT  ENDPOINTS  VERSION  LOCAL
        |host1  down, draining  5m10s  2d3h  192.0.2.1  4789  1          0.1.0    yes",
    );
    let now = Timestamp::from_unix(1_000_000);
    assert_eq!(node::table(&[node_view()], now, PLAIN), expected);

    let expected = lines(
        "
        |FROM  TO  ACTION          TRAFFIC        FROM LABELS  TO LABELS  PACKETS  FLOWS  ID
        |a     b   allow           all            -            -          -        -      -
        |a     b   allow, audited  tcp 5432-5433  app=web      -          7        2      0a1b2c3d
        |a     b   would drop      any other      -            -          5        0      -",
    );
    assert_eq!(policy::table(&policies(), PLAIN), expected);
}

#[test]
fn drops_of_no_known_network_name_the_vni_or_nothing() {
    let unknown = DropView { network: None, endpoint: None, ..dropped(1) };
    let expected = lines(
        "
        |REASON    NUMBER  NETWORK  ENDPOINT  PACKETS  BYTES  DESCRIPTION
        |isolated  7       ov_net1  bbox3     1        98     no policy lets these networks talk
        |isolated  7       VNI 256  -         1        98     no policy lets these networks talk
        |isolated  7       -        -         1        98     no policy lets these networks talk",
    );
    assert_eq!(drops::table(&[dropped(1), unknown.clone(), DropView { vni: 0, ..unknown }], PLAIN), expected);
}

#[test]
fn only_drops_that_moved_are_changes() {
    let other = DropView { number: 8, ..dropped(1) };
    assert_eq!(drops::changes(&[dropped(1), other.clone()], &[dropped(2), other]), [dropped(2)]);
    assert_eq!(drops::changes(&[], &[dropped(1)]), [dropped(1)]);
    assert_eq!(drops::changes(&[dropped(1)], &[dropped(1)]), []);
}

#[test]
fn maps_are_a_table_and_a_dump_ends_with_the_bpftool_command() {
    let bpftool = "bpftool map dump pinned /sys/fs/bpf/overlay/maps-v2/fdb";
    let map = MapView {
        name: "fdb".into(),
        entries: 1,
        max_entries: 10,
        description: "VNI, MAC to VTEP".into(),
        bpftool: bpftool.into(),
    };
    let expected = lines(
        "
        |NAME  ENTRIES  CAPACITY  DESCRIPTION       BPFTOOL
        |fdb   1        10        VNI, MAC to VTEP  bpftool map dump pinned /sys/fs/bpf/overlay/maps-v2/fdb",
    );
    assert_eq!(map::table(&[map], PLAIN), expected);

    let entries =
        json!([{"mac": "02:42:0a:00:00:02", "vni": 256, "vtep": null}, {"mac": "x", "vni": 1, "vtep": "y"}]);
    let dump = MapDump {
        name: "fdb".into(),
        bpftool: bpftool.into(),
        entries: serde_json::from_value(entries).unwrap(),
    };
    let expected = lines(
        "
        |MAC                VNI  VTEP
        |02:42:0a:00:00:02  256  -
        |x                  1    y
        |
        |# bpftool map dump pinned /sys/fs/bpf/overlay/maps-v2/fdb",
    );
    assert_eq!(map::dump(&dump, PLAIN), expected);
}

#[test]
fn detach_says_what_was_detached_or_that_nothing_was() {
    let network = "ov_net1".parse().unwrap();
    let by_name = DetachRequest::Name("bbox1".parse().unwrap());
    let something = DetachResult { detached: vec![endpoint("bbox1"), endpoint("b2")] };
    let nothing = DetachResult { detached: vec![] };
    let sentences = |request: &DetachRequest, result| attach::sentences(&network, request, result);
    assert_eq!(sentences(&by_name, &something), "bbox1 detached from ov_net1\nb2 detached from ov_net1\n");
    assert_eq!(sentences(&by_name, &nothing), "bbox1 was not attached to ov_net1\n");
    let by_pid = DetachRequest::Netns(NetnsRef::Pid(7));
    assert_eq!(sentences(&by_pid, &nothing), "process 7 was not attached to ov_net1\n");
    let by_path = DetachRequest::Netns(NetnsRef::Path("/run/netns/x".into()));
    assert_eq!(sentences(&by_path, &nothing), "/run/netns/x was not attached to ov_net1\n");
}

fn healthy() -> Status {
    Status {
        gateway: GatewayView { range: Some("172.18.0.0/16".parse().unwrap()), error: None },
        version: "0.1.0".into(),
        node: "host1".parse().unwrap(),
        ready: true,
        store: "sqlite:///var/lib/overlay/overlay.db".into(),
        revision: 12,
        store_error: None,
        stale: None,
        underlay: UnderlayView {
            ifname: "eth0".into(),
            ifindex: 2,
            mtu: 1500,
            vtep: Ipv4Addr::new(192, 0, 2, 1),
            vxlan_port: 4789,
        },
        xdp: XdpView { mode: "off".into(), reason: "as configured".into() },
        counts: Counts { networks: 2, endpoints: 3, local_endpoints: 1, nodes: 2 },
        repaired: 0,
        reconcile_error: None,
        quarantined: [].into(),
        pin_dir: "/sys/fs/bpf/overlay/maps-v2".into(),
        warnings: vec![],
    }
}

#[test]
fn a_healthy_agent_shows_no_troubles() {
    let expected = lines(
        "
        |node:      host1
        |agent:     0.1.0
        |state:     ready
        |underlay:  eth0 (index 2), MTU 1500
        |VTEP:      192.0.2.1, UDP port 4789
        |XDP:       off (as configured)
        |gateway:   172.18.0.0/16
        |pins:      /sys/fs/bpf/overlay/maps-v2
        |store:     sqlite:///var/lib/overlay/overlay.db, revision 12
        |nodes:     2
        |networks:  2
        |endpoints: 3, of them 1 here
        |repaired:  0",
    );
    assert_eq!(status::detail(&healthy(), PLAIN), expected);
}

#[test]
fn troubles_are_shown_last() {
    let status = Status {
        ready: false,
        store_error: Some("cannot open".into()),
        stale: Some(StaleView { since_unix_s: u64::MAX, reason: "cannot open".into() }),
        reconcile_error: Some("map full".into()),
        quarantined: [("overlay/v1/vnis/0".to_owned(), "no key".to_owned())].into(),
        warnings: vec!["no BPF file system".into()],
        ..healthy()
    };
    let shown = status::detail(&status, PLAIN);
    let expected = lines(
        "
        |stale:            for 0 s
        |store error:      cannot open
        |last pass failed: map full
        |quarantined:      overlay/v1/vnis/0: no key
        |warning:          no BPF file system",
    );
    assert!(shown.ends_with(&expected), "{shown}");
    assert!(shown.contains("state:            not ready: the first pass is not done\n"), "{shown}");
}

#[test]
fn colour_is_there_only_where_it_is_wanted() {
    let colour = Style { colour: true };
    assert!(!status::detail(&healthy(), PLAIN).contains('\u{1b}'));
    assert!(status::detail(&healthy(), colour).contains("\u{1b}[32mready\u{1b}[39m"));
    assert!(status::detail(&Status { ready: false, ..healthy() }, colour).contains("\u{1b}[31mnot ready"));
    assert!(!policy::table(&[], PLAIN).contains('\u{1b}'));
    assert!(policy::table(&[], colour).contains("\u{1b}[1mFROM"));
}

#[tokio::test]
async fn waiting_for_an_agent_that_never_comes_ends_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path().join("socket"));
    let error = status::wait(&client, Duration::from_millis(120)).await.unwrap_err().to_string();
    assert!(error.starts_with("the agent was not ready within 0 s: no agent answers on"), "{error}");
}

/// An agent that is stopped, then not ready, then ready.
#[tokio::test]
async fn waiting_outlasts_a_missing_socket_and_an_agent_that_is_not_ready() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
        sync::oneshot,
    };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let client = Client::new(&socket);
    let (waiting, is_waiting) = oneshot::channel();
    let there = socket.clone();
    tokio::spawn(async move {
        is_waiting.await.unwrap();
        let listener = UnixListener::bind(&there).unwrap();
        let unready = r#"{"code":"unavailable","message":"the first pass is not done"}"#.to_owned();
        let ready = serde_json::to_string(&healthy()).unwrap();
        for (status, body) in [("503 Service Unavailable", unready), ("200 OK", ready)] {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    assert!(client.ready().await.is_err());
    waiting.send(()).unwrap();
    assert!(status::wait(&client, Duration::from_secs(10)).await.unwrap().ready);
}
