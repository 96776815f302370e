//! The backends, each with a store to test it on.

#[cfg(feature = "sqlite")]
pub mod sqlite;
