//! Looking into the maps with the tool that everybody has.

use overlay_common::abi;
use overlay_tests::{
    container::Container,
    exec,
    topology::{settle, two_hosts},
    underlay::Wire,
    views::MapDump,
};
use serde_json::{Value, json};

#[test]
fn bpftool_shows_the_fdb_by_field_names() {
    let cluster = two_hosts(Wire::Offload);
    let vni = cluster.network("net", &[]).vni;
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[1], "net", "b");
    settle(&[&a, &b]);

    let pin = cluster.hosts[0].pins().join(format!("maps-v{}", abi::VERSION)).join(abi::map::FDB);
    let dump = exec::must(["bpftool", "--json", "map", "dump", "pinned", &pin.display().to_string()]);
    let entries: Vec<Value> = serde_json::from_str(&dump).unwrap();
    let remote = entries
        .iter()
        .map(|entry| &entry["formatted"])
        .find(|entry| entry["key"]["mac"] == json!(b.addr().mac));
    let remote = remote.unwrap_or_else(|| panic!("no entry for {:?} in {dump}", b.addr()));
    assert_eq!(remote["key"]["vni"], json!(vni));
    assert_eq!(remote["value"]["vtep_addr"], json!(cluster.hosts[1].addr().ip.octets()));
    assert_eq!(remote["value"]["ifindex"], json!(0));
}

#[test]
fn the_bpftool_command_that_a_map_dump_names_works_and_shows_as_many_entries() {
    let cluster = two_hosts(Wire::Offload);
    let _pair = cluster.pair();
    for map in
        [abi::map::FDB, abi::map::NEIGH, abi::map::ENDPOINTS, abi::map::NETWORKS, abi::map::VTEP_MEMBERS]
    {
        let dump: MapDump = cluster.hosts[0].json(&["map", "dump", map]);
        assert!(!dump.entries.is_empty(), "{map} has no entries");
        let shown = exec::must(["sh", "-c", &format!("{} --json", dump.bpftool)]);
        let entries: Vec<Value> = serde_json::from_str(&shown).unwrap();
        assert_eq!(entries.len(), dump.entries.len(), "{map}: {shown}");
    }
}
