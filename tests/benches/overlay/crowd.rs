//! Containers by the ten thousand on other hosts, as a host's maps know them, and packets to them.
//!
//! The agent of the host has ended: its data path goes on and nobody corrects the maps that are filled here. The frames
//! leave one container by a raw socket, so that nothing in its own stack grows with the number of those it talks to,
//! and end at a machine that drops them first of all, as they are for somebody else.

use std::{
    ffi::OsStr,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, send},
};
use overlay_common::{
    abi::map,
    fdb::{FdbEntry, FdbKey},
    neigh::{Neigh, NeighKey},
    vtep::{Vtep, VtepMemberKey},
    wire::outer::{OuterHeader, TunnelEnd},
};
use overlay_tests::{
    exec,
    host::Host,
    packet::{Addr, Frame, VXLAN_PORT},
};
use rand::{
    SeedableRng as _,
    distr::{Distribution as _, weighted::WeightedIndex},
    rngs::SmallRng,
};

use crate::{
    flood::{NOBODY, raw_socket},
    place::{Cpu, Place, pin_this_thread},
};

/// Most hosts that containers are spread over.
const MOST_HOSTS: u32 = 10_000;
/// Indices of VTEPs below are those of real hosts.
const FIRST_VTEP: u32 = 16;
/// Frames that are made beforehand and sent in turn.
const FRAMES: usize = 1 << 16;
/// Frames between two looks at the clock.
const BURST: usize = 64;
/// Payload of each: a datagram of 64 bytes.
const PAYLOAD: [u8; 64] = [1; 64];
const MEGABYTE: f64 = 1e6;
/// Maps that hold something for each container or host.
const MAPS: [&str; 4] = [map::FDB, map::NEIGH, map::VTEPS, map::VTEP_MEMBERS];

/// Whom of the crowd the packets go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// All alike.
    Uniform,
    /// The n-th of them by the n-th part of what the first gets, as in most of life.
    Zipf,
}

/// A sender, and whom it can send to.
#[derive(Debug)]
pub struct Crowd {
    sender: Sender,
    maps: Option<Maps>,
}

/// From where packets go.
#[derive(Debug)]
pub struct Sender {
    /// Namespace.
    pub place: Place,
    /// Device in it.
    pub ifname: String,
    /// Address of the device.
    pub addr: Addr,
}

impl Crowd {
    /// One to which packets just go out of a device: what it costs to send them at all.
    pub fn on_the_wire(sender: Sender) -> Self {
        Self { sender, maps: None }
    }

    /// One in the maps of a host, on which the sender's network has this identifier.
    pub fn in_maps(sender: Sender, host: &Host, vni: u32) -> Self {
        host.terminate();
        let pins = MAPS.map(|name| host.map_pin(name));
        Self { sender, maps: Some(Maps { pins, vni, here: host.addr() }) }
    }

    /// Makes it this large. It does not become smaller.
    pub fn grow(&self, endpoints: u32) -> Result<()> {
        self.maps.as_ref().map_or(Ok(()), |maps| maps.fill(endpoints))
    }

    /// Memory of the maps in the kernel, in megabytes.
    pub fn megabytes(&self) -> Result<f64> {
        self.maps.as_ref().map_or(Ok(0.0), Maps::megabytes)
    }

    /// Sends to the first so many of it for a while; nanoseconds that each packet took.
    pub fn send(&self, among: u32, pick: Pick, cpu: Cpu, duration: Duration) -> Result<f64> {
        let frames = self.frames(among, pick)?;
        self.sender.place.enter(|| {
            pin_this_thread(cpu)?;
            let socket = raw_socket(&self.sender.ifname).context("no raw socket at the sender")?;
            let (start, mut sent) = (Instant::now(), 0u32);
            for burst in frames.chunks(BURST).cycle() {
                for frame in burst {
                    match send(socket.as_raw_fd(), &frame.0, MsgFlags::empty()) {
                        Ok(_) | Err(Errno::ENOBUFS) => sent += 1,
                        Err(e) => return Err(e).context("cannot send a frame"),
                    }
                }
                if start.elapsed() >= duration {
                    break;
                }
            }
            Ok(start.elapsed().as_nanos() as f64 / f64::from(sent))
        })?
    }

