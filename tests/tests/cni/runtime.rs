//! A container runtime, as far as a CNI plugin gets to see it: environment, configuration, results.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use overlay_tests::{
    exec::{self, Finished},
    host::{Host, binary},
    netns::Netns,
};
use serde_json::{Value, json};

/// The plugin.
pub const PLUGIN: &str = "overlay-cni";
/// The interface that most containers get.
pub const IFNAME: &str = "eth0";

/// A container before it has a network: an id, and a namespace.
pub struct Sandbox {
    pub id: String,
    pub netns: Netns,
}

impl Sandbox {
    #[track_caller]
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), netns: Netns::new(id) }
    }

    pub fn path(&self) -> String {
        self.netns.path().display().to_string()
    }

    /// What a runtime says of it.
    pub fn variables(&self, ifname: &str) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_CONTAINERID", self.id.clone()),
            ("CNI_NETNS", self.path()),
            ("CNI_IFNAME", ifname.to_owned()),
        ]
    }
}

/// What a plugin left behind.
#[derive(Debug)]
pub struct Answer {
    finished: Finished,
    /// `cniVersion` that was asked for.
    version: Value,
}

impl Answer {
    /// What it printed, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> Value {
        let printed = self.finished.expect_success();
        if printed.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{printed:?} is no JSON: {e}"))
    }

    /// The number of its error, whose sentence says this.
    #[track_caller]
    pub fn expect_error(self, code: u64, sentence: &str) {
        let error = self.error();
        assert_eq!(error["code"], code, "{error}");
        let details = error["details"].as_str().unwrap_or_default();
        assert!(details.contains(sentence), "{error} does not say {sentence:?}");
    }

    /// Its error, in the shape of the specification.
    #[track_caller]
    pub fn error(self) -> Value {
        assert!(self.finished.code.is_some_and(|code| code != 0), "no error: {}", self.finished);
        let error: Value = serde_json::from_str(&self.finished.stdout)
            .unwrap_or_else(|e| panic!("no error as JSON ({e}): {}", self.finished));
        assert_eq!(error["cniVersion"], self.version, "{error}");
        for text in ["msg", "details"] {
            assert!(error[text].as_str().is_some_and(|text| !text.is_empty()), "{error} has no {text}");
        }
        error
    }
}

/// A CNI network on a host: its part of a conflist.
pub struct Network<'a> {
    pub host: &'a Host,
    pub config: Value,
    program: PathBuf,
}

impl<'a> Network<'a> {
    /// A network of the plugin's.
    pub fn new(host: &'a Host, name: &str) -> Self {
        let config = json!({
            "cniVersion": "1.1.0", "name": name, "type": PLUGIN, "socket": host.socket().display().to_string()
        });
        Self { host, config, program: binary(PLUGIN) }
    }

    /// The same with more in its configuration, or other values.
    pub fn with(&self, more: &Value) -> Self {
        let mut config = self.config.clone();
        for (key, value) in more.as_object().expect("an object") {
            config[key] = value.clone();
        }
        Self { host: self.host, config, program: self.program.clone() }
    }

    /// The same network, and another plugin of its chain.
    pub fn plugin(&self, program: &Path, config: &Value) -> Self {
        let mut config = config.clone();
        for key in ["cniVersion", "name"] {
            config[key] = self.config[key].clone();
        }
        Self { host: self.host, config, program: program.to_owned() }
    }

    /// Runs the plugin, whatever comes of it.
    #[track_caller]
    pub fn call(&self, command: &str, variables: &[(&str, String)]) -> Answer {
        let mut call = self.command(command, variables);
        let finished = exec::finish_with(&mut call, self.config.to_string().as_bytes());
        Answer { finished, version: self.config["cniVersion"].clone() }
    }

    /// Runs the plugin with this on standard input.
    #[track_caller]
    pub fn call_with_input(&self, command: &str, variables: &[(&str, String)], input: &[u8]) -> Answer {
        let version = serde_json::from_slice::<Value>(input).ok().and_then(|v| v.get("cniVersion").cloned());
        let version = version.filter(Value::is_string).unwrap_or_else(|| "1.1.0".into());
        Answer { finished: exec::finish_with(&mut self.command(command, variables), input), version }
    }

    /// Starts the plugin and does not wait for it.
    #[track_caller]
    pub fn start(&self, command: &str, variables: &[(&str, String)]) -> Child {
        // No `timeout` before it: it is killed by its own number.
        let [nsenter, netns] = self.host.netns().entry();
        let mut call = Command::new(nsenter);
        call.arg(netns).arg(&self.program).env("CNI_COMMAND", command).envs(variables.iter().cloned());
        let mut child =
            call.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start it");
        let mut stdin = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, self.config.to_string().as_bytes()).expect("write to it");
        child
    }

    pub fn command(&self, command: &str, variables: &[(&str, String)]) -> Command {
        let program = self.program.display().to_string();
        let mut call = self.host.netns().command(&[&program]);
        let dir = self.program.parent().map(Path::as_os_str).unwrap_or_default();
        call.env("CNI_COMMAND", command).env("CNI_PATH", dir).envs(variables.iter().cloned());
        call
    }

    #[track_caller]
    pub fn add(&self, sandbox: &Sandbox) -> Answer {
        self.call("ADD", &sandbox.variables(IFNAME))
    }

    #[track_caller]
    pub fn del(&self, sandbox: &Sandbox) -> Answer {
        self.call("DEL", &sandbox.variables(IFNAME))
    }

    #[track_caller]
    pub fn check(&self, sandbox: &Sandbox, result: &Value) -> Answer {
        self.with(&json!({"prevResult": result})).call("CHECK", &sandbox.variables(IFNAME))
    }

    #[track_caller]
    pub fn gc(&self, valid: &[&Sandbox]) -> Answer {
        let valid: Vec<Value> =
            valid.iter().map(|valid| json!({"containerID": valid.id, "ifname": IFNAME})).collect();
        self.with(&json!({"cni.dev/valid-attachments": valid})).call("GC", &[])
    }

    #[track_caller]
    pub fn status(&self) -> Answer {
        self.call("STATUS", &[])
    }
}

/// The first address of a result, without the length of its prefix.
#[track_caller]
pub fn address(result: &Value) -> std::net::Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("no address in {result}"));
    text.split('/').next().and_then(|ip| ip.parse().ok()).unwrap_or_else(|| panic!("{text:?} is no address"))
}
