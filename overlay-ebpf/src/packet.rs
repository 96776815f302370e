//! Packet memory: the one home of packet pointers and of the kernel's packet helpers.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_UNSPEC},
    helpers::generated as helper,
    programs::{TcContext, XdpContext},
};
use overlay_common::{verdict::DropReason, wire::Ethernet, wire::Ipv4};

/// A verdict's outcome: the program's return code, or why the packet is dropped.
pub type Verdict = Result<i32, DropReason>;

/// Leave the packet to other programs and to the kernel.
pub const PASS: i32 = TC_ACT_UNSPEC;

/// The linear part of a packet. Any helper that may move the packet makes it invalid: take a new one.
#[derive(Clone, Copy)]
pub struct Bytes {
    start: usize,
    end: usize,
}

impl Bytes {
    /// The linear part of a socket buffer.
    #[inline(always)]
    pub fn of_skb(ctx: &TcContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// The bytes of an XDP frame.
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// Number of bytes.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// A copy of the header at `offset`, or `None` if the packet ends before it does.
    ///
    /// `T` is a header type or byte array: any bit pattern is a value.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: usize) -> Option<T> {
        // SAFETY: `pointer` checked that the bytes are there.
        self.pointer::<T>(offset).map(|p| unsafe { *p })
    }

    /// Overwrites the bytes at `offset`; `None` if the packet ends before.
    #[inline(always)]
    pub fn write<T: Copy>(self, offset: usize, value: &T) -> Option<()> {
        // SAFETY: `pointer` checked that the bytes are there; the packet belongs to this program now.
        self.pointer::<T>(offset).map(|p| unsafe { *p.cast_mut() = *value })
    }

    /// One's complement sum over `N` bytes, a multiple of four, at `offset`; `None` if the packet ends before.
    #[inline(always)]
    pub fn sum<const N: usize>(self, offset: usize) -> Option<u32> {
        let at = self.pointer::<[u8; N]>(offset)?.cast_mut().cast();
        // SAFETY: `pointer` checked that the bytes are there; the helper only reads them.
        Some(unsafe { helper::bpf_csum_diff(core::ptr::null_mut(), 0, at, N as u32, 0) } as u32)
    }

    #[inline(always)]
    fn pointer<T>(self, offset: usize) -> Option<*const T> {
        let at = self.start + offset;
        // This comparison is what the verifier takes as proof.
        if at + size_of::<T>() > self.end { None } else { Some(at as *const T) }
    }
}

/// Makes sure that the first `want` bytes of a packet, or all of a shorter one, are linear.
#[inline(always)]
pub fn linear(ctx: &TcContext, want: u32) -> Bytes {
    let bytes = Bytes::of_skb(ctx);
    if bytes.len() >= want as usize {
        return bytes;
    }
    // A failure leaves the packet as it is; the reads that follow then find it too short.
    let _ = ctx.pull_data(if ctx.len() < want { ctx.len() } else { want });
    Bytes::of_skb(ctx)
}

/// What the kernel knows of a socket buffer beside its bytes.
pub trait SkbExt {
    /// Device on which the packet arrived.
    fn ifindex(&self) -> u32;
    /// Size of the segments that a GSO packet stands for, 0 for a plain packet.
    fn gso_size(&self) -> u32;
    /// Whether a VLAN tag was taken off the frame.
    fn has_vlan_tag(&self) -> bool;
    /// Mark that a program of this host set.
    fn mark(&self) -> u32;
    /// Hash of the flow. The kernel leaves the ports of fragments out, so all fragments of a packet agree.
    fn flow_hash(&self) -> u32;
    /// What was noted with the packet by this program.
    fn note(&self) -> u32;
    /// Notes something with the packet.
    fn set_note(&self, note: u32);
    /// Cuts the packet's end off, or makes it longer by zeros. A packet whose end the kernel needs stays as it is.
    fn set_len(&self, len: u32) -> Option<()>;
    /// The kernel's own form of the packet, for helpers.
    fn raw(&self) -> *mut __sk_buff;
}

impl SkbExt for TcContext {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context pointer is valid while the program runs.
        unsafe { (*self.raw()).ifindex }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).gso_size }
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.raw()).vlan_present != 0 }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).mark }
    }

    #[inline(always)]
    fn flow_hash(&self) -> u32 {
        // SAFETY: as above.
        unsafe { helper::bpf_get_hash_recalc(self.raw()) }
    }

    #[inline(always)]
    fn note(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).cb[0] }
    }

    #[inline(always)]
    fn set_note(&self, note: u32) {
        // SAFETY: as above; while a tc program has the packet, these words are the program's.
        unsafe { (*self.raw()).cb[0] = note }
    }

    #[inline(always)]
    fn set_len(&self, len: u32) -> Option<()> {
        // SAFETY: the helper checks the length.
        let result = unsafe { helper::bpf_skb_change_tail(self.raw(), len, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.as_ptr().cast()
    }
}

/// Sends the packet out of a device of this namespace.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes any index.
    unsafe { helper::bpf_redirect(ifindex, 0) as i32 }
}

/// Hands the packet to this namespace's stack, as if it had arrived on a device.
#[inline(always)]
pub fn redirect_ingress(ifindex: u32) -> i32 {
    // SAFETY: the helper takes any index.
    unsafe { helper::bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Sends the packet out of a device, with the hardware address that the kernel resolves.
#[inline(always)]
pub fn redirect_neigh(ifindex: u32) -> i32 {
    // SAFETY: without parameters the helper looks the route up by the packet's own destination.
    unsafe { helper::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Hands the packet to the other end of a veth, in its namespace, without passing a backlog queue.
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: the helper takes any index; one that is no veth drops the packet.
    unsafe { helper::bpf_redirect_peer(ifindex, 0) as i32 }
}

/// An IPv4 header whose own words are true, with its place.
#[derive(Clone, Copy)]
pub struct InnerIp {
    /// The header, without options.
    pub header: Ipv4,
    /// Where the payload begins, from the packet's start.
    pub payload: usize,
}

impl InnerIp {
    /// Reads the header behind the Ethernet header at `eth_offset` of a packet of `len` bytes.
    /// `truncated` and `malformed` are the reasons to give.
    #[inline(always)]
    pub fn parse(
        bytes: Bytes,
        eth_offset: usize,
        len: usize,
        truncated: DropReason,
        malformed: DropReason,
    ) -> Result<Self, DropReason> {
        let offset = eth_offset + Ethernet::LEN;
        let header: Ipv4 = bytes.read(offset).ok_or(truncated)?;
        let total = header.total_len();
        if !header.is_plausible() || total < header.header_len() || offset + total > len {
            return Err(malformed);
        }
        Ok(Self { header, payload: offset + header.header_len() })
    }

    /// Whether the packet carries `port` as its UDP destination. Fragments carry no port that one may trust.
    #[inline(always)]
    pub fn is_udp_to(&self, bytes: Bytes, port_be: u16) -> bool {
        self.header.protocol == overlay_common::wire::headers::ip_proto::UDP
            && !self.header.is_later_fragment()
            && bytes.read::<u16>(self.payload + 2) == Some(port_be)
    }
}
