//! Options that may be given once for IPv4 and once for IPv6.

use super::CliError;

/// Takes an option's value; one of a family that has one already is a mistake.
pub(super) fn once<T: ToString>(
    option: &'static str,
    slot: &mut Option<T>,
    given: T,
) -> Result<(), CliError> {
    match slot.replace(given) {
        None => Ok(()),
        Some(first) => {
            let second = slot.as_ref().map(T::to_string).unwrap_or_default();
            Err(CliError::SameFamily { option, first: first.to_string(), second })
        }
    }
}
