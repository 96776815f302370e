//! A cluster that moves from one store to another under traffic: `overlay store export` and `import`.

use std::fs;

use overlay_tests::{
    container::Container,
    exec::{self, Finished},
    host::{CLI, Host, binary},
    oracle::expect_agreement,
    topology::{Cluster, settle, two_hosts},
    traffic::flow::Flow,
    underlay::Wire,
};

/// The command line without an agent.
fn overlay(argv: &[&str]) -> Finished {
    exec::finish(exec::command([binary(CLI)]).args(argv))
}

/// The same, of which only success counts.
fn expect(argv: &[&str]) {
    let finished = overlay(argv);
    assert!(finished.is_success(), "{finished}");
}

/// Another, still empty store beside the cluster's.
fn new_store(cluster: &Cluster) -> String {
    format!("sqlite://{}", cluster.dir.path().join("new.db").display())
}

fn store_of(host: &Host) -> &str {
    host.flags().get("--store").expect("the agent has a store")
}

#[test]
fn a_cluster_moves_to_another_store_without_losing_a_packet() {
    let mut cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    cluster.network("other", &["--label", "free=text with \"quotes\""]);
    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    let from_agent = cluster.hosts[0].overlay(&["store", "export"]);
    let from_store = overlay(&["store", "export", "--store", store_of(&cluster.hosts[0])]).expect_success();
    assert_eq!(from_store, from_agent, "the agent and the store itself say the same");
    for host in &cluster.hosts {
        host.terminate();
    }
    let (from, to) = (store_of(&cluster.hosts[0]).to_owned(), new_store(&cluster));
    let file = cluster.dir.path().join("cluster.json").display().to_string();
    expect(&["store", "export", "--store", &from, &file]);
    let text = fs::read_to_string(&file).unwrap();

    let imported = overlay(&["store", "import", "--store", &to, &file]).expect_success();
    println!("{imported}");
    assert_eq!(overlay(&["store", "export", "--store", &to]).expect_success(), text);
    cluster.hosts = cluster.hosts.into_iter().map(|host| host.with_flag("--store", &to)).collect();
    cluster.hosts.iter().for_each(Host::start);
    flow.wait_for_more(200);
    let report = flow.stop();
    println!("{report:?}");
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
    expect_agreement(&cluster);
    let c = Container::attached(&cluster.hosts[1], "net", "c");
    settle(&[&a, &b, &c]);
}

#[test]
fn a_store_in_use_is_not_imported_into_and_a_store_half_imported_is_not_used() {
    let cluster = two_hosts(Wire::Offload);
    let _pair = cluster.pair();
    let host = &cluster.hosts[0];
    let file = cluster.dir.path().join("cluster.json").display().to_string();
    host.overlay(&["store", "export", &file]);
    let refused = overlay(&["store", "import", "--store", store_of(host), &file]);
    assert!(refused.code == Some(1) && refused.stderr.contains("is not empty"), "{refused}");
    host.overlay(&["store", "import", "--replace", &file]);
    expect_agreement(&cluster);

    let to = new_store(&cluster);
    expect(&["store", "import", "--store", &to, &file]);
    let path = to.strip_prefix("sqlite://").unwrap();
    let marker =
        "INSERT INTO entries VALUES ('overlay/v1/import', CAST('{\"digest\":\"0\"}' AS BLOB), 1, NULL)";
    rusqlite::Connection::open(path).unwrap().execute(marker, ()).unwrap();
    host.terminate();
    let refused = host.run_agent(&host.flags().clone().with("--store", &to), &[]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("import into the store is not finished"),
        "{refused}"
    );
    let refused = overlay(&["store", "import", "--store", &to, &file]);
    assert!(refused.code == Some(1) && refused.stderr.contains("was interrupted"), "{refused}");
    expect(&["store", "import", "--force", "--store", &to, &file]);
    assert_eq!(
        overlay(&["store", "export", "--store", &to]).expect_success(),
        fs::read_to_string(&file).unwrap()
    );
    host.start();
}

#[test]
fn an_agent_exports_what_it_knows_while_its_store_is_away() {
    let cluster = two_hosts(Wire::Offload);
    let _pair = cluster.pair();
    let host = &cluster.hosts[0];
    let before = host.overlay(&["store", "export"]);
    let path = store_of(host).strip_prefix("sqlite://").unwrap();
    let away = format!("{path}.away");
    fs::rename(path, &away).unwrap();
    let stale = host.cli(&["store", "export"]);
    fs::rename(&away, path).unwrap();
    assert_eq!(stale.stdout, before, "{stale}");
    assert!(stale.stderr.contains("this is what the agent last knew"), "{stale}");
    let missing = overlay(&["store", "export", "--store", &format!("sqlite://{path}.misspelt")]);
    assert!(missing.code == Some(1) && !fs::exists(format!("{path}.misspelt")).unwrap(), "{missing}");
}
