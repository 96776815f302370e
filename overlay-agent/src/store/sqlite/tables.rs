//! Reading and writing the tables: each function is one transaction.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, named_params, params, types::Value};

use super::{
    lease::{self, Clock},
    worker::Generation,
};
use crate::store::{Condition, Entry, Event, LeaseId, Listing, Operation, Outcome, Revision, Transaction};

type Result<T> = rusqlite::Result<T>;

/// Revisions that the changelog keeps: minutes of the busiest cluster, a few megabytes.
const HISTORY: i64 = 10_000;

/// Changes after which [`changes`] stops, at the end of a commit: a follower that is far behind catches up
/// in steps.
const BATCH: usize = 500;

/// The keys below a prefix, as bounds that the index understands.
#[derive(Clone, Debug)]
pub(super) struct KeyRange {
    first: String,
    /// The first key after them. If there is none, an empty blob: SQLite sorts every blob after every text.
    end: Value,
}

impl KeyRange {
    pub(super) fn below(prefix: &str) -> Self {
        Self { first: prefix.to_owned(), end: successor(prefix).map_or(Value::Blob(Vec::new()), Value::Text) }
    }
}

/// The least text that is greater than all that start with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Where a follower of the changelog stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) generation: Generation,
    pub(super) revision: Revision,
}

/// What lies after a position.
#[derive(Debug)]
pub(super) enum Changes {
    /// All changes of the commits up to a revision.
    Since(Vec<Event>, Revision),
    /// They are no longer known, or never were. This is the newest revision.
    Unknown(Revision),
}

pub(super) fn get(connection: &Connection, key: &str) -> Result<Option<Entry>> {
    let sql = "SELECT key, value, revision, lease FROM entries WHERE key = ?1";
    connection.prepare_cached(sql)?.query_row([key], to_entry).optional()
}

pub(super) fn list(connection: &mut Connection, range: &KeyRange) -> Result<Listing> {
    let transaction = connection.transaction()?;
    let revision = revision(&transaction)?;
    let sql = "SELECT key, value, revision, lease FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key";
    let entries = transaction
        .prepare_cached(sql)?
        .query_map(params![range.first, range.end], to_entry)?
        .collect::<Result<_>>()?;
    Ok(Listing { entries, revision: to_revision(revision) })
}

pub(super) fn changes(connection: &mut Connection, range: &KeyRange, after: Revision) -> Result<Changes> {
    let transaction = connection.transaction()?;
    let newest = revision(&transaction)?;
    let after = from_revision(after);
    if after > newest || after < newest - HISTORY {
        return Ok(Changes::Unknown(to_revision(newest)));
    }
    let sql = "SELECT key, value, revision, lease FROM changelog
               WHERE revision > ?1 AND key >= ?2 AND key < ?3 ORDER BY revision, seq";
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query(params![after, range.first, range.end])?;
    let mut events: Vec<Event> = Vec::new();
    while let Some(row) = rows.next()? {
        let event = to_event(row)?;
        if let Some(last) = events.last().map(Event::revision)
            && events.len() >= BATCH
            && last != event.revision()
        {
            return Ok(Changes::Since(events, last));
        }
        events.push(event);
    }
    Ok(Changes::Since(events, to_revision(newest)))
}

pub(super) fn commit(connection: &mut Connection, wanted: Transaction, clock: &Clock) -> Result<Outcome> {
    let mut writing = Writing::begin(connection)?;
    if let Some(key) = writing.first_conflict(&wanted, clock)? {
        return Ok(Outcome::Conflict(key));
    }
    for operation in wanted.operations {
        match operation {
            Operation::Put(key, value, lease) => writing.put(&key, &value, lease)?,
            Operation::Delete(key) => writing.delete(&key)?,
        }
    }
    writing.finish().map(Outcome::Committed)
}

/// A transaction that writes. What it has not finished is undone.
pub(super) struct Writing<'c> {
    pub(super) transaction: rusqlite::Transaction<'c>,
    revision: i64,
    changes: i64,
}

impl<'c> Writing<'c> {
    /// Takes the write lock at once: a lock taken at the first write could find that another agent was faster.
    pub(super) fn begin(connection: &'c mut Connection) -> Result<Self> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let revision = revision(&transaction)?;
        Ok(Self { transaction, revision, changes: 0 })
    }

