//! What the agent may do: a few capabilities, not all that root may.

use caps::{CapSet, Capability};

/// What cannot be done without.
const NEEDED: [(Capability, &str); 4] = [
    (Capability::CAP_BPF, "load BPF programs"),
    (Capability::CAP_PERFMON, "have them follow pointers"),
    (Capability::CAP_NET_ADMIN, "make devices and attach programs"),
    (Capability::CAP_SYS_ADMIN, "enter containers' network namespaces"),
];

/// A capability is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "overlay-agent lacks {}: start it as root, or with these capabilities, as the unit overlay-agent.service does",
    named(.0)
)]
pub struct Missing(Vec<(Capability, &'static str)>);

fn named(missing: &[(Capability, &'static str)]) -> String {
    let names: Vec<String> =
        missing.iter().map(|(capability, use_of)| format!("{capability} (to {use_of})")).collect();
    names.join(", ")
}

/// Looks for all that is needed, before anything is touched.
///
/// # Errors
/// [`Missing`] names what is not there.
pub fn check() -> Result<(), Missing> {
    // A kernel that does not answer says nothing: what is refused then names itself.
    missing(|capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true))
}

fn missing(has: impl Fn(Capability) -> bool) -> Result<(), Missing> {
    let missing: Vec<_> = NEEDED.into_iter().filter(|(capability, _)| !has(*capability)).collect();
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_use() {
        assert_eq!(missing(|_| true), Ok(()));
        let error = missing(|capability| capability != Capability::CAP_BPF).unwrap_err().to_string();
        assert!(
            error.contains("CAP_BPF (to load BPF programs)") && !error.contains("CAP_NET_ADMIN"),
            "{error}"
        );
    }
}
