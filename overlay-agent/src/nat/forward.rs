//! Other people's chains that drop what is forwarded by policy, as Docker's does.
//!
//! A packet must be accepted in every chain of a hook, so an accept in our own table would not help. We append two rules
//! for our device to each such chain, as its policy is what they stand against: rules that an administrator wrote
//! there come first and still hold. Chains of `iptables-legacy` are not nftables'; there its own command does the same.

use std::{borrow::Cow, fs};

use nftables::{
    batch::Batch,
    expr::MetaKey,
    schema::{Chain, NfListObject, NfObject, Nftables, Rule},
    stmt::{Accept, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};
use tokio::process::Command;

use super::{
    NatError, TABLE, apply, list,
    table::{matches, meta, text},
};

/// By this comment we know our rules again.
const COMMENT: &str = "overlay-ebpf: to and from containers";
/// Names of the legacy tables of the thread's namespace that were ever used.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
const LEGACY_COMMAND: &str = "iptables-legacy";

/// Lets packets of `device` through where a policy would drop them. Returns whether anything had to be done.
pub async fn open(device: &str) -> Result<bool, NatError> {
    let legacy = open_legacy(device).await;
    let mut batch = Batch::new();
    let mut missing = false;
    for chain in dropping_chains().await? {
        if own_rules(&chain).await?.is_empty() {
            missing = true;
            for key in [MetaKey::Iifname, MetaKey::Oifname] {
                batch.add(NfListObject::Rule(accept(&chain, key, device)));
            }
        }
    }
    if missing {
        apply("let containers through a policy that drops", &batch.to_nftables()).await?;
    }
    Ok(missing | legacy)
}

/// Takes our rules out of other people's chains.
pub async fn close(device: &str) -> Result<(), NatError> {
    close_legacy(device).await;
    let mut batch = Batch::new();
    let mut any = false;
    for chain in forward_chains().await? {
        for rule in own_rules(&chain).await? {
            any = true;
            batch.delete(NfListObject::Rule(Rule { expr: Cow::Borrowed(&[]), ..rule }));
        }
    }
    if any { apply("take our rules out of other chains", &batch.to_nftables()).await } else { Ok(()) }
}

fn accept(chain: &Chain<'static>, key: MetaKey, device: &str) -> Rule<'static> {
    let is_ours = matches(meta(key), Operator::EQ, text(device));
    Rule {
        family: chain.family,
        table: chain.table.clone(),
        chain: chain.name.clone(),
        expr: vec![is_ours, Statement::Accept(Some(Accept {}))].into(),
        comment: Some(COMMENT.into()),
        ..Rule::default()
    }
}

async fn dropping_chains() -> Result<Vec<Chain<'static>>, NatError> {
    let mut chains = forward_chains().await?;
    chains.retain(drops);
    Ok(chains)
}

fn drops(chain: &Chain<'_>) -> bool {
    chain.policy == Some(NfChainPolicy::Drop)
}

/// The filter chains of others that forwarded IPv4 packets go through.
async fn forward_chains() -> Result<Vec<Chain<'static>>, NatError> {
    chains_at(NfHook::Forward).await
}

/// The filter chains of others at a hook for IPv4 packets.
async fn chains_at(hook: NfHook) -> Result<Vec<Chain<'static>>, NatError> {
    let is_meant = |chain: &Chain<'_>| {
        chain.hook == Some(hook)
            && chain._type == Some(NfChainType::Filter)
            && matches!(chain.family, NfFamily::IP | NfFamily::INet)
            && chain.table != TABLE
    };
    let chains = objects(&list(&["chains"]).await?)?.into_iter().filter_map(|object| match object {
        NfListObject::Chain(chain) => Some(chain),
        _ => None,
    });
    Ok(chains.filter(is_meant).collect())
}

/// A chain of somebody else's that drops by policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedChain {
    /// Family, table and name, as `nft` takes them.
    pub name: String,
    /// What is forwarded goes through it; else what arrives at the host.
    pub forwards: bool,
    /// Where it forwards, our rules are there; else some rule speaks of the tunnels' port.
    pub is_open: bool,
}

