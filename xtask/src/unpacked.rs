//! Debian packages unpacked below `target/tools` and not installed: for servers that would otherwise be started
//! by their package, and for programs that would change the machine by being there.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{layout, process, progress};

/// The keys of Debian's archives, of all suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Docker's engine with everything of its that it runs, and the smallest image there is. The C library and what every
/// Debian has come from the system.
pub const DOCKER: Tree = Tree {
    name: "docker",
    suite: None,
    packages: &[
        "docker.io",
        "containerd",
        "runc",
        "iptables",
        "libip4tc2",
        "libip6tc2",
        "libxtables12",
        "libdevmapper1.02.1",
        "busybox-static",
    ],
    links: &[
        ("legacy-iptables/iptables", "../usr/sbin/xtables-legacy-multi"),
        ("legacy-iptables/ip6tables", "../usr/sbin/xtables-legacy-multi"),
    ],
};

/// The plugins of the CNI project, and the packet filter's tool that one of them calls.
pub const CNI_PLUGINS: Tree = Tree {
    name: "cni-plugins",
    suite: None,
    packages: &["containernetworking-plugins", "iptables", "libip4tc2", "libip6tc2", "libxtables12"],
    links: &[
        ("legacy-iptables/iptables", "../usr/sbin/xtables-legacy-multi"),
        ("legacy-iptables/ip6tables", "../usr/sbin/xtables-legacy-multi"),
    ],
};

/// Podman with everything of its that it runs, and an image's one program.
pub const PODMAN: Tree = Tree {
    name: "podman",
    suite: None,
    packages: &[
        "podman",
        "conmon",
        "runc",
        "crun",
        "containernetworking-plugins",
        "golang-github-containers-common",
        "libassuan0",
        "libdevmapper1.02.1",
        "libgpgme11",
        "libseccomp2",
        "libsubid4",
        "libyajl2",
        "busybox-static",
    ],
    links: &[],
};

/// docker-compose with the Python libraries that it needs; Python itself comes from the system.
pub const DOCKER_COMPOSE: Tree = Tree {
    name: "docker-compose",
    suite: None,
    packages: &[
        "docker-compose",
        "python3-attr",
        "python3-certifi",
        "python3-chardet",
        "python3-charset-normalizer",
        "python3-distro",
        "python3-distutils",
        "python3-docker",
        "python3-dockerpty",
        "python3-docopt",
        "python3-dotenv",
        "python3-idna",
        "python3-jsonschema",
        "python3-packaging",
        "python3-pkg-resources",
        "python3-pyrsistent",
        "python3-requests",
        "python3-six",
        "python3-texttable",
        "python3-urllib3",
        "python3-websocket",
        "python3-yaml",
    ],
    links: &[],
};

/// Consul's server, which Debian had last in its release 11.
pub const CONSUL: Tree = Tree { name: "consul", suite: Some("bullseye"), packages: &["consul"], links: &[] };

/// etcd's server and `etcdctl`.
pub const ETCD: Tree =
    Tree { name: "etcd", suite: None, packages: &["etcd-server", "etcd-client"], links: &[] };

/// ZooKeeper's server and the libraries that it needs; Java comes from the system.
pub const ZOOKEEPER: Tree = Tree {
    name: "zookeeper",
    suite: None,
    packages: &[
        "libzookeeper-java",
        "libslf4j-java",
        "libcommons-cli-java",
        "libdropwizard-metrics-java",
        "libnetty-java",
        "libsnappy-java",
    ],
    links: &[],
};

/// Servers that people run in containers, with their clients.
pub const REDIS: Tree = Tree {
    name: "redis",
    suite: None,
    packages: &["redis-server", "redis-tools", "liblzf1", "libjemalloc2"],
    links: &[],
};

/// PostgreSQL with pgbench, and of its libraries those that not every Debian has.
pub const POSTGRES: Tree = Tree {
    name: "postgres",
    suite: None,
    packages: &[
        "postgresql-15",
        "postgresql-client-15",
        "libpq5",
        "libgssapi-krb5-2",
        "libicu72",
        "libk5crypto3",
        "libkeyutils1",
        "libkrb5-3",
        "libkrb5support0",
        "libldap-2.5-0",
        "libsasl2-2",
        "libxml2",
        "libxslt1.1",
    ],
    links: &[],
};

/// nginx, and wrk to load it.
pub const NGINX: Tree = Tree {
    name: "nginx",
    suite: None,
    packages: &["nginx", "nginx-common", "wrk", "libluajit-5.1-2", "libluajit-5.1-common"],
    links: &[],
};

/// tshark, which reads our packets as others do, and of its libraries those that not every Debian has.
pub const TSHARK: Tree = Tree {
    name: "tshark",
    suite: None,
    packages: &[
        "tshark",
        "libwireshark16",
        "libwiretap13",
        "libwsutil14",
        "libbcg729-0",
        "libc-ares2",
        "libglib2.0-0",
        "libgnutls30",
        "libk5crypto3",
        "libkrb5-3",
        "libkrb5support0",
        "libkeyutils1",
        "liblua5.2-0",
        "libmaxminddb0",
        "libnl-3-200",
        "libnl-genl-3-200",
        "libpcap0.8",
        "libsbc1",
        "libsmi2ldbl",
        "libsnappy1v5",
        "libspandsp2",
        "libspeexdsp1",
        "libssh-gcrypt-4",
        "libxml2",
        "libicu72",
    ],
    links: &[],
};

