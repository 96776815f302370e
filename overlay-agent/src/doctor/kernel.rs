//! What of the kernel the data path stands on.

use std::{fs, path::Path};

use super::{Finding, Patient};
use crate::{datapath::bpffs, paths};

/// The first kernel with tcx (e420bed02507 "bpf: Add fd-based tcx multi-prog infra").
const OLDEST: (u32, u32) = (6, 6);
const RELEASE_FILE: &str = "/proc/sys/kernel/osrelease";
const BTF_FILE: &str = "/sys/kernel/btf/vmlinux";
const JIT_FILE: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Looks at the kernel.
pub(super) fn examine(patient: &Patient) -> Vec<Finding> {
    let release = fs::read_to_string(RELEASE_FILE).unwrap_or_default();
    let pins = patient.config.as_ref().map_or(Path::new(paths::BPFFS_DIR), |config| &config.paths.bpffs_dir);
    vec![
        privileges(nix::unistd::geteuid().is_root()),
        version(release.trim()),
        btf(Path::new(BTF_FILE).exists()),
        jit(fs::read_to_string(JIT_FILE).ok().as_deref().map(str::trim)),
        bpf_file_system(pins),
    ]
}

fn privileges(is_root: bool) -> Finding {
    if is_root {
        Finding::ok("privileges", "root: everything can be looked at")
    } else {
        Finding::note("privileges", "not root: rules, pins and hooks cannot be looked at", "run this as root")
    }
}

fn version(release: &str) -> Finding {
    let (major, minor) = OLDEST;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) if (a, b) >= OLDEST => Finding::ok("kernel", release),
        _ => Finding::wrong(
            "kernel",
            format!("{release}: tcx came with Linux {major}.{minor}"),
            format!(
                "install a kernel of {major}.{minor} or newer (Debian 12: from bookworm-backports) and reboot"
            ),
        ),
    }
}

fn btf(is_there: bool) -> Finding {
    if is_there {
        Finding::ok("BTF", BTF_FILE)
    } else {
        Finding::wrong(
            "BTF",
            format!("no {BTF_FILE}: the kernel does not tell its types"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are, and have /sys mounted",
        )
    }
}

/// The setting belongs to the first network namespace and is shown in no other.
fn jit(setting: Option<&str>) -> Finding {
    const FIX: &str = "sysctl -w net.core.bpf_jit_enable=1, and the same in /etc/sysctl.d/";
    match setting {
        Some("1") => Finding::ok("JIT", "on"),
        Some("2") => Finding::note("JIT", "on, and each program is written to the kernel's log", FIX),
        Some("0") => Finding::note("JIT", "off: programs are interpreted, several times slower", FIX),
        Some(other) => Finding::note("JIT", format!("bpf_jit_enable is {other:?}"), FIX),
        None => Finding::ok("JIT", "not shown in this network namespace; it is the whole machine's"),
    }
}

fn bpf_file_system(pins: &Path) -> Finding {
    let mount = format!("mount -t bpf bpf {}, or let the agent do it", bpffs::SYSTEM_BPFFS);
    match bpffs::holds(pins) {
        Ok(true) => Finding::ok("pins", format!("{} is on a BPF file system", pins.display())),
        Ok(false) if pins.starts_with(bpffs::SYSTEM_BPFFS) => {
            Finding::note("pins", format!("no BPF file system is mounted on {}", bpffs::SYSTEM_BPFFS), mount)
        }
        Ok(false) => Finding::note(
            "pins",
            format!("no BPF file system is mounted on {}", pins.display()),
            "the agent mounts one",
        ),
        Err(e) => {
            Finding::note("pins", format!("{} cannot be looked at: {e}", pins.display()), "run this as root")
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::doctor::Health;

    #[rstest]
    #[case("6.6.0", Health::Ok)]
    #[case("6.18.5-amd64", Health::Ok)]
    #[case("7.0-rc1", Health::Ok)]
    #[case("6.5.13", Health::Wrong)]
    #[case("6.1.0-28-amd64", Health::Wrong)]
    #[case("5.99.1", Health::Wrong)]
    #[case("", Health::Wrong)]
    fn a_kernel_without_tcx_is_too_old(#[case] release: &str, #[case] expected: Health) {
        assert_eq!(version(release).health, expected);
    }

    #[rstest]
    #[case(Some("1"), Health::Ok)]
    #[case(Some("0"), Health::Note)]
    #[case(Some("2"), Health::Note)]
    #[case(None, Health::Ok)]
    fn without_the_jit_programs_are_slow(#[case] setting: Option<&str>, #[case] expected: Health) {
        assert_eq!(jit(setting).health, expected);
    }

    #[test]
    fn whatever_is_not_well_comes_with_what_to_do() {
        let all = [privileges(false), version("5.10"), btf(false), jit(Some("0"))];
        assert!(all.iter().all(|finding| finding.health > Health::Ok && finding.fix.is_some()), "{all:?}");
        let well = [privileges(true), version("6.12"), btf(true), jit(Some("1"))];
        assert!(well.iter().all(|finding| finding.health == Health::Ok && finding.fix.is_none()), "{well:?}");
    }
}
