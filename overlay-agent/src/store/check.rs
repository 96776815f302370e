//! What no store takes: refused here, before any backend sees it, so that all refuse the same.

use std::collections::BTreeSet;

use super::{MAX_KEY_LEN, MAX_VALUE_LEN, Operation, StoreError, Transaction};

/// Refuses a key that some backend could not hold, or that an operator could not type.
pub fn key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(invalid(key, "a key must not be empty"));
    }
    prefix(key)
}

/// Refuses a prefix under which no key can lie. The empty one is that of all keys.
pub fn prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > MAX_KEY_LEN {
        Err(invalid(prefix, "a key has at most 512 bytes"))
    } else if prefix.contains(char::is_control) {
        Err(invalid(prefix, "a key must not hold control characters"))
    } else {
        Ok(())
    }
}

/// Refuses a transaction with an unfit key or value, or with two operations on one key.
pub fn transaction(transaction: &Transaction) -> Result<(), StoreError> {
    let mut touched = BTreeSet::new();
    for condition in &transaction.conditions {
        key(condition.key())?;
    }
    for operation in &transaction.operations {
        key(operation.key())?;
        if !touched.insert(operation.key()) {
            return Err(invalid(operation.key(), "it stands in two operations of one transaction"));
        }
        if matches!(operation, Operation::Put(_, value, _) if value.len() > MAX_VALUE_LEN) {
            return Err(invalid(operation.key(), "a value has at most 512 KiB"));
        }
    }
    Ok(())
}

fn invalid(key: &str, reason: &'static str) -> StoreError {
    StoreError::Invalid { key: key.chars().take(MAX_KEY_LEN).collect(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentences_name_the_limits() {
        assert_eq!((MAX_KEY_LEN, MAX_VALUE_LEN), (512, 512 << 10));
    }

    #[test]
    fn a_key_is_refused_for_what_it_holds_and_for_its_length() {
        for good in ["a", "overlay/v1/networks/x", "ä ö", &"k".repeat(512)] {
            assert!(key(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a\0b", "a\nb", "\u{7f}", "\u{85}", &"k".repeat(513), &"ä".repeat(257)] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        assert!(prefix("").is_ok());
    }
}
