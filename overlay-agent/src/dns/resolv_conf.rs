//! `/etc/netns/NAME/resolv.conf`: what `ip netns exec` shows the programs of a named namespace instead of the
//! host's file (ip-netns(8)).
//!
//! A file of ours says in its first line which agent wrote it. Other people's files stay as they are.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::{
    model::{Cluster, Endpoint, Name},
    paths,
};

const FILE: &str = "resolv.conf";
/// Options for containers: a name without a dot is asked for as it is.
pub const OPTIONS: [&str; 1] = ["ndots:0"];

/// The resolver of each named namespace.
pub type Resolvers = BTreeMap<String, Ipv4Addr>;

/// What the named namespaces with endpoints of a node should have: the gateway of their first interface.
#[must_use]
pub fn wanted(cluster: &Cluster, node: &Name) -> Resolvers {
    let local = cluster.endpoints.values().map(|e| &e.record).filter(|e| e.node == *node);
    let mut firsts: BTreeMap<&str, &Endpoint> = BTreeMap::new();
    for endpoint in local {
        if let Some(name) = named(&endpoint.netns) {
            let first = firsts.entry(name).or_insert(endpoint);
            if endpoint.ifname < first.ifname {
                *first = endpoint;
            }
        }
    }
    let gateway = |e: &Endpoint| Some(cluster.networks.get(&e.network)?.record.gateway);
    firsts.into_iter().filter_map(|(name, e)| Some((name.to_owned(), gateway(e)?))).collect()
}

/// The name of a namespace that has one.
fn named(netns: &str) -> Option<&str> {
    let name = Path::new(netns).strip_prefix(paths::NETNS_DIR).ok()?.to_str()?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The files of one agent.
pub struct Files {
    dir: PathBuf,
    first_line: String,
    /// What was written last; absent if it has to be looked at.
    written: Option<Resolvers>,
}

impl Files {
    /// The files in this directory of the agent with this run directory.
    #[must_use]
    pub fn new(dir: &Path, run_dir: &Path) -> Self {
        let first_line = format!("# of the overlay-agent at {}; removed at detach", run_dir.display());
        Self { dir: dir.to_owned(), first_line, written: None }
    }

    /// Has the next [`Files::settle`] look at every file.
    pub fn distrust(&mut self) {
        self.written = None;
    }

    /// Writes what is wanted and removes what is not.
    ///
    /// # Errors
    /// The first failure; the rest is done, and the next call tries again.
    pub fn settle(&mut self, wanted: Resolvers) -> io::Result<()> {
        if self.written.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let mut result = Ok(());
        for name in self.ours() {
            if !wanted.contains_key(&name) {
                result = result.and(self.remove(&name));
            }
        }
        for (name, resolver) in &wanted {
            result = result.and(self.write(name, *resolver));
        }
        self.written = result.is_ok().then_some(wanted);
        result
    }

    /// Names of the namespaces that have a file of ours.
    fn ours(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| self.content(name).is_some_and(|text| self.is_ours(&text))).collect()
    }

    fn is_ours(&self, text: &str) -> bool {
        text.lines().next() == Some(&self.first_line)
    }

    fn content(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(name).join(FILE)).ok()
    }

    fn write(&self, name: &str, resolver: Ipv4Addr) -> io::Result<()> {
        let text = format!("{}\nnameserver {resolver}\noptions {}\n", self.first_line, OPTIONS.join(" "));
        match self.content(name) {
            Some(there) if there == text => return Ok(()),
            Some(there) if !self.is_ours(&there) => {
                tracing::warn!(
                    namespace = name,
                    "its resolv.conf is not ours and stays; the resolver is {resolver}"
                );
                return Ok(());
            }
            _ => {}
        }
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(FILE), text)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let dir = self.dir.join(name);
        fs::remove_file(dir.join(FILE))?;
        // Other people's files in it keep it.
        let _ = fs::remove_dir(dir);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolvers(of: &[(&str, u8)]) -> Resolvers {
        of.iter().map(|(name, net)| ((*name).to_owned(), Ipv4Addr::new(10, 0, *net, 1))).collect()
    }

    #[test]
    fn files_come_change_and_go_and_their_directories_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(dir.path(), Path::new("/run/overlay"));
        files.settle(resolvers(&[("web", 0), ("db", 1)])).unwrap();
        let web = dir.path().join("web/resolv.conf");
        let text = fs::read_to_string(&web).unwrap();
        assert!(text.ends_with("\nnameserver 10.0.0.1\noptions ndots:0\n"), "{text}");
        files.settle(resolvers(&[("web", 2)])).unwrap();
        assert!(fs::read_to_string(&web).unwrap().contains("nameserver 10.0.2.1\n"));
        assert!(!dir.path().join("db").exists());
        files.settle(Resolvers::new()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_agent_left_is_taken_over_and_what_somebody_removed_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let new = || Files::new(dir.path(), Path::new("/run/overlay"));
        new().settle(resolvers(&[("web", 0), ("db", 0)])).unwrap();
        let mut files = new();
        files.settle(resolvers(&[("web", 0)])).unwrap();
        assert!(!dir.path().join("db").exists());
        fs::remove_file(dir.path().join("web/resolv.conf")).unwrap();
        files.distrust();
        files.settle(resolvers(&[("web", 0)])).unwrap();
        assert!(dir.path().join("web/resolv.conf").exists());
    }

    #[test]
    fn files_of_others_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("web")).unwrap();
        fs::write(dir.path().join("web/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        Files::new(dir.path(), Path::new("/run/other")).settle(resolvers(&[("db", 0)])).unwrap();
        let mut files = Files::new(dir.path(), Path::new("/run/overlay"));
        files.settle(resolvers(&[("web", 0)])).unwrap();
        files.settle(Resolvers::new()).unwrap();
        let text = fs::read_to_string(dir.path().join("web/resolv.conf")).unwrap();
        assert_eq!(text, "nameserver 192.0.2.1\n");
        assert!(dir.path().join("db/resolv.conf").exists(), "another agent's");
    }

    #[test]
    fn only_names_below_the_directory_of_namespaces_are_names() {
        assert_eq!(named("/run/netns/web"), Some("web"));
        for other in ["/run/netns/", "/run/netns/a/b", "/proc/7/ns/net", "web"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
