//! Asking the programs themselves what they would do with a packet that nobody sends.
//!
//! A second copy of them is loaded over the maps that are in force, with counters, flows and turns of its own, and run in
//! the kernel (`BPF_PROG_TEST_RUN`). What the copy decides is what the attached ones decide; nothing of it is sent, and
//! nothing is counted where anybody looks.

use std::collections::BTreeMap;

use aya::{
    Ebpf, TestRun as _,
    programs::{TestRunOptions, TestRunResult},
};
use overlay_common::{abi::program, stats::DropKey, verdict::DropReason};

use super::{
    DatapathError,
    maps::Maps,
    object::{self, Object},
};
use crate::paths::Paths;

/// Longest frame that a program may make of another, in bytes.
const MAX_FRAME: usize = 16 * 1024;
/// Place of `ifindex` in the kernel's `struct __sk_buff` (`linux/bpf.h`), in bytes; nothing before it is set.
const IFINDEX_OFFSET: usize = 40;
/// The verdict of a program that sends the packet elsewhere (`linux/pkt_cls.h`).
const TC_ACT_REDIRECT: u32 = 7;

/// Programs to be asked.
pub struct Trial {
    ebpf: Ebpf,
    maps: Maps,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was dropped.
    Dropped(DropReason),
    /// It goes on somewhere else, as this frame.
    Redirected(Vec<u8>),
    /// It is none of ours: the kernel goes on with it.
    Passed,
}

impl Trial {
    /// Loads a copy of the programs. What the verifier did once it does again: this takes some tenths of a second.
    ///
    /// # Errors
    /// If the maps in force are not all there, or the kernel does not take the programs.
    pub(super) fn load(paths: &Paths, object: &Object) -> Result<Self, DatapathError> {
        let mut ebpf = object::load_copy(paths, object)?;
        let maps = Maps::take(&mut ebpf)?;
        Ok(Self { ebpf, maps })
    }

    /// What happens to a frame that a container sends; `ifindex` is its host veth.
    ///
    /// # Errors
    /// If the kernel does not run the program: the device is gone, or the frame is too short.
    pub fn from_endpoint(&mut self, ifindex: u32, frame: &[u8]) -> Result<Outcome, DatapathError> {
        self.run(program::FROM_ENDPOINT, ifindex, frame)
    }

    /// What happens to a frame that comes in by the underlay device.
    ///
    /// # Errors
    /// As [`from_endpoint`](Self::from_endpoint).
    pub fn from_underlay(&mut self, ifindex: u32, frame: &[u8]) -> Result<Outcome, DatapathError> {
        self.run(program::FROM_UNDERLAY, ifindex, frame)
    }

    fn run(&mut self, name: &'static str, ifindex: u32, frame: &[u8]) -> Result<Outcome, DatapathError> {
        let before = self.dropped()?;
        let mut ctx = [0; IFINDEX_OFFSET + size_of::<u32>()];
        ctx[IFINDEX_OFFSET..].copy_from_slice(&ifindex.to_ne_bytes());
        let mut out = vec![0; MAX_FRAME];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&ctx),
            ..TestRunOptions::default()
        };
        let ran = object::classifier(&mut self.ebpf, name)?.test_run(options);
        let TestRunResult { return_value, data_size_out, .. } =
            ran.map_err(|e| DatapathError::Trial { program: name, reason: e.to_string() })?;
        out.truncate(data_size_out as usize);
        let after = self.dropped()?;
        let counted = after.iter().find(|(key, packets)| before.get(*key) != Some(packets));
        Ok(match counted.and_then(|(key, _)| DropReason::from_number(key.reason)) {
            Some(reason) => Outcome::Dropped(reason),
            None if return_value == TC_ACT_REDIRECT => Outcome::Redirected(out),
            None => Outcome::Passed,
        })
    }

    fn dropped(&self) -> Result<BTreeMap<DropKey, u64>, DatapathError> {
        Ok(self.maps.drops()?.into_iter().map(|(key, count)| (key, count.packets)).collect())
    }
}
