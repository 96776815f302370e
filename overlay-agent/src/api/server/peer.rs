//! Who may ask: root, the agent's own user, and members of the socket's group.
//!
//! The socket's mode says the same to the kernel, which checks it on `connect`. This check holds where
//! the mode does not: for a moment after the socket was made, and when somebody loosened it.

use std::{fs, io, os::unix::fs::MetadataExt};

use tokio::net::{UnixListener, UnixStream, unix::UCred};

const ROOT: u32 = 0;

/// Who may ask.
pub(super) struct Access {
    pub(super) users: [u32; 2],
    pub(super) group: u32,
}

impl Access {
    /// The rule for a listener that has a path.
    pub(super) fn of_socket(listener: &UnixListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let path = address.as_pathname().ok_or_else(|| io::Error::other("the API socket has no path"))?;
        let group = fs::metadata(path)?.gid();
        Ok(Self { users: [ROOT, nix::unistd::geteuid().as_raw()], group })
    }

    /// Whether the process that connected may ask.
    pub(super) fn admits(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| self.admits_peer(&Peer::from(peer)))
    }

    fn admits_peer(&self, peer: &Peer) -> bool {
        self.users.contains(&peer.user)
            || peer.group == self.group
            || peer.process.is_some_and(|process| supplementary_groups(process).contains(&self.group))
    }
}

/// A process that connected, as it was then.
struct Peer {
    user: u32,
    group: u32,
    process: Option<i32>,
}

impl From<UCred> for Peer {
    fn from(cred: UCred) -> Self {
        Self { user: cred.uid(), group: cred.gid(), process: cred.pid() }
    }
}

/// From `/proc` and not from the group database: groups given to a service or a container are only here.
fn supplementary_groups(process: i32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::process::Command;

    const ACCESS: Access = Access { users: [0, 990], group: 991 };

    #[rstest]
    #[case::root(0, 0, true)]
    #[case::the_agents_user(990, 5, true)]
    #[case::the_sockets_group(1000, 991, true)]
    #[case::somebody_else(1000, 1000, false)]
    #[case::root_group_is_no_key(1000, 0, false)]
    fn root_the_agents_user_and_the_sockets_group_may_ask(
        #[case] user: u32,
        #[case] group: u32,
        #[case] admitted: bool,
    ) {
        assert_eq!(ACCESS.admits_peer(&Peer { user, group, process: None }), admitted);
    }

    /// Gives a process a supplementary group, which only root can.
    #[test]
    fn a_supplementary_group_counts() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can give a process another group");
            return;
        }
        let mut child = Command::new("setpriv")
            .args(["--reuid", "1000", "--regid", "1000", "--groups", "5,991", "sleep", "60"])
            .spawn()
            .unwrap();
        let process = i32::try_from(child.id()).unwrap();
        while fs::read_to_string(format!("/proc/{process}/comm")).unwrap().trim() != "sleep" {
            std::thread::yield_now();
        }
        let groups = supplementary_groups(process);
        let admitted = ACCESS.admits_peer(&Peer { user: 1000, group: 1000, process: Some(process) });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(groups, [5, 991]);
        assert!(admitted);
    }
}
