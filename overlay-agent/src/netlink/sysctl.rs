//! IPv4 settings of a device, or of `all`: `/proc/sys/net` is that of the thread's namespace, wherever `/proc` was mounted.

use std::{fs, io};

use super::{NetlinkError, check_ifname};

/// Stands for the namespace's own switch, which the kernel copies to every device when it is thrown.
pub const ALL: &str = "all";

/// Whether a setting of a device is on.
///
/// # Errors
/// If it cannot be read.
pub fn ipv4_is_on(ifname: &str, setting: &'static str) -> Result<bool, NetlinkError> {
    let path = path(ifname, setting)?;
    let value = fs::read_to_string(&path).map_err(|source| NetlinkError::Sysctl { path, source })?;
    Ok(value.trim() != "0")
}

/// Turns a setting of a device on or off. Returns whether that changed anything; a device that is gone needs nothing.
///
/// # Errors
/// If it cannot be read or written.
pub fn set_ipv4(ifname: &str, setting: &'static str, on: bool) -> Result<bool, NetlinkError> {
    match ipv4_is_on(ifname, setting) {
        Ok(is_on) if is_on == on => Ok(false),
        Err(NetlinkError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Ok(_) => {
            let path = path(ifname, setting)?;
            let written = fs::write(&path, if on { "1" } else { "0" });
            written.map_err(|source| NetlinkError::Sysctl { path, source }).map(|()| true)
        }
        Err(e) => Err(e),
    }
}

/// The name becomes part of a path.
fn path(ifname: &str, setting: &str) -> Result<String, NetlinkError> {
    if ifname != ALL {
        check_ifname(ifname)?;
    }
    Ok(format!("/proc/sys/net/ipv4/conf/{ifname}/{setting}"))
}
