//! What a runtime says in the environment: the command, the container, and the arguments of its user.

use std::{collections::BTreeMap, ffi::OsString, fmt, net::IpAddr, path::PathBuf};

use overlay_common::mac::Mac;

use super::CniError;
use crate::{model::ForeignId, netlink};

const COMMAND: &str = "CNI_COMMAND";
const CONTAINER: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const IFNAME: &str = "CNI_IFNAME";
const ARGS: &str = "CNI_ARGS";
const PATH: &str = "CNI_PATH";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach a container.
    Del,
    /// See whether a container is attached as it was.
    Check,
    /// Detach what is none of these containers.
    Gc,
    /// Say whether a container could be attached.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Command {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    const fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &[CONTAINER, NETNS, IFNAME],
            Self::Del => &[CONTAINER, IFNAME],
            Self::Gc => &[PATH],
            Self::Status | Self::Version => &[],
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The variables; one that is empty counts as not set.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<&'static str, OsString>);

impl Environment {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let names = [COMMAND, CONTAINER, NETNS, IFNAME, ARGS, PATH];
        let set = names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        Self(set.filter(|(_, value)| !value.is_empty()).collect())
    }

    /// Whether no runtime called.
    #[must_use]
    pub fn is_by_hand(&self) -> bool {
        !self.0.contains_key(COMMAND)
    }

    /// The command, with all that it needs set.
    ///
    /// # Errors
    /// Code 4.
    pub fn command(&self) -> Result<Command, CniError> {
        let known = || Command::ALL.map(Command::name).join(", ");
        let named = self.text(COMMAND)?.ok_or_else(|| {
            CniError::environment(format!(
                "{COMMAND} is not set: a container runtime calls this program, with one of {} in it",
                known()
            ))
        })?;
        let command = Command::ALL
            .into_iter()
            .find(|command| command.name() == named)
            .ok_or_else(|| CniError::environment(format!("{COMMAND} {named:?} is not one of {}", known())))?;
        let missing: Vec<&str> =
            command.required().iter().copied().filter(|name| !self.0.contains_key(name)).collect();
        match missing.as_slice() {
            [] => Ok(command),
            missing => Err(CniError::environment(format!("{command} needs {}", missing.join(", ")))),
        }
    }

    /// The runtime's name for the container.
    ///
    /// # Errors
    /// Code 4.
    pub fn container(&self) -> Result<ForeignId, CniError> {
        let text = self.required_text(CONTAINER)?;
        foreign_id(text).map_err(|e| CniError::environment(format!("{CONTAINER} {e}")))
    }

    /// The interface in the container.
    ///
    /// # Errors
    /// Code 4.
    pub fn ifname(&self) -> Result<String, CniError> {
        let text = self.required_text(IFNAME)?;
        netlink::check_ifname(text).map_err(|e| CniError::environment(format!("{IFNAME}: {e}")))?;
        Ok(text.to_owned())
    }

    /// The container's namespace; a DEL may come without.
    #[must_use]
    pub fn netns(&self) -> Option<PathBuf> {
        self.0.get(NETNS).map(PathBuf::from)
    }

    /// The user's arguments.
    ///
    /// # Errors
    /// Code 4.
    pub fn args(&self) -> Result<Args, CniError> {
        self.text(ARGS)?.map_or_else(|| Ok(Args::default()), Args::parse)
    }

    fn required_text(&self, name: &'static str) -> Result<&str, CniError> {
        self.text(name)?.ok_or_else(|| CniError::environment(format!("{name} is not set")))
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, CniError> {
        let no_text = || CniError::environment(format!("{name} is no UTF-8"));
        self.0.get(name).map(|value| value.to_str().ok_or_else(no_text)).transpose()
    }
}

/// The grammar that the specification has for containers' and networks' names alike.
pub(super) fn foreign_id(text: &str) -> Result<ForeignId, String> {
    let mut bytes = text.bytes();
    let fits = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let id = fits.then(|| text.parse().ok()).flatten();
    id.ok_or_else(|| {
        format!("{text:?} is no name: it has 1 to 255 letters, digits, '_', '.' and '-', the first a letter or digit")
    })
}

/// `CNI_ARGS`: what the runtime's user wishes, `KEY=VALUE;KEY=VALUE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAME`: what people call the container. Podman sets it too.
    pub pod: Option<String>,
    /// `IP`: one, or one of each family with a comma between them.
    pub ips: Vec<IpAddr>,
    /// `MAC`.
    pub mac: Option<Mac>,
}

