//! `docker-compose`, as Debian has it.

use std::{fs, path::Path, process::Command};

use overlay_tests::{exec, wait};
use xtask::unpacked::DOCKER_COMPOSE;

use crate::dock::{Dock, SOON};

const PROJECT: &str = r#"
version: "2.4"
services:
  web:
    image: busybox
    command: httpd -f -p 80
    dns: 10.0.0.1
    ports: ["8080:80"]
  client:
    image: busybox
    dns: 10.0.0.1
    networks:
      default:
        aliases: [asker]
networks:
  default:
    driver: overlay-ebpf
    ipam:
      driver: overlay-ebpf
"#;

/// docker-compose on a project.
fn compose(dock: &Dock, project: &Path, words: &[&str]) -> String {
    let tree = DOCKER_COMPOSE.ensure().expect("docker-compose");
    // It does in one go what others do in many, so it has more time than any single tool.
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "120", "/usr/bin/python3"]);
    let libraries = ["usr/lib/python3/dist-packages", "usr/lib/python3.11"].map(|part| tree.join(part));
    command.env("PYTHONPATH", std::env::join_paths(libraries).expect("paths"));
    command
        .env("DOCKER_HOST", dock.on(1).url())
        .current_dir(project)
        .arg(tree.join("usr/bin/docker-compose"));
    exec::finish(command.args(["--project-name", "shop"]).args(words)).expect_success()
}

#[test]
fn two_services_of_a_compose_file_find_each_other_and_other_hosts_find_them() {
    let dock = Dock::new();
    let project = dock.cluster.dir.make("shop");
    fs::write(project.join("docker-compose.yml"), PROJECT).expect("write the project");
    compose(&dock, &project, &["up", "-d"]);
    let (one, two) = (dock.on(1), dock.on(2));
    assert!(one.pings("shop_client_1", "web"));
    wait::until("the other engine knows the network", SOON, || {
        two.run("network inspect shop_default").is_success()
    });
    two.must("run -d --name visitor --network shop_default --dns 10.0.0.1 busybox");
    for name in ["web", "asker", "client", "shop_web_1"] {
        wait::until("services have their names on the other host", SOON, || two.pings("visitor", name));
    }
    let visitor = two.inspect("visitor", "shop_default").expect("the visitor");
    let namespace = format!("--net=/proc/{}/ns/net", visitor.pid);
    let url = format!("http://{}/nothing", one.address("shop_web_1", "shop_default"));
    let code = ["--silent", "--max-time", "5", "--write-out", "%{http_code}", &url];
    let answer = exec::must(["nsenter", &namespace, "curl"].into_iter().chain(code));
    assert!(answer.ends_with("404"), "{answer}");
    two.must("rm -f visitor");
    compose(&dock, &project, &["down"]);
    let networks = || dock.agent(2).json::<Vec<serde_json::Value>>(&["network", "ls"]).len();
    wait::until("all of it is gone", SOON, || dock.agent(2).endpoints().is_empty() && networks() == 0);
    dock.verify();
}
