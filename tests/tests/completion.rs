//! What shells offer: bash, fish and zsh themselves, each with the file that the package brings for it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use overlay_tests::{
    container::Container,
    exec::{self, Finished},
    host::{CLI, Host, binary},
    topology::{Cluster, Plan},
    workdir::WorkDir,
};
use serde_json::Value;
use xtask::unpacked::SHELLS;

/// What bash's programmable completion calls: the function that stands for the command, on the words of a line.
const BASH: &str = r#"
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
spec=$(complete -p overlay); function=${spec##* -F }
"${function% overlay}" overlay "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

const FISH: &str = "source $argv[1]; complete --do-complete $argv[2]";

/// Another zsh, on a terminal of its own, gets a line with a tab behind it. `$1` is that zsh, `$2` the line, `$3` a
/// pattern of what has to be on its screen then.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell "$1 -i"
zpty -r shell screen '*READY>*'
zpty -n -w shell "$2"$'\t'
zpty -r shell screen "$3"
print -r -- "$screen"
"#;

fn completions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/completions")
}

/// Runs a shell on whose path the command line is, and which finds an agent on this socket, if anywhere.
#[track_caller]
fn run(shell: &mut Command, socket: &Path) -> Finished {
    let dir = binary(CLI).parent().expect("a directory").display().to_string();
    let path = env::var("PATH").expect("a path");
    exec::finish(shell.env("PATH", format!("{dir}:{path}")).env("OVERLAY_SOCKET", socket))
}

fn bash(socket: &Path, words: &[&str]) -> Finished {
    let file = completions().join("overlay.bash").display().to_string();
    let script = ["bash", "--norc", "-c", BASH, "bash", &file];
    run(&mut exec::command(script.iter().chain(words)), socket)
}

/// A shell that is not installed, with a deadline.
fn unpacked(path: &str) -> Command {
    let shell = SHELLS.program(path).expect("a shell");
    let mut command = exec::command([shell.get_program()]);
    command.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn fish(socket: &Path, words: &[&str]) -> Finished {
    let mut fish = unpacked("usr/bin/fish");
    let file = completions().join("overlay.fish");
    fish.args(["--no-config", "--command", FISH]).arg(file).arg(words.join(" "));
    run(&mut fish, socket)
}

/// The first words of the lines that a shell printed, options left out.
#[track_caller]
fn offered(finished: Finished) -> BTreeSet<String> {
    assert!(finished.stderr.is_empty(), "{finished}");
    let text = finished.expect_success();
    let first = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    text.lines().map(first).filter(|word| !word.is_empty() && !word.starts_with('-')).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Two networks with an endpoint in each, and a rule between them.
struct Offers {
    cluster: Cluster,
    rule: String,
    _containers: [Container; 2],
}

impl Offers {
    #[track_caller]
    fn new() -> Self {
        let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
        for name in ["net1", "net2"] {
            cluster.network(name, &[]);
        }
        let host = &cluster.hosts[0];
        let containers =
            [Container::attached(host, "net1", "web"), Container::attached(host, "net2", "base")];
        host.overlay(&["policy", "allow", "net1", "net2", "--proto", "tcp", "--port", "80"]);
        let rules: Vec<Value> = host.json(&["policy", "ls"]);
        let rule = rules[0]["id"].as_str().expect("an id").to_owned();
        Self { cluster, rule, _containers: containers }
    }

    fn host(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    /// Lines, and all that may be offered for the last word of each.
    fn cases(&self) -> Vec<(Vec<&'static str>, BTreeSet<String>)> {
        vec![
            (vec!["overlay", "netw"], set(&["network"])),
            (vec!["overlay", "network", "inspect", "n"], set(&["net1", "net2"])),
            (vec!["overlay", "detach", "net1", "--name", "w"], set(&["web"])),
            // Of the network on the line alone.
            (vec!["overlay", "detach", "net1", "--name", "b"], set(&[])),
            (vec!["overlay", "endpoint", "inspect", "b"], set(&["base"])),
            (vec!["overlay", "policy", "deny", "net1", "net"], set(&["net1", "net2"])),
            (vec!["overlay", "policy", "rm", ""], set(&[&self.rule])),
            (vec!["overlay", "node", "drain", "h"], set(&["host1"])),
            (vec!["overlay", "map", "dump", "fd"], set(&["fdb"])),
        ]
    }
}

#[test]
fn bash_and_fish_offer_the_names_that_there_are_now() {
    let offers = Offers::new();
    let socket = offers.host().socket();
    for (words, expected) in offers.cases() {
        assert_eq!(offered(bash(&socket, &words)), expected, "bash, {words:?}");
        assert_eq!(offered(fish(&socket, &words)), expected, "fish, {words:?}");
    }
    offers.host().create_network("net3", &[]);
    let words = ["overlay", "network", "rm", "net"];
    assert_eq!(offered(bash(&socket, &words)), set(&["net1", "net2", "net3"]));
}

#[test]
fn zsh_offers_the_names_that_there_are_now() {
    let offers = Offers::new();
    let root = SHELLS.ensure().expect("the shells");
    let dir = WorkDir::new("zsh");
    let functions = root.join("usr/share/zsh/functions").display().to_string();
    let settings = format!(
        "setopt no_global_rcs\nmodule_path=({modules}/*(N))\nfpath=({own} {functions}/Completion{{,/Base,/Zsh,/Unix}} {functions}/Misc)\n\
         if [[ -o interactive ]]; then autoload -Uz compinit; compinit -u -D; PS1='READY>'; fi\n",
        modules = root.join(format!("usr/lib/{}-linux-gnu/zsh", env::consts::ARCH)).display(),
        own = completions().display(),
    );
    fs::write(dir.path().join(".zshenv"), settings).expect("write zsh's settings");
    for (line, shown) in [("network rm ", "*net1*--*net2*--*"), ("detach net1 --name w", "*--name web*")] {
        let mut zsh = unpacked("bin/zsh");
        zsh.args(["-c", ZSH, "zsh"]).arg(root.join("bin/zsh")).arg(format!("overlay {line}")).arg(shown);
        let finished = run(zsh.env("ZDOTDIR", dir.path()).env("TERM", "dumb"), &offers.host().socket());
        assert!(finished.is_success() && !finished.stdout.is_empty(), "{finished}");
    }
}

#[test]
fn where_no_agent_answers_only_what_the_program_knows_is_offered_and_nothing_is_said() {
    let nobody = Path::new("/nonexistent/overlay.sock");
    for shell in [bash, fish] {
        assert_eq!(offered(shell(nobody, &["overlay", "network", "inspect", "n"])), set(&[]));
        assert_eq!(offered(shell(nobody, &["overlay", "node", "dr"])), set(&["drain"]));
    }
}
