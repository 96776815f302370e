//! Loading the BPF object.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError, SchedClassifier, Xdp},
    util::KernelVersion,
};
use aya_log::Level;
use overlay_common::abi::{map, program, tail_call};

use super::{DatapathError, bpffs::gone_is_success};
use crate::{config::BpfLog, paths::Paths};

/// Maps that are pinned: all but the log's, whose reader ends with the agent.
pub const PINNED_MAPS: [&str; 24] = [
    map::CONFIG,
    map::ENDPOINTS,
    map::FDB,
    map::NEIGH,
    map::VTEPS,
    map::VTEP_MEMBERS,
    map::NETWORKS,
    map::ROUTES,
    map::POLICY,
    map::RULES,
    map::RULE_BITS,
    map::GATEWAY,
    map::HOST_ADDRS,
    map::HOST_OWNERS,
    map::RESOLVER_TURNS,
    map::FLOOD,
    map::LIMITS,
    map::LIMIT_TURNS,
    map::FLOOD_TURNS,
    map::TAIL_CALLS,
    map::ENDPOINT_STATS,
    map::DROPS,
    map::RULE_STATS,
    map::FLOWS,
];

/// All programs.
const PROGRAMS: [&str; 6] = [
    program::FROM_ENDPOINT,
    program::FROM_ENDPOINT6,
    program::FROM_UNDERLAY,
    program::FROM_TUNNEL,
    program::FROM_HOST,
    program::XDP_UNDERLAY,
];

/// Loads object and programs. Maps that are pinned already are taken over with their content.
pub(super) fn load(paths: &Paths, object: &Object, log: BpfLog) -> Result<Ebpf, DatapathError> {
    check_kernel()?;
    create_map_dirs(paths)?;
    let mut ebpf = load_maps(paths, object, log, PINNED_MAPS)?;
    load_programs(&mut ebpf, paths, &PROGRAMS)?;
    set_tail_calls(&mut ebpf)?;
    for name in PROGRAMS {
        unpin(&paths.programs().join(name))?;
    }
    ensure_programs_pinned(&mut ebpf, paths)?;
    Ok(ebpf)
}

/// The object's file, kept open: an upgrade puts another one in its place.
pub(super) struct Object {
    path: PathBuf,
    file: File,
}

impl Object {
    /// Opens it.
    pub(super) fn open(path: &Path) -> Result<Self, DatapathError> {
        match File::open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file }),
            Err(error) => Err(load_error(path, EbpfError::FileError { path: path.to_owned(), error })),
        }
    }

    fn read(&self) -> Result<Vec<u8>, DatapathError> {
        let read = || {
            let mut bytes = vec![0; usize::try_from(self.file.metadata()?.len()).unwrap_or_default()];
            self.file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        read()
            .map_err(|error| load_error(&self.path, EbpfError::FileError { path: self.path.clone(), error }))
    }
}

fn load_error(path: &Path, error: EbpfError) -> DatapathError {
    DatapathError::Load { path: path.to_owned(), source: Box::new(error) }
}

/// What a copy that is only asked has for itself, beside the counters: what programs write, and where they go on.
const OWN: [&str; 4] = [map::RESOLVER_TURNS, map::FLOOD_TURNS, map::LIMIT_TURNS, map::TAIL_CALLS];
/// Programs that are asked.
const ASKED: [&str; 2] = [program::FROM_ENDPOINT, program::FROM_UNDERLAY];

/// Loads a copy of some programs, over the maps in force but for what it has for itself.
pub(super) fn load_copy(paths: &Paths, object: &Object) -> Result<Ebpf, DatapathError> {
    let is_own = |name: &&str| map::COUNTERS.contains(name) || OWN.contains(name);
    let read = PINNED_MAPS.into_iter().filter(|name| !is_own(name));
    // A pin that is not there would be made anew, for a map that nobody fills.
    if let Some(path) = read.clone().map(|name| paths.map(name)).find(|path| !path.exists()) {
        return Err(pin_error(&path, &"it is gone; the agent pins it again within seconds"));
    }
    let mut ebpf = load_maps(paths, object, BpfLog::Off, read)?;
    load_programs(&mut ebpf, paths, &ASKED)?;
    Ok(ebpf)
}

/// Loads the object; these maps are shared by their pins.
fn load_maps(
    paths: &Paths,
    object: &Object,
    log: BpfLog,
    shared: impl IntoIterator<Item = &'static str>,
) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    for name in shared {
        loader.map_pin_path(name, paths.map(name));
    }
    let level = log_level(log);
    loader.override_global(aya_log::LEVEL, &level, true);
    loader.load(&object.read()?).map_err(|e| load_error(&object.path, e))
}

/// A map by its id: what finds it again when its pin is gone.
pub(super) type MapIds = Vec<(&'static str, u32)>;

/// The ids of the maps as loading pinned them.
pub(super) fn map_ids(paths: &Paths) -> Result<MapIds, DatapathError> {
    let id = |name: &'static str| {
        let path = paths.map(name);
        let info = MapData::from_pin(&path).and_then(|map| map.info()).map_err(|e| pin_error(&path, &e))?;
        Ok((name, info.id()))
    };
    PINNED_MAPS.into_iter().map(id).collect()
}

