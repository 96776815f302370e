//! The data path of the overlay: entry points only.
//!
//! ```text
//! container ─ veth ─▶ from_endpoint(6) ─┬─ same host ──────────────▶ container
//!                                       ├─ gateway device ─▶ the host's stack ─▶ world
//!                                       ├─ encap ─▶ underlay
//!                                       └─ slow path ─▶ tunnel device ─▶ underlay
//! underlay ─▶ xdp_underlay ─▶ from_underlay ─┬─ decap ─▶ container
//!                                            └─ slow path ─▶ tunnel device ─▶ from_tunnel ─▶ container
//! the host's stack ─▶ gateway device ─▶ from_host ─▶ container
//! ```
//!
//! Each program makes one verdict for a packet and counts it once. What is not ours goes on to the kernel
//! and to other people's programs; what is ours but invalid is dropped with a reason.
#![no_std]
#![no_main]

mod arp;
mod count;
mod decap;
mod deliver;
mod encap;
mod external;
mod flood;
mod from_endpoint;
mod from_endpoint6;
mod from_host;
mod from_tunnel;
mod from_underlay;
mod gateway;
mod icmp;
mod icmp6;
mod ingress;
mod inner6;
mod limit;
mod maps;
mod mss;
mod nat;
mod nd;
mod packet;
mod resolver;
mod route;
mod route6;
mod rules;
mod too_big;
mod transport;
mod turns;
mod xdp;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// tcx ingress on the host side of a container's veth: packets that the container sends.
#[classifier]
fn from_endpoint(ctx: TcContext) -> i32 {
    from_endpoint::run(&ctx)
}

/// Where `from_endpoint` goes on with IPv6: a program of its own, with a stack of its own.
#[classifier]
fn from_endpoint6(ctx: TcContext) -> i32 {
    from_endpoint6::run(&ctx)
}

/// tcx ingress on the underlay device: VXLAN packets from other hosts.
#[classifier]
fn from_underlay(ctx: TcContext) -> i32 {
    from_underlay::run(&ctx)
}

/// tcx ingress on the tunnel device: packets that the kernel decapsulated because the fast path could not.
#[classifier]
fn from_tunnel(ctx: TcContext) -> i32 {
    from_tunnel::run(&ctx)
}

/// tcx ingress on the inner end of the gateway device: packets that the host's stack sends to containers.
#[classifier]
fn from_host(ctx: TcContext) -> i32 {
    from_host::run(&ctx)
}

/// XDP on the underlay device: drops hostile VXLAN packets before they cost anything, and may deliver.
#[xdp]
fn xdp_underlay(ctx: XdpContext) -> u32 {
    xdp::run(&ctx)
}

/// The helpers that redirect and change packets are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