    fn frames(&self, among: u32, pick: Pick) -> Result<Vec<Frame>> {
        let weights = (1..=among).map(|rank| match pick {
            Pick::Uniform => 1.0,
            Pick::Zipf => 1.0 / f64::from(rank),
        });
        let dice = WeightedIndex::new(weights).context("nobody to send to")?;
        let (from, mut random) = (self.sender.addr, SmallRng::seed_from_u64(1));
        let frame = |number: usize| {
            let to = endpoint(u32::try_from(number).unwrap_or(0));
            let to = if self.maps.is_some() { to } else { to.behind(NOBODY) };
            Frame::udp(from, to, (4000, 5000), &PAYLOAD)
        };
        Ok((0..FRAMES).map(|_| frame(dice.sample(&mut random))).collect())
    }
}

/// The n-th container.
fn endpoint(number: u32) -> Addr {
    let [high, b, c, d] = number.to_be_bytes();
    Addr { mac: [0x02, 0x43, high, b, c, d], ip: Ipv4Addr::from(0x0a80_0000 + number) }
}

/// Maps of a host, by their pins.
#[derive(Debug)]
struct Maps {
    pins: [PathBuf; MAPS.len()],
    vni: u32,
    here: Addr,
}

impl Maps {
    fn fill(&self, endpoints: u32) -> Result<()> {
        let [fdb, neigh, vteps, members] = &self.pins;
        let hosts = endpoints.min(MOST_HOSTS);
        let (mut fdb, mut neigh) = (hash::<FdbKey, FdbEntry>(fdb)?, hash::<NeighKey, Neigh>(neigh)?);
        let mut members = hash::<VtepMemberKey, u32>(members)?;
        let mut vteps: Array<MapData, Vtep> = Map::Array(open(vteps)?).try_into()?;
        for number in 0..hosts {
            let vtep_addr = vtep_addr(number);
            vteps.set(FIRST_VTEP + number, self.template(vtep_addr), 0)?;
            members.insert(VtepMemberKey { vni: self.vni, vtep_addr }, 1, 0)?;
        }
        for number in 0..endpoints {
            let (Addr { mac, ip }, host) = (endpoint(number), number % hosts);
            let there = FdbEntry::remote(FIRST_VTEP + host, vtep_addr(host));
            fdb.insert(FdbKey::new(self.vni, mac), there, 0)?;
            neigh.insert(NeighKey { vni: self.vni, addr: ip.into() }, Neigh::new(mac), 0)?;
        }
        Ok(())
    }

    fn template(&self, addr: [u8; 4]) -> Vtep {
        let here = TunnelEnd { mac: self.here.mac, addr: self.here.ip.octets() };
        let header = OuterHeader::template(here, TunnelEnd { mac: NOBODY, addr }, VXLAN_PORT);
        Vtep { header, ..Vtep::default() }
    }

    fn megabytes(&self) -> Result<f64> {
        let bytes = self.pins.iter().map(|pin| {
            let show = ["bpftool", "--json", "map", "show", "pinned"].map(OsStr::new);
            let text = exec::must(show.into_iter().chain([pin.as_os_str()]));
            let map: serde_json::Value =
                serde_json::from_str(&text).context("bpftool does not speak its JSON")?;
            map["bytes_memlock"].as_f64().context("bpftool does not say how large a map is")
        });
        Ok(bytes.sum::<Result<f64>>()? / MEGABYTE)
    }
}

fn vtep_addr(number: u32) -> [u8; 4] {
    Ipv4Addr::from(0xac20_0000 + number).octets()
}

fn open(pin: &PathBuf) -> Result<MapData> {
    MapData::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))
}

fn hash<K: Pod, V: Pod>(pin: &PathBuf) -> Result<HashMap<MapData, K, V>> {
    Ok(Map::HashMap(open(pin)?).try_into()?)
}
