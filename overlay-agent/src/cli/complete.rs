//! What a shell offers where a name is expected: the names that there are, asked of the agent.
//!
//! A shell waits for this, and shows what is written: so nothing is offered, and nothing said, where no agent answers
//! at once.

use std::{env, fs, path::PathBuf, time::Duration};

use clap::CommandFactory as _;
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCandidates, CompletionCandidate},
};

use super::Cli;
use crate::{
    api::{
        client::{Client, ClientError},
        types::{EndpointView, PolicyView},
    },
    paths,
};

/// Longest time that a shell may be kept waiting.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers a shell that asks what may stand next on a line, and ends; does nothing in a call that is none of these.
///
/// To be called before a runtime or a thread is started.
pub fn complete() {
    CompleteEnv::with_factory(Cli::command).complete();
}

/// Names of networks.
pub(super) fn networks() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let networks = ask(async |client| client.networks().await);
        networks.iter().map(|network| candidate(&network.name, &network.subnet)).collect()
    })
}

/// Names of endpoints: of those in the network that the line names, where it names one.
pub(super) fn endpoints() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let line = line();
        let mut endpoints = ask(async |client| client.endpoints().await);
        let is_named = |network: &str| line.iter().any(|word| word == network);
        if endpoints.iter().any(|endpoint| is_named(endpoint.network.as_str())) {
            endpoints.retain(|endpoint| is_named(endpoint.network.as_str()));
        }
        let offered = |EndpointView { name, network, node, ip, .. }: &EndpointView| {
            candidate(name, &format!("{network} on {node}, {ip}"))
        };
        endpoints.iter().map(offered).collect()
    })
}

/// Names of nodes.
pub(super) fn nodes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let nodes = ask(async |client| client.nodes().await);
        nodes.iter().map(|node| candidate(&node.name, &node.vtep)).collect()
    })
}

/// Names of BPF maps.
pub(super) fn maps() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let maps = ask(async |client| client.maps().await);
        maps.iter().map(|map| candidate(&map.name, &map.description)).collect()
    })
}

/// Ids of policy's rules.
pub(super) fn rules() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let policies = ask(async |client| client.policies().await);
        let rule = |policy: &PolicyView| {
            policy.id.map(|id| candidate(&id, &format!("{} to {}", policy.from, policy.to)))
        };
        policies.iter().filter_map(rule).collect()
    })
}

/// Names of network namespaces.
pub(super) fn namespaces() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let entries = fs::read_dir(paths::NETNS_DIR).into_iter().flatten().flatten();
        entries.map(|entry| CompletionCandidate::new(entry.file_name())).collect()
    })
}

fn candidate(name: &impl ToString, help: &impl ToString) -> CompletionCandidate {
    CompletionCandidate::new(name.to_string()).help(Some(help.to_string().into()))
}

fn ask<T>(question: impl AsyncFnOnce(Client) -> Result<Vec<T>, ClientError>) -> Vec<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let client = Client::new(socket(&line(), env::var_os("OVERLAY_SOCKET").map(PathBuf::from)));
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, question(client)).await });
    answer.ok().and_then(Result::ok).unwrap_or_default()
}

/// The line that is being completed: the shell's function hands it over behind a `--`.
fn line() -> Vec<String> {
    let words = env::args_os().map(|word| word.to_string_lossy().into_owned());
    words.skip_while(|word| word != "--").skip(1).collect()
}

/// The socket that the line names, else the environment's, else the default.
fn socket(line: &[String], of_environment: Option<PathBuf>) -> PathBuf {
    let joined = line.iter().find_map(|word| word.strip_prefix("--socket="));
    let apart = line.windows(2).find(|pair| pair[0] == "--socket").map(|pair| pair[1].as_str());
    let named = joined.or(apart).map(PathBuf::from);
    named.or(of_environment).unwrap_or_else(|| paths::DEFAULT_SOCKET.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_is_completed_names_the_agent_before_the_environment_does() {
        let of = |line: &str, environment: Option<&str>| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            socket(&words, environment.map(PathBuf::from)).display().to_string()
        };
        assert_eq!(of("overlay --socket /x.sock network rm", Some("/y.sock")), "/x.sock");
        assert_eq!(of("overlay --socket=/x.sock network rm", Some("/y.sock")), "/x.sock");
        assert_eq!(of("overlay network rm --socket", Some("/y.sock")), "/y.sock");
        assert_eq!(of("overlay network rm", None), paths::DEFAULT_SOCKET);
    }
}
