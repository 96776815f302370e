//! Engines and agents that end and come back, in every order.

use std::{fs, os::unix::net::UnixListener, time::Duration};

use nix::sys::signal::Signal;
use overlay_tests::wait;

use crate::dock::{Dock, SOON};

/// What Docker may be held up by an agent that is not there when it starts.
const STALL: Duration = Duration::from_secs(2);

#[test]
fn engines_and_agents_end_and_come_back_in_any_order() {
    let mut dock = Dock::new();
    dock.network(1, "net", "");
    dock.on(1).must("run -d --name alpha --network net --dns 10.0.0.1 busybox");
    dock.on(2).must("run -d --name beta --network net --dns 10.0.0.1 busybox");

    // The agent is killed: containers talk on, and the next container is as any other.
    dock.agent(1).kill9();
    assert!(dock.on(2).pings("beta", "10.0.0.2"), "the data path goes on");
    dock.agent(1).start();
    dock.on(1).must("run -d --name gamma --network net --dns 10.0.0.1 busybox");
    wait::until("the new container has its name", SOON, || dock.on(2).pings("beta", "gamma"));
    dock.verify();

    // The engine is restarted: it ends its containers, keeps its networks, and starts containers anew.
    let usual = dock.engine(1).restart(Signal::SIGTERM).expect("restart the engine");
    wait::until("its containers' endpoints are gone", SOON, || dock.agent(2).endpoints().len() == 1);
    assert!(dock.on(1).must("network ls").contains("net"));
    dock.on(1).must("start alpha");
    wait::until("the container is back under its name", SOON, || dock.on(2).pings("beta", "alpha"));

    // It is killed: what it left is cleared up as it comes back.
    dock.engine(1).restart(Signal::SIGKILL).expect("restart the engine");
    wait::until("what it left is gone", SOON, || dock.agent(2).endpoints().len() == 1);
    dock.on(1).must("start alpha gamma");
    wait::until("containers are back under their names", SOON, || {
        dock.on(2).pings("beta", "alpha") && dock.on(2).pings("beta", "gamma")
    });
    dock.verify();

    // It starts while the agent is down, but its socket is there.
    dock.engine(1).end(Signal::SIGKILL).expect("end the engine");
    dock.agent(1).terminate();
    let socket = dock.agent(1).flags().get("--docker-socket").expect("a socket").to_owned();
    fs::remove_file(&socket).expect("remove the agent's socket");
    let listener = UnixListener::bind(&socket).expect("open the socket");
    dock.agent(1).spawn_activated(listener, "docker");
    let start = dock.engine(1).start_again().expect("start the engine");
    println!("an engine starts in {usual:?}, and in {start:?} with an agent that starts with it");
    assert!(start < usual + STALL, "{start:?} instead of {usual:?}");
    dock.agent(1).wait_ready();
    wait::until("what the engine left is gone", SOON, || dock.agent(2).endpoints().len() == 1);
    dock.on(1).must("start alpha");
    wait::until("the container is back under its name", SOON, || dock.on(2).pings("beta", "alpha"));
    dock.verify();
}