/// The chains that drop by policy what is forwarded, or what arrives.
///
/// # Errors
/// If `nft` cannot be run or refuses.
pub async fn closed_chains(vxlan_port: u16) -> Result<Vec<ClosedChain>, NatError> {
    let mut closed = Vec::new();
    for hook in [NfHook::Forward, NfHook::Input] {
        for chain in chains_at(hook).await?.into_iter().filter(drops) {
            let forwards = hook == NfHook::Forward;
            let is_open = match forwards {
                true => !own_rules(&chain).await?.is_empty(),
                // A rule may say it in many ways (ranges, sets, jumps): this is a hint, not a proof.
                false => listing_of(&chain).await?.contains(&vxlan_port.to_string()),
            };
            let name = format!("{} {} {}", family(&chain), chain.table, chain.name);
            closed.push(ClosedChain { name, forwards, is_open });
        }
    }
    Ok(closed)
}

fn family(chain: &Chain<'_>) -> &'static str {
    if chain.family == NfFamily::INet { "inet" } else { "ip" }
}

async fn listing_of(chain: &Chain<'static>) -> Result<String, NatError> {
    list(&["chain", family(chain), &chain.table, &chain.name]).await
}

async fn own_rules(chain: &Chain<'static>) -> Result<Vec<Rule<'static>>, NatError> {
    let listing = listing_of(chain).await?;
    let rules = objects(&listing)?.into_iter().filter_map(|object| match object {
        NfListObject::Rule(rule) if rule.comment.as_deref() == Some(COMMENT) => Some(rule),
        _ => None,
    });
    Ok(rules.collect())
}

/// The objects of a listing. A rule that this build has no word for, as iptables' own matches, is left out: ours has none.
fn objects(listing: &str) -> Result<Vec<NfListObject<'static>>, NatError> {
    let unreadable =
        |e: serde_json::Error| NatError::Nft { operation: "read the list of rules", reason: e.to_string() };
    let listing: serde_json::Value = serde_json::from_str(listing).map_err(unreadable)?;
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let parsed = objects.filter_map(|object| {
        let one = serde_json::json!({ "nftables": [object] });
        serde_json::from_value::<Nftables<'static>>(one).ok()
    });
    let listed = parsed.flat_map(|one| one.objects.into_owned()).filter_map(|object| match object {
        NfObject::ListObject(object) => Some(object),
        NfObject::CmdObject(_) => None,
    });
    Ok(listed.collect())
}

/// Legacy rules have no generation to watch, so this only looks where a legacy filter table is in use.
async fn open_legacy(device: &str) -> bool {
    if !legacy_is_used()
        || !legacy(&["-S", "FORWARD"]).await.is_some_and(|rules| rules.contains("-P FORWARD DROP"))
    {
        return false;
    }
    let mut changed = false;
    for direction in ["-i", "-o"] {
        let rule = |action| ["-w", action, "FORWARD", direction, device, "-j", "ACCEPT"];
        if legacy(&rule("-C")).await.is_none() {
            changed |= legacy(&rule("-A")).await.is_some();
        }
    }
    changed
}

async fn close_legacy(device: &str) {
    if legacy_is_used() {
        for direction in ["-i", "-o"] {
            // That there is no such rule is what is wanted.
            let _ = legacy(&["-w", "-D", "FORWARD", direction, device, "-j", "ACCEPT"]).await;
        }
    }
}

/// Asking the command itself would load the module and make the tables.
fn legacy_is_used() -> bool {
    fs::read_to_string(LEGACY_TABLES).is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
}

/// What the command prints, if it succeeds.
async fn legacy(arguments: &[&str]) -> Option<String> {
    let output = Command::new(LEGACY_COMMAND).args(arguments).output().await;
    match output {
        Ok(output) => output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(e) => {
            tracing::warn!(reason = %e, "cannot run {LEGACY_COMMAND}: a FORWARD policy that drops keeps containers inside");
            None
        }
    }
}