/// The shells beside bash whose completions we bring.
pub const SHELLS: Tree = Tree {
    name: "shells",
    suite: None,
    packages: &["fish", "fish-common", "libpcre2-32-0", "zsh", "zsh-common"],
    links: &[],
};

/// Packages that are unpacked together.
#[derive(Debug)]
pub struct Tree {
    name: &'static str,
    /// The Debian suite that has them, if not the system's own.
    suite: Option<&'static str>,
    packages: &'static [&'static str],
    /// What an installation's alternatives would set: a path in the tree, and where it leads.
    links: &'static [(&'static str, &'static str)],
}

impl Tree {
    /// The tree; downloaded and unpacked where it is not there yet.
    pub fn ensure(&self) -> Result<PathBuf> {
        let root = layout::tools().join(self.name);
        if root.is_dir() {
            return Ok(root);
        }
        let new = root.with_extension("new");
        remake(&new)?;
        self.unpack(&new)?;
        fs::rename(&new, &root)
            .with_context(|| format!("cannot put {} in its place", layout::shown(&root)))?;
        Ok(root)
    }

    /// A program of the tree, in this directory of it, with the tree's libraries before the system's.
    ///
    /// # Errors
    /// If the tree cannot be had.
    pub fn program(&self, path: &str) -> Result<Command> {
        let root = self.ensure()?;
        let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let mut command = Command::new(root.join(path));
        command.env("LD_LIBRARY_PATH", libraries);
        Ok(command)
    }

    fn unpack(&self, root: &Path) -> Result<()> {
        let archives = root.with_extension("archives");
        remake(&archives)?;
        self.download(&archives)?;
        for archive in fs::read_dir(&archives)? {
            process::run(Command::new("dpkg-deb").arg("--extract").arg(archive?.path()).arg(root))?;
        }
        for (path, leads_to) in self.links {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap_or(root))?;
            symlink(leads_to, &path).with_context(|| format!("cannot make {}", layout::shown(&path)))?;
        }
        for used in [archives.with_extension("apt"), archives] {
            if used.exists() {
                fs::remove_dir_all(&used).context("cannot remove the packages after unpacking")?;
            }
        }
        Ok(())
    }

    fn download(&self, archives: &Path) -> Result<()> {
        ensure!(
            process::find_program("apt-get").is_some(),
            "this system has no apt-get to download {} with",
            self.packages.join(" ")
        );
        let apt = Apt::of_suite(self.suite, archives)?;
        apt.get("reading Debian's package lists", &["update"])?;
        let what = format!("downloading {}", self.packages.join(" "));
        apt.get(&what, &[&["download"][..], self.packages].concat())
    }
}

/// apt, on the machine's own package sources or, for another suite, on private ones beside the archives: the
/// machine's stay as they are.
struct Apt<'a> {
    archives: &'a Path,
    options: Vec<String>,
}

impl<'a> Apt<'a> {
    fn of_suite(suite: Option<&str>, archives: &'a Path) -> Result<Self> {
        // Root downloads, as the unprivileged user of apt may not enter the build tree.
        let mut options = vec!["APT::Sandbox::User=root".to_owned()];
        if let Some(suite) = suite {
            let private = archives.with_extension("apt");
            remake(&private)?;
            for of_apt in ["lists/partial", "cache/archives/partial"] {
                remake(&private.join(of_apt))?;
            }
            let sources = private.join("sources.list");
            let line = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror());
            fs::write(&sources, line).with_context(|| format!("cannot write {}", layout::shown(&sources)))?;
            let private = private.display();
            options.extend([
                format!("Dir::Etc::sourcelist={}", sources.display()),
                "Dir::Etc::sourceparts=/dev/null".to_owned(),
                format!("Dir::State::Lists={private}/lists"),
                format!("Dir::Cache={private}/cache"),
            ]);
        }
        Ok(Self { archives, options })
    }

    fn get(&self, what: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("apt-get");
        command.args(self.options.iter().flat_map(|option| ["-o", option])).args(arguments);
        let outcome = progress::run(what, command.current_dir(self.archives))?;
        layout::append_to_setup_log(&outcome.output)?;
        if !outcome.status.success() {
            let reason = outcome.output.lines().rev().find(|line| line.starts_with("E:"));
            bail!("{what} failed ({})", reason.unwrap_or("no reason given"));
        }
        Ok(())
    }
}

/// Where this machine has Debian from.
fn mirror() -> String {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let known = process::output(&mut targets).unwrap_or_default();
    known.lines().find(|uri| uri.ends_with("/debian/")).unwrap_or("http://deb.debian.org/debian/").to_owned()
}

/// An empty directory, whatever was there.
fn remake(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot empty {}", layout::shown(directory)))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", layout::shown(directory)))
}
