//! Address translation by the host's own stack, for what passes the gateway device: one nftables table of ours.
//!
//! * [`table`]: what the table holds, a pure function of what is published
//! * [`forward`]: other people's chains whose policy drops what is forwarded
//! * [`generation`]: whether anybody changed the rules since we last looked
//!
//! `nft` does the talking, in JSON, one atomic batch at a time. A batch replaces the whole table; translations of
//! connections that are under way belong to the kernel and stay.

mod forward;
mod generation;
mod table;

use nftables::{helper, schema::Nftables};

pub use forward::{ClosedChain, closed_chains};
pub use table::{Published, Rules};

/// Our table, of family `ip`.
pub const TABLE: &str = "overlay-ebpf";

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// There is no `nft`.
    #[error("cannot run nft: {0}; install nftables, or do without external access and published ports")]
    NoNft(std::io::Error),
    /// `nft` refuses.
    #[error("nft: cannot {operation}: {reason}")]
    Nft {
        /// What was to be done.
        operation: &'static str,
        /// What it said.
        reason: String,
    },
    /// The kernel does not tell the generation of its rules.
    #[error("nftables of this kernel does not answer: {0}")]
    Generation(std::io::Error),
}

/// The rules in force, as far as we know.
#[derive(Debug, Default)]
pub struct Nat {
    applied: Option<Applied>,
}

#[derive(Debug)]
struct Applied {
    rules: Rules,
    /// The table as `nft` lists it, handles and all: any other text means that somebody changed it.
    listing: String,
    generation: Option<u32>,
}

/// What [`Nat::ensure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The rules were as they should be, or are new.
    InOrder,
    /// Somebody had changed them.
    Changed,
}

impl Nat {
    /// Has [`ensure`](Self::ensure) look at everything anew: legacy chains have no generation that tells of changes.
    pub fn distrust(&mut self) {
        if let Some(applied) = &mut self.applied {
            applied.generation = None;
        }
    }

    /// Puts the rules in force, if they are not. Costs one message to the kernel while nobody changes any rule.
    ///
    /// # Errors
    /// If `nft` cannot be run or refuses.
    pub async fn ensure(&mut self, rules: &Rules) -> Result<Found, NatError> {
        let generation = generation::current()?;
        let known = self.applied.as_ref().filter(|applied| applied.rules == *rules);
        if known.is_some_and(|applied| applied.generation == Some(generation)) {
            return Ok(Found::InOrder);
        }
        let same_rules = known.is_some();
        let in_order = match known {
            Some(applied) => list_table().await.is_ok_and(|listing| listing == applied.listing),
            None => false,
        };
        if !in_order {
            apply("put our table in force", &rules.replace()).await?;
        }
        let opened = forward::open(&rules.device).await?;
        let generation = Some(generation::current()?);
        self.applied = Some(Applied { rules: rules.clone(), listing: list_table().await?, generation });
        let drifted = same_rules && (!in_order || opened);
        Ok(if drifted { Found::Changed } else { Found::InOrder })
    }
}

/// Takes our table away, and our rules in other people's chains.
///
/// # Errors
/// If `nft` refuses. That there is no `nft` is no error: then there are no rules of ours.
pub async fn remove(device: &str) -> Result<(), NatError> {
    let removed = match apply("remove our table", &table::removal()).await {
        Err(NatError::NoNft(_)) => return Ok(()),
        other => other,
    };
    removed.and(forward::close(device).await)
}

async fn apply(operation: &'static str, batch: &Nftables<'_>) -> Result<(), NatError> {
    helper::apply_ruleset_async(batch).await.map_err(|e| failure(operation, e))
}

async fn list(subject: &[&str]) -> Result<String, NatError> {
    let arguments: Vec<&str> = [&["list"], subject].concat();
    let listed = helper::get_current_ruleset_raw_async::<str, str, _>(None, arguments).await;
    listed.map_err(|e| failure("list rules", e))
}

async fn list_table() -> Result<String, NatError> {
    list(&["table", "ip", TABLE]).await
}

fn failure(operation: &'static str, error: helper::NftablesError) -> NatError {
    match error {
        helper::NftablesError::NftExecution { inner, .. } => NatError::NoNft(inner),
        helper::NftablesError::NftFailed { stdout, stderr, .. } => NatError::Nft {
            operation,
            reason: format!("{} {}", stdout.trim(), stderr.trim()).trim().to_owned(),
        },
        other => NatError::Nft { operation, reason: other.to_string() },
    }
}
