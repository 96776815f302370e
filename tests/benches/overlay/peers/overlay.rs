//! This project: two agents, one network, containers attached through the command line.

use anyhow::Result;
use overlay_tests::{
    container::Container,
    topology::{Cluster, Plan, settle},
};

use super::{Setting, Stage};
use crate::{
    crowd::{Crowd, Sender},
    flood,
    place::{Place, Route},
};

const NETWORK: &str = "bench";

/// Builds it: one container on the first host, two on the second.
pub fn build(setting: Setting) -> Result<Stage> {
    let cluster = Cluster::new(Plan { wire: setting.wire, xdp: setting.xdp, ..Plan::default() });
    let network = cluster.network(NETWORK, &[]);
    let client = Container::attached(&cluster.hosts[0], NETWORK, "client");
    let server = Container::attached(&cluster.hosts[1], NETWORK, "server");
    let neighbour = Container::attached(&cluster.hosts[1], NETWORK, "neighbour");
    settle(&[&client, &server, &neighbour]);
    let from = |container: &Container| Route {
        client: Place::of(container.netns()),
        server: Place::of(server.netns()),
        addr: server.addr().ip,
    };
    let (across, same_host) = (from(&client), from(&neighbour));
    let hostile = setting.hostile(cluster.hosts[1].addr(), &cluster.underlay);
    let (ifname, addr) = (client.endpoint().ifname.clone(), client.addr());
    let sender = Sender { place: across.client.clone(), ifname, addr };
    let crowd = setting.crowd.then(|| {
        (Crowd::in_maps(sender, &cluster.hosts[0], network.vni), flood::bystander(&cluster.underlay))
    });
    let (crowd, bystander) = crowd.unzip();
    let stage = Stage::new(across, same_host, hostile, (client, neighbour, server, bystander, cluster));
    Ok(Stage { crowd, ..stage })
}
