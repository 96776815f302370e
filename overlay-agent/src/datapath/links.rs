//! Programs on devices.
//!
//! Each link is pinned under a name made of program and device. An agent that finds the pin of its
//! predecessor swaps the program on that link, atomically: no packet passes unfiltered. Other people's
//! programs on the same device stay; ours comes first, since one before it could end the chain.

use std::{collections::BTreeMap, fmt::Display, fs, io, path::PathBuf};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use overlay_common::abi::program;

use super::{DatapathError, bpffs::gone_is_success, object};
use crate::paths::Paths;

/// A program's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// The device.
    pub ifname: String,
    /// Its index: another device of the same name is another place.
    pub ifindex: u32,
    /// What goes there.
    pub kind: HookKind,
}

/// What goes to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// A classifier on tcx ingress.
    Ingress(&'static str),
    /// The XDP program, in the driver or (generic) before the stack.
    Xdp {
        /// In the driver.
        native: bool,
    },
}

impl Hook {
    /// The program's name.
    #[must_use]
    pub fn program(&self) -> &'static str {
        match self.kind {
            HookKind::Ingress(name) => name,
            HookKind::Xdp { .. } => program::XDP_UNDERLAY,
        }
    }

    /// Generic XDP has a pin of its own: the mode of a link cannot be changed.
    fn pin_name(&self) -> &'static str {
        match self.kind {
            HookKind::Ingress(name) => name,
            HookKind::Xdp { native: true } => "xdp_native",
            HookKind::Xdp { native: false } => "xdp_generic",
        }
    }

    fn device_is_there(&self) -> bool {
        nix::net::if_::if_nametoindex(self.ifname.as_str()).is_ok_and(|ifindex| ifindex == self.ifindex)
    }

    fn error(&self, reason: &dyn Display) -> DatapathError {
        DatapathError::Attach {
            program: self.program(),
            device: self.ifname.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Something of ours that is not as we left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Our program does not run at a place.
    Detached(Hook),
    /// A pin of a link, a map or a program is gone.
    Unpinned(PathBuf),
}

/// The links that this agent holds.
pub struct Links {
    paths: Paths,
    held: BTreeMap<Hook, PinnedLink>,
}

impl Links {
    pub(super) fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone(), held: BTreeMap::new() }
    }

    /// Makes exactly `hooks` carry our programs. Returns what we held and found broken. `xdp` are the programs
    /// at the XDP hook of the underlay device.
    ///
    /// A device that vanishes this moment needs nothing any more. One that cannot be served does not keep the
    /// others from being served; the first failure is returned at the end.
    pub(super) fn ensure(
        &mut self,
        ebpf: &mut Ebpf,
        hooks: &[Hook],
        xdp: &[u32],
    ) -> Result<Vec<Broken>, DatapathError> {
        self.create_pin_dir()?;
        self.remove_others(hooks)?;
        let mut repaired = Vec::new();
        let mut failure = None;
        for hook in hooks {
            match self.ensure_one(ebpf, hook, xdp) {
                Ok(broken) => repaired.extend(broken),
                Err(_) if !hook.device_is_there() => {}
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        failure.map_or(Ok(repaired), Err)
    }

    fn ensure_one(
        &mut self,
        ebpf: &mut Ebpf,
        hook: &Hook,
        xdp: &[u32],
    ) -> Result<Option<Broken>, DatapathError> {
        if !self.held.contains_key(hook) {
            self.attach(ebpf, hook)?;
            return Ok(None);
        }
        let broken = self.broken_at(ebpf, hook, xdp)?;
        match &broken {
            None => {}
            Some(Broken::Detached(_)) => {
                self.held.remove(hook);
                self.unpin(&self.pin_path(hook))?;
                self.attach(ebpf, hook)?;
            }
            // The link itself lives as long as we hold it.
            Some(Broken::Unpinned(_)) => {
                if let Some(link) = self.held.remove(hook) {
                    self.pin(hook, link.into())?;
                }
            }
        }
        Ok(broken)
    }

    /// What is broken at these places, left as it is.
    pub(super) fn broken(
        &self,
        ebpf: &mut Ebpf,
        hooks: &[Hook],
        xdp: &[u32],
    ) -> Result<Vec<Broken>, DatapathError> {
        let mut broken = Vec::new();
        for hook in hooks {
            match self.broken_at(ebpf, hook, xdp) {
                Ok(found) => broken.extend(found),
                Err(_) if !hook.device_is_there() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(broken)
    }

    fn broken_at(&self, ebpf: &mut Ebpf, hook: &Hook, xdp: &[u32]) -> Result<Option<Broken>, DatapathError> {
        if !self.held.contains_key(hook) || !is_attached(ebpf, hook, xdp)? {
            return Ok(Some(Broken::Detached(hook.clone())));
        }
        let pin = self.pin_path(hook);
        Ok((!pin.exists()).then_some(Broken::Unpinned(pin)))
    }

    fn create_pin_dir(&self) -> Result<(), DatapathError> {
        let path = self.paths.links();
        fs::create_dir_all(&path).map_err(|source| DatapathError::Bpffs { path, source })
    }

    fn attach(&mut self, ebpf: &mut Ebpf, hook: &Hook) -> Result<(), DatapathError> {
        let link = match self.take_over(ebpf, hook)? {
            Some(link) => link,
            None => attach_new(ebpf, hook)?,
        };
        self.pin(hook, link)
    }

    /// Swaps the program on the link that an earlier agent pinned for this hook. If that link's device is
    /// gone there is nothing to swap, and its pin goes too.
    fn take_over(&self, ebpf: &mut Ebpf, hook: &Hook) -> Result<Option<FdLink>, DatapathError> {
        let path = self.pin_path(hook);
        let old = match PinnedLink::from_pin(&path) {
            Ok(link) => FdLink::from(link),
            Err(LinkError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(e) => return Err(hook.error(&e)),
        };
        match swap(ebpf, hook, old) {
            Ok(link) => Ok(Some(link)),
            Err(reason) => {
                tracing::debug!(device = hook.ifname, %reason, "pinned link is dead, attaching anew");
                self.unpin(&path)?;
                Ok(None)
            }
        }
    }

    fn pin(&mut self, hook: &Hook, link: FdLink) -> Result<(), DatapathError> {
        let path = self.pin_path(hook);
        let pinned = match PinnedLink::from_pin(&path) {
            // The link was taken over: its pin is this very one.
            Ok(pinned) => pinned,
            Err(_) => link.pin(&path).map_err(|e| DatapathError::Pin { path, reason: e.to_string() })?,
        };
        self.held.insert(hook.clone(), pinned);
        Ok(())
    }

    /// Takes our programs off every other place, those of an earlier agent included.
    fn remove_others(&mut self, hooks: &[Hook]) -> Result<(), DatapathError> {
        self.held.retain(|hook, _| hooks.contains(hook));
        let wanted: Vec<PathBuf> = hooks.iter().map(|hook| self.pin_path(hook)).collect();
        let dir = self.paths.links();
        let fail = |source| DatapathError::Bpffs { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if !wanted.contains(&path) {
                self.unpin(&path)?;
            }
        }
        Ok(())
    }

    fn unpin(&self, path: &std::path::Path) -> Result<(), DatapathError> {
        gone_is_success(fs::remove_file(path))
            .map_err(|e| DatapathError::Pin { path: path.to_owned(), reason: e.to_string() })
    }

    fn pin_path(&self, hook: &Hook) -> PathBuf {
        self.paths.link(hook.pin_name(), &hook.ifname)
    }
}

fn attach_new(ebpf: &mut Ebpf, hook: &Hook) -> Result<FdLink, DatapathError> {
    match hook.kind {
        HookKind::Ingress(name) => {
            let program = object::classifier(ebpf, name)?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program
                .attach_with_options(&hook.ifname, TcAttachType::Ingress, options)
                .map_err(|e| hook.error(&chain(&e)))?;
            fd_link(hook, program.take_link(id))
        }
        HookKind::Xdp { native } => {
            let program = object::xdp(ebpf)?;
            let mode = if native { XdpMode::Driver } else { XdpMode::Skb };
            let id = program.attach(&hook.ifname, mode).map_err(|e| hook.error(&chain(&e)))?;
            fd_link(hook, program.take_link(id))
        }
    }
}

fn swap(ebpf: &mut Ebpf, hook: &Hook, old: FdLink) -> Result<FdLink, DatapathError> {
    match hook.kind {
        HookKind::Ingress(name) => {
            let program = object::classifier(ebpf, name)?;
            let link = SchedClassifierLink::try_from(old).map_err(|e| hook.error(&e))?;
            let id = program.attach_to_link(link).map_err(|e| hook.error(&chain(&e)))?;
            fd_link(hook, program.take_link(id))
        }
        HookKind::Xdp { .. } => {
            let program = object::xdp(ebpf)?;
            let link = XdpLink::try_from(old).map_err(|e| hook.error(&e))?;
            let id = program.attach_to_link(link).map_err(|e| hook.error(&chain(&e)))?;
            fd_link(hook, program.take_link(id))
        }
    }
}

fn fd_link<L>(hook: &Hook, link: Result<L, ProgramError>) -> Result<FdLink, DatapathError>
where
    L: TryInto<FdLink, Error = LinkError>,
{
    link.map_err(|e| hook.error(&chain(&e)))?.try_into().map_err(|e| hook.error(&e))
}

/// Whether our program is among those that run at the hook. To hold the link is no proof: root can detach it
/// (`bpftool link detach`) and leaves us a link without a device.
fn is_attached(ebpf: &mut Ebpf, hook: &Hook, xdp: &[u32]) -> Result<bool, DatapathError> {
    let fail = |e: ProgramError| hook.error(&chain(&e));
    let HookKind::Ingress(name) = hook.kind else {
        return Ok(xdp.contains(&object::xdp(ebpf)?.info().map_err(fail)?.id()));
    };
    let own = object::classifier(ebpf, name)?.info().map_err(fail)?.id();
    let (_, programs) = SchedClassifier::query_tcx(&hook.ifname, TcAttachType::Ingress)
        .map_err(|e| hook.error(&chain(&e)))?;
    Ok(programs.iter().any(|program| program.id() == own))
}

/// How many programs run at a device's ingress, whoever's they are.
///
/// # Errors
/// Why this kernel cannot be asked; one without tcx cannot.
pub fn programs_at_ingress(ifname: &str) -> Result<usize, String> {
    let programs = SchedClassifier::query_tcx(ifname, TcAttachType::Ingress);
    programs.map(|(_, programs)| programs.len()).map_err(|e| chain(&e))
}

/// An error with its causes: aya keeps the kernel's own word in the source.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
