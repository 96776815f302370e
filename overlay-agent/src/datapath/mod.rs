//! The kernel side: the only user of aya.
//!
//! * [`batch`]: many entries in one system call
//! * [`bpffs`]: the file system of the pins
//! * [`object`]: loading the BPF object, with its maps pinned
//! * [`maps`]: the maps, typed; reading them and carrying out a [`Plan`]
//! * [`links`]: programs on devices, pinned, swapped atomically, kept attached
//! * [`layouts`]: maps of other versions, gone after the swap
//! * [`counters`]: what the programs counted
//! * [`dump`]: map contents for people
//! * [`log`]: what the programs log
//! * [`trial`]: what the programs would do with a packet

mod batch;
pub mod bpffs;
pub mod counters;
pub mod dump;
mod error;
mod layouts;
pub mod links;
pub mod log;
pub mod maps;
pub mod object;
pub mod trial;

pub use error::DatapathError;

use std::sync::Arc;

use crate::{
    config::BpfLog,
    paths::Paths,
    reconcile::{Plan, Tables},
};
use links::{Broken, Hook, Links};
use maps::Maps;
use object::Object;
use trial::Trial;

/// The data path of this host.
pub struct Datapath {
    paths: Paths,
    /// The object that the programs came from: what is at its path now may be another one.
    object: Arc<Object>,
    ebpf: aya::Ebpf,
    map_ids: object::MapIds,
    maps: Maps,
    links: Links,
    /// What an earlier agent left is gone.
    settled: bool,
    log: Option<log::Reader>,
}

impl Datapath {
    /// Loads the programs, over maps that an earlier agent left where there are any.
    ///
    /// # Errors
    /// If the kernel lacks what is needed, or refuses: the error names it.
    pub fn load(paths: &Paths, object: &std::path::Path, log: BpfLog) -> Result<Self, DatapathError> {
        let file = Arc::new(Object::open(object)?);
        let mut ebpf = object::load(paths, &file, log)?;
        let map_ids = object::map_ids(paths)?;
        let maps = Maps::take(&mut ebpf)?;
        let log = log::Reader::take(&mut ebpf, log)?;
        Ok(Self {
            paths: paths.clone(),
            object: file,
            ebpf,
            map_ids,
            maps,
            links: Links::new(paths),
            settled: false,
            log,
        })
    }

    /// The stream of log records, once, if the programs log at all.
    pub fn take_log(&mut self) -> Option<log::Reader> {
        self.log.take()
    }

    /// What the maps hold.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn observe(&self) -> Result<Tables, DatapathError> {
        self.maps.observe()
    }

    /// Carries out a plan.
    ///
    /// # Errors
    /// If an entry cannot be written, as when a map is full. What was done before it stays.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        self.maps.apply(plan)
    }

    /// What loads a copy of the programs to be asked, over the maps of these. It takes a while, and needs nothing of this.
    pub fn trial(&self) -> impl FnOnce() -> Result<Trial, DatapathError> + use<> {
        let (paths, object) = (self.paths.clone(), Arc::clone(&self.object));
        move || Trial::load(&paths, &object)
    }

    /// Makes exactly these hooks carry our programs, and all pins be there; returns what was not as we left it.
    /// `xdp` are the programs at the XDP hook of the underlay device.
    ///
    /// # Errors
    /// If a program cannot be attached, or a pin not be made.
    pub fn attach(&mut self, hooks: &[Hook], xdp: &[u32]) -> Result<Vec<Broken>, DatapathError> {
        let mut broken = self.links.ensure(&mut self.ebpf, hooks, xdp)?;
        let programs = object::ensure_programs_pinned(&mut self.ebpf, &self.paths)?;
        let maps = object::ensure_maps_pinned(&self.map_ids, &self.paths)?;
        broken.extend(programs.into_iter().chain(maps).map(Broken::Unpinned));
        self.settle()?;
        Ok(broken)
    }

    /// What [`attach`](Self::attach) would repair, left as it is.
    ///
    /// # Errors
    /// If the kernel does not say what runs at a hook.
    pub fn broken(&mut self, hooks: &[Hook], xdp: &[u32]) -> Result<Vec<Broken>, DatapathError> {
        let mut broken = self.links.broken(&mut self.ebpf, hooks, xdp)?;
        broken.extend(object::missing_pins(&self.paths).into_iter().map(Broken::Unpinned));
        Ok(broken)
    }

    /// Every link carries a program of ours, over maps that are filled: nothing needs those of another layout any
    /// more, and what is counted for endpoints that went while no agent of this layout ran is nobody's.
    fn settle(&mut self) -> Result<(), DatapathError> {
        if !self.settled {
            layouts::remove_others(&self.paths)?;
            self.maps.retire_counters()?;
            self.settled = true;
        }
        Ok(())
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }
}