/// Pins the maps again whose pins somebody removed; returns those pins.
pub(super) fn ensure_maps_pinned(ids: &MapIds, paths: &Paths) -> Result<Vec<PathBuf>, DatapathError> {
    create_map_dirs(paths)?;
    let mut repaired = Vec::new();
    for (name, id) in ids {
        let path = paths.map(name);
        if !path.exists() {
            let map = MapData::from_id(*id).map_err(|e| pin_error(&path, &e))?;
            map.pin(&path).map_err(|e| pin_error(&path, &e))?;
            repaired.push(path);
        }
    }
    Ok(repaired)
}

/// Pins the programs that are not pinned; returns those pins.
pub(super) fn ensure_programs_pinned(ebpf: &mut Ebpf, paths: &Paths) -> Result<Vec<PathBuf>, DatapathError> {
    create_dir(&paths.programs())?;
    let mut repaired = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let path = paths.programs().join(name);
        if !path.exists() {
            program.pin(&path).map_err(|e| pin_error(&path, &e))?;
            repaired.push(path);
        }
    }
    Ok(repaired)
}

/// The pins of maps and programs that are not there.
pub(super) fn missing_pins(paths: &Paths) -> Vec<PathBuf> {
    let maps = PINNED_MAPS.iter().map(|name| paths.map(name));
    let programs = PROGRAMS.iter().map(|name| paths.programs().join(name));
    maps.chain(programs).filter(|path| !path.exists()).collect()
}

fn unpin(path: &Path) -> Result<(), DatapathError> {
    gone_is_success(fs::remove_file(path)).map_err(|e| pin_error(path, &e))
}

fn pin_error(path: &Path, reason: &dyn std::fmt::Display) -> DatapathError {
    DatapathError::Pin { path: path.to_owned(), reason: reason.to_string() }
}

/// The program of this name, ready to be attached.
pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let missing = DatapathError::Missing(name);
    match ebpf.program_mut(name).map(TryInto::try_into) {
        Some(Ok(program)) => Ok(program),
        _ => Err(missing),
    }
}

/// The XDP program.
pub(super) fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    match ebpf.program_mut(program::XDP_UNDERLAY).map(TryInto::try_into) {
        Some(Ok(program)) => Ok(program),
        _ => Err(DatapathError::Missing(program::XDP_UNDERLAY)),
    }
}

fn check_kernel() -> Result<(), DatapathError> {
    if Btf::from_sys_fs().is_err() {
        return Err(DatapathError::NoBtf);
    }
    let has_tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
    if has_tcx { Ok(()) } else { Err(DatapathError::NoTcx) }
}

/// Value of aya-log's global. At 0 the verifier finds the logging code dead and takes it out.
fn log_level(log: BpfLog) -> u8 {
    match log {
        BpfLog::Off => 0,
        BpfLog::Info => Level::Info as u8,
        BpfLog::Debug => Level::Debug as u8,
    }
}

/// Loads programs side by side: the verifier takes a fifth of a second for the longest, in which names are not answered
/// when an agent is restarted.
fn load_programs(ebpf: &mut Ebpf, paths: &Paths, names: &[&'static str]) -> Result<(), DatapathError> {
    if let Some(missing) = names.iter().find(|name| ebpf.program(name).is_none()) {
        return Err(DatapathError::Missing(missing));
    }
    let wanted = ebpf.programs_mut().filter(|(name, _)| names.contains(name));
    thread::scope(|scope| {
        let loading: Vec<_> = wanted
            .map(|(name, program)| {
                scope.spawn(move || load_program(program).map_err(|e| program_error(name, &e, paths)))
            })
            .collect();
        let loaded = loading.into_iter().map(|thread| thread.join().expect("loading does not panic"));
        // Each thread is waited for, whatever became of the others.
        loaded.collect::<Vec<_>>().into_iter().collect()
    })
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Puts the programs in their places that others go on in. Programs of an earlier agent that uses the same maps go on in
/// these too, from now on.
fn set_tail_calls(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let name = map::TAIL_CALLS;
    let target = classifier(ebpf, program::FROM_ENDPOINT6)?.fd().and_then(|fd| Ok(fd.try_clone()?));
    let fail = |source| DatapathError::Map { operation: "write", map: name, source };
    let target = target.map_err(|e| DatapathError::Program {
        program: program::FROM_ENDPOINT6.to_owned(),
        reason: e.to_string(),
        log: PathBuf::new(),
    })?;
    let map = ebpf.map_mut(name).ok_or(DatapathError::Missing(name))?;
    let mut calls = ProgramArray::try_from(map).map_err(fail)?;
    calls.set(tail_call::FROM_ENDPOINT6, &target, 0).map_err(fail)
}

/// A verifier log has thousands of lines: all of it goes to a file, its end into the error.
fn program_error(program: &str, error: &ProgramError, paths: &Paths) -> DatapathError {
    let (reason, log) = match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            (io_error.to_string(), verifier_log.to_string())
        }
        other => (other.to_string(), String::new()),
    };
    let path: PathBuf = paths.run_dir.join(format!("verifier-{program}.log"));
    // The error itself matters more than a log that cannot be kept.
    let _ = fs::write(&path, &log);
    let tail: Vec<&str> = log.lines().rev().take(20).collect();
    let tail: String = tail.into_iter().rev().flat_map(|line| ["\n  ", line]).collect();
    DatapathError::Program { program: program.to_owned(), reason: reason + &tail, log: path }
}

fn create_map_dirs(paths: &Paths) -> Result<(), DatapathError> {
    create_dir(&paths.maps())?;
    create_dir(&paths.counters())
}

fn create_dir(path: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(path).map_err(|source| DatapathError::Bpffs { path: path.to_owned(), source })
}
