//! Pages of the documentation, followed as they stand by somebody who has two machines and nothing on them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use overlay_tests::{
    doc_page::Page,
    host::{AGENT, binary},
    netns::Netns,
    room::Room,
    underlay::{MTU, Machine, Underlay, Wire},
    workdir::WorkDir,
};
use xtask::unpacked::{DOCKER, ETCD, PODMAN, Tree};

/// Two hosts with these packages, in a clone of the repository.
struct Reader {
    rooms: BTreeMap<&'static str, Room>,
    hosts: Vec<Machine>,
    _underlay: Underlay,
    _dir: WorkDir,
    _cgroups: PodmansCgroups,
}

impl Reader {
    #[track_caller]
    fn with(packages: &[&Tree]) -> Self {
        let (dir, underlay) = (WorkDir::new("page"), Underlay::new(Wire::Offload));
        let trees: Vec<PathBuf> =
            packages.iter().map(|tree| tree.ensure().unwrap_or_else(|e| panic!("{e:#}"))).collect();
        let names = ["host1", "host2"];
        let hosts: Vec<Machine> = names.iter().map(|name| underlay.add_host(name, MTU)).collect();
        let enter = |netns: &Netns, name| {
            let mut room = Room::enter(netns, name, dir.path(), &trees);
            room.must(&format!("cd {}/..", env!("CARGO_MANIFEST_DIR")));
            room
        };
        let rooms = names.into_iter().zip(&hosts).map(|(name, host)| (name, enter(&host.netns, name)));
        Self { rooms: rooms.collect(), hosts, _underlay: underlay, _dir: dir, _cgroups: PodmansCgroups }
    }

    /// A page with this test's hosts and programs in it.
    #[track_caller]
    fn page(&self, name: &str) -> Page {
        let programs = binary(AGENT).parent().map(Path::to_owned).unwrap_or_default();
        Page::read(name)
            .with("target/release/", &format!("{}/", programs.display()))
            .with("10.1.0.1", &self.hosts[0].addr.ip.to_string())
    }
}

/// What Podman makes in every hierarchy and leaves there; removed on drop where nobody is in it.
struct PodmansCgroups;

impl Drop for PodmansCgroups {
    fn drop(&mut self) {
        let hierarchies =
            fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for root in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            for left in ["libpod_parent/conmon", "libpod_parent"] {
                // Another Podman's containers keep it.
                let _ = fs::remove_dir(root.join(left));
            }
        }
    }
}

#[test]
fn the_page_on_cni_leads_from_nothing_to_containers_of_podman_that_talk() {
    let mut reader = Reader::with(&[&PODMAN, &ETCD]);
    for room in reader.rooms.values_mut() {
        // Not every machine that tests has its cgroups in the order that the default runtime asks for.
        room.must("mkdir -p /etc/containers/containers.conf.d");
        room.must(r#"printf '[engine]\nruntime = "runc"\n' >/etc/containers/containers.conf.d/runc.conf"#);
    }
    let page = reader.page("docs/cni.md");
    let packages = ["podman", "containernetworking-plugins", "etcd-server", "busybox-static", "curl"];
    page.follow(&mut reader.rooms, &packages);
}

#[test]
fn the_page_on_docker_leads_from_nothing_to_containers_that_talk() {
    let mut reader = Reader::with(&[&DOCKER, &ETCD]);
    for room in reader.rooms.values_mut() {
        // What installing the packages does: the alternatives, and the engine runs.
        room.must("for name in iptables ip6tables; do ln -sf xtables-legacy-multi /usr/sbin/$name; done");
        room.must("dockerd --storage-driver vfs --bridge none >/var/log/docker.log 2>&1 &");
        room.must("for try in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done; docker version");
    }
    let page = reader.page("docs/docker.md");
    page.follow(&mut reader.rooms, &["docker.io", "iptables", "etcd-server", "busybox-static"]);
}