impl Args {
    fn parse(text: &str) -> Result<Self, CniError> {
        let (mut args, mut unknown, mut ignore_unknown) = (Self::default(), Vec::new(), false);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                CniError::environment(format!("{ARGS} has {pair:?}, which is no KEY=VALUE"))
            })?;
            let invalid = |what: &str| CniError::environment(format!("{ARGS}: {key} {value:?} is no {what}"));
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T");
                }
                "K8S_POD_NAME" => args.pod = Some(value.to_owned()).filter(|name| !name.is_empty()),
                "IP" => {
                    let ips = value.split(',').map(str::parse).collect::<Result<_, _>>();
                    args.ips = ips.map_err(|_| invalid("IP address"))?;
                }
                "MAC" => args.mac = Some(value.parse().map_err(|_| invalid("MAC address"))?),
                // Kubernetes and its like say of themselves what only some plugins want to know.
                key if key.starts_with("K8S_") => {}
                key => unknown.push(key),
            }
        }
        if unknown.is_empty() || ignore_unknown {
            return Ok(args);
        }
        Err(CniError::environment(format!(
            "{ARGS} has {}, which nobody here understands: leave it out, or add IgnoreUnknown=1",
            unknown.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn environment(of: &[(&'static str, &str)]) -> Environment {
        let set = of.iter().filter(|(_, value)| !value.is_empty());
        Environment(set.map(|(name, value)| (*name, OsString::from(value))).collect())
    }

    #[rstest]
    #[case(&[], "CNI_COMMAND is not set")]
    #[case(&[(COMMAND, "add")], "\"add\" is not one of ADD, DEL, CHECK, GC, STATUS, VERSION")]
    #[case(&[(COMMAND, "ADD"), (CONTAINER, "c1")], "ADD needs CNI_NETNS, CNI_IFNAME")]
    #[case(&[(COMMAND, "ADD"), (CONTAINER, "c1"), (NETNS, ""), (IFNAME, "eth0")], "ADD needs CNI_NETNS")]
    #[case(&[(COMMAND, "DEL"), (IFNAME, "eth0")], "DEL needs CNI_CONTAINERID")]
    #[case(&[(COMMAND, "GC")], "GC needs CNI_PATH")]
    fn what_is_missing_is_named(#[case] set: &[(&'static str, &str)], #[case] expected: &str) {
        let error = environment(set).command().unwrap_err();
        assert_eq!(error.code, 4);
        assert!(error.details.contains(expected), "{error:?}");
    }

    #[test]
    fn what_the_command_does_not_need_may_be_missing() {
        let del = environment(&[(COMMAND, "DEL"), (CONTAINER, "c1"), (IFNAME, "eth0")]);
        assert_eq!(del.command(), Ok(Command::Del));
        assert_eq!(del.netns(), None);
        assert_eq!(environment(&[(COMMAND, "STATUS")]).command(), Ok(Command::Status));
        assert_eq!(environment(&[(COMMAND, "VERSION")]).command(), Ok(Command::Version));
    }

    #[rstest]
    #[case(CONTAINER, "../x")]
    #[case(CONTAINER, "-x")]
    #[case(IFNAME, "a/b")]
    #[case(IFNAME, "sixteen-bytes-xx")]
    fn a_name_that_cannot_be_is_refused_with_the_variable(#[case] name: &'static str, #[case] value: &str) {
        let environment = environment(&[(name, value)]);
        let error = match name {
            CONTAINER => environment.container().unwrap_err(),
            _ => environment.ifname().unwrap_err(),
        };
        assert_eq!(error.code, 4);
        assert!(error.details.contains(name), "{error:?}");
    }

    #[test]
    fn arguments_of_kubernetes_are_tolerated_and_others_only_if_asked_to() {
        let args = |text: &str| environment(&[(ARGS, text)]).args();
        let kubernetes = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=1";
        assert_eq!(args(kubernetes).unwrap().pod.as_deref(), Some("web"));
        let all = args("IP=10.0.0.9,fd00::9;MAC=02:42:00:00:00:09").unwrap();
        assert_eq!(
            (all.ips, all.mac),
            (vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()], "02:42:00:00:00:09".parse().ok())
        );
        assert_eq!(args("IgnoreUnknown=1;FOO=x"), Ok(Args::default()));
        for (bad, expected) in [("FOO=x", "FOO"), ("IP", "no KEY=VALUE"), ("IP=ten", "no IP address")] {
            let error = args(bad).unwrap_err();
            assert_eq!(error.code, 4);
            assert!(error.details.contains(expected), "{error:?}");
        }
    }
}