    fn first_conflict(&self, wanted: &Transaction, clock: &Clock) -> Result<Option<String>> {
        for condition in &wanted.conditions {
            if !self.holds(condition)? {
                return Ok(Some(condition.key().to_owned()));
            }
        }
        for operation in &wanted.operations {
            if let Operation::Put(key, _, Some(lease)) = operation
                && !lease::is_alive(&self.transaction, *lease, clock)?
            {
                return Ok(Some(key.clone()));
            }
        }
        Ok(None)
    }

    fn holds(&self, condition: &Condition) -> Result<bool> {
        let sql = "SELECT revision FROM entries WHERE key = ?1";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let found: Option<i64> = statement.query_row([condition.key()], |row| row.get(0)).optional()?;
        Ok(match condition {
            Condition::Absent(_) => found.is_none(),
            Condition::Unchanged(_, revision) => found == Some(from_revision(*revision)),
        })
    }

    fn put(&mut self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<()> {
        let lease = lease.map(LeaseId::number);
        let sql = "INSERT INTO entries (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (key) DO UPDATE
                   SET value = excluded.value, revision = excluded.revision, lease = excluded.lease";
        self.transaction.prepare_cached(sql)?.execute(params![key, value, self.revision + 1, lease])?;
        self.log(key, Some(value), lease)
    }

    pub(super) fn delete(&mut self, key: &str) -> Result<()> {
        let deleted =
            self.transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?;
        if deleted > 0 { self.log(key, None, None) } else { Ok(()) }
    }

    fn log(&mut self, key: &str, value: Option<&[u8]>, lease: Option<i64>) -> Result<()> {
        let sql = "INSERT INTO changelog (revision, seq, key, value, lease)
                   VALUES (:revision, :seq, :key, :value, :lease)";
        self.transaction.prepare_cached(sql)?.execute(named_params! {
            ":revision": self.revision + 1, ":seq": self.changes, ":key": key, ":value": value, ":lease": lease,
        })?;
        self.changes += 1;
        Ok(())
    }

    /// Makes it last. Only a change of keys makes a new revision.
    pub(super) fn finish(self) -> Result<Revision> {
        let mut revision = self.revision;
        if self.changes > 0 {
            revision += 1;
            self.transaction.prepare_cached("UPDATE meta SET revision = ?1")?.execute([revision])?;
            let trim = "DELETE FROM changelog WHERE revision <= ?1";
            self.transaction.prepare_cached(trim)?.execute([revision - HISTORY])?;
        }
        self.transaction.commit()?;
        Ok(to_revision(revision))
    }
}

fn revision(connection: &Connection) -> Result<i64> {
    connection.prepare_cached("SELECT revision FROM meta")?.query_row([], |row| row.get(0))
}

/// A row of key, value, revision, lease.
fn to_entry(row: &Row<'_>) -> Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        revision: to_revision(row.get(2)?),
        lease: row.get::<_, Option<i64>>(3)?.map(LeaseId::from),
    })
}

fn to_event(row: &Row<'_>) -> Result<Event> {
    if row.get_ref(1)? == rusqlite::types::ValueRef::Null {
        return Ok(Event::Delete { key: row.get(0)?, revision: to_revision(row.get(2)?) });
    }
    to_entry(row).map(Event::Put)
}

/// SQLite counts revisions as signed integers; ours start at 0.
fn to_revision(number: i64) -> Revision {
    Revision(number.unsigned_abs())
}

/// One beyond SQLite's numbers is later than any that it gave.
fn from_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_starts_with_a_prefix_lies_below_its_successor() {
        assert_eq!(successor("a/b/"), Some("a/b0".to_owned()));
        assert_eq!(successor("a\u{d7ff}"), Some("a\u{e000}".to_owned()), "surrogates are no characters");
        assert_eq!(successor("a\u{10ffff}"), Some("b".to_owned()));
        assert_eq!(successor(""), None);
    }

    proptest! {
        #[test]
        fn successor_bounds_exactly_the_prefix(prefix in "\\PC{0,4}", text in "\\PC{0,6}", below in any::<bool>()) {
            let text = if below { format!("{prefix}{text}") } else { text };
            let in_range = text >= prefix && successor(&prefix).is_none_or(|end| text < end);
            prop_assert_eq!(in_range, text.starts_with(&prefix));
        }
    }
}
