//! Two hosts on a wire, without containers, rules or programs: what the machine itself can do.

use anyhow::Result;
use overlay_tests::underlay::{MTU, UNDERLAY_IFNAME, Underlay};

use super::{Setting, Stage};
use crate::{
    crowd::{Crowd, Sender},
    flood,
    place::{Place, Route},
};

/// Builds it. There are no containers, so "same host" is from host to host too: what it costs to be apart.
pub fn build(setting: Setting) -> Result<Stage> {
    let underlay = Underlay::new(setting.wire);
    let (a, b) = (underlay.add_host("bare1", MTU), underlay.add_host("bare2", MTU));
    let route = Route { client: Place::of(&a.netns), server: Place::of(&b.netns), addr: b.addr.ip };
    let hostile = setting.hostile(b.addr, &underlay);
    let sender = Sender { place: Place::of(&a.netns), ifname: UNDERLAY_IFNAME.to_owned(), addr: a.addr };
    let crowd = setting.crowd.then(|| (Crowd::on_the_wire(sender), flood::bystander(&underlay)));
    let (crowd, bystander) = crowd.unzip();
    let stage = Stage::new(route.clone(), route, hostile, (a, b, bystander, underlay));
    Ok(Stage { crowd, ..stage })
}
