//! What people run: redis, PostgreSQL and nginx, server and client in containers on two hosts. Clients know the server by
//! its name.

use std::{fs, io, path::Path, time::Instant};

use overlay_tests::{
    container::Container,
    exec,
    programs::{nginx, postgres, redis},
    topology::{Cluster, two_hosts},
    underlay::Wire,
    workdir::WorkDir,
};

/// A client on one host and a server on the other, and a directory for the server's files.
fn client_and_server() -> (Cluster, Container, Container, WorkDir) {
    let cluster = two_hosts(Wire::Offload);
    let (client, server) = cluster.pair();
    (cluster, client, server, WorkDir::new("programs"))
}

#[test]
fn redis_keeps_what_a_client_on_another_host_tells_it() {
    let (_cluster, client, server, dir) = client_and_server();
    let _redis = redis::start(server.netns(), dir.path());
    let (netns, host) = (client.netns(), server.name());
    let big = "x".repeat(100_000);
    let _ = redis::client(netns, host, &["set", "big", &big]).expect_success();
    assert_eq!(redis::client(netns, host, &["get", "big"]).expect_success().trim_end(), big);
    let figures = redis::benchmark(netns, host, &["-n", "20000", "-c", "20", "-t", "set,get", "--csv"])
        .expect_success();
    assert_eq!(figures.lines().count(), 3, "a header, SET and GET: {figures}");
    println!("{figures}");
}

#[test]
fn postgres_keeps_its_books_for_a_client_on_another_host() {
    let (_cluster, client, server, dir) = client_and_server();
    let _postgres = postgres::start(server.netns(), dir.path());
    let (netns, host) = (client.netns(), server.name());
    let _ = postgres::bench(netns, host, &["-i", "-q"]).expect_success();
    let report = postgres::bench(netns, host, &["-c", "4", "-t", "250"]).expect_success();
    assert!(report.contains("number of transactions actually processed: 1000/1000"), "{report}");
    // pgbench adds the same amount to an account, a teller and a branch.
    let sums =
        "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches),
                (select count(*) from pgbench_history)";
    assert_eq!(postgres::query(netns, host, sums).expect_success().trim_end(), "t|1000");
}

const GIGABYTE: u64 = 1 << 30;

#[test]
fn a_gigabyte_goes_down_from_nginx_and_up_to_it_unchanged() {
    let (_cluster, client, server, dir) = client_and_server();
    let _nginx = nginx::start(server.netns(), dir.path());
    let (netns, url) = (client.netns(), format!("http://{}.net", server.name()));
    let there = dir.path().join("down");
    let mut noise = io::Read::take(fs::File::open("/dev/urandom").expect("open"), GIGABYTE);
    io::copy(&mut noise, &mut fs::File::create(&there).expect("create")).expect("fill the file");
    let here = dir.path().join("here");
    let here = here.to_str().expect("a path of text");
    let start = Instant::now();
    let _ = nginx::curl(netns, &["-o", here, &format!("{url}/down")]).expect_success();
    println!("1 GiB down in {:?}", start.elapsed());
    assert_eq!(checksum(Path::new(here)), checksum(&there));
    let start = Instant::now();
    let _ = nginx::curl(netns, &["-T", here, &format!("{url}/up")]).expect_success();
    println!("1 GiB up in {:?}", start.elapsed());
    fs::remove_file(&there).expect("remove");
    assert_eq!(checksum(Path::new(here)), checksum(&dir.path().join("up")));
}

fn checksum(file: &Path) -> String {
    let line = exec::must([Path::new("sha256sum"), file]);
    line.split_whitespace().next().expect("a checksum").to_owned()
}
