//! Leases, on the machine's boot clock: all processes read the same, and nobody can set it.
//!
//! It runs on while the machine sleeps, so that leases end for those who slept as for those who watched
//! them. Leases of an earlier boot have ended.

use std::{sync::Arc, time::Duration};

use nix::time::ClockId;
use rusqlite::{Connection, OptionalExtension, params};

use super::tables::Writing;
use crate::store::{LeaseId, LeaseState};

type Result<T> = rusqlite::Result<T>;

/// The machine's clock since its boot.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    boot_id: Arc<str>,
}

impl Clock {
    pub(super) fn of_this_boot() -> std::io::Result<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        ClockId::CLOCK_BOOTTIME.now()?;
        Ok(Self { boot_id: id.trim().into() })
    }

    fn now_ms(&self) -> i64 {
        let now = ClockId::CLOCK_BOOTTIME.now().expect("it was read when the store was opened");
        i64::try_from(Duration::from(now).as_millis()).unwrap_or(i64::MAX)
    }
}

pub(super) fn grant(connection: &mut Connection, ttl: Duration, clock: &Clock) -> Result<LeaseId> {
    // Random: a client of a file that was since replaced must not hold another's lease by its number.
    let id = i64::from(rand::random::<u32>()) << 31 | i64::from(rand::random::<u32>() >> 1);
    let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    let writing = Writing::begin(connection)?;
    let sql = "INSERT INTO leases (id, ttl_ms, expires_at_boot_ms, boot_id) VALUES (?1, ?2, ?3, ?4)";
    let expires = clock.now_ms().saturating_add(ttl_ms);
    writing.transaction.execute(sql, params![id, ttl_ms, expires, clock.boot_id])?;
    writing.finish()?;
    Ok(id.into())
}

pub(super) fn keep_alive(connection: &mut Connection, lease: LeaseId, clock: &Clock) -> Result<LeaseState> {
    let mut writing = Writing::begin(connection)?;
    // First, so that the keys of a lease that is found gone are gone too.
    delete_expired(&mut writing, clock)?;
    let sql =
        "UPDATE leases SET expires_at_boot_ms = min(ttl_ms, 9223372036854775807 - ?2) + ?2 WHERE id = ?1";
    let renewed = writing.transaction.execute(sql, params![lease.number(), clock.now_ms()])?;
    writing.finish()?;
    Ok(if renewed > 0 { LeaseState::Alive } else { LeaseState::Gone })
}

pub(super) fn revoke(connection: &mut Connection, lease: LeaseId) -> Result<()> {
    let mut writing = Writing::begin(connection)?;
    delete(&mut writing, lease)?;
    writing.finish().map(drop)
}

/// Whether a lease still runs.
pub(super) fn is_alive(connection: &Connection, lease: LeaseId, clock: &Clock) -> Result<bool> {
    let sql = "SELECT 1 FROM leases WHERE id = ?1 AND boot_id = ?2 AND expires_at_boot_ms > ?3";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement
        .query_row(params![lease.number(), clock.boot_id, clock.now_ms()], |_| Ok(()))
        .optional()?
        .is_some())
}

/// Ends the leases whose time has come. Says whether there were any; looks without the write lock first.
pub(super) fn sweep(connection: &mut Connection, clock: &Clock) -> Result<bool> {
    if expired(connection, clock)?.is_empty() {
        return Ok(false);
    }
    let mut writing = Writing::begin(connection)?;
    delete_expired(&mut writing, clock)?;
    writing.finish().map(|_| true)
}

fn delete_expired(writing: &mut Writing<'_>, clock: &Clock) -> Result<()> {
    expired(&writing.transaction, clock)?.into_iter().try_for_each(|lease| delete(writing, lease))
}

fn expired(connection: &Connection, clock: &Clock) -> Result<Vec<LeaseId>> {
    let sql = "SELECT id FROM leases WHERE boot_id <> ?1 OR expires_at_boot_ms <= ?2";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_map(params![clock.boot_id, clock.now_ms()], |row| row.get::<_, i64>(0).map(LeaseId::from))?
        .collect()
}

fn delete(writing: &mut Writing<'_>, lease: LeaseId) -> Result<()> {
    let keys: Vec<String> = writing
        .transaction
        .prepare_cached("SELECT key FROM entries WHERE lease = ?1 ORDER BY key")?
        .query_map([lease.number()], |row| row.get(0))?
        .collect::<Result<_>>()?;
    keys.iter().try_for_each(|key| writing.delete(key))?;
    writing.transaction.execute("DELETE FROM leases WHERE id = ?1", [lease.number()]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Transaction,
        sqlite::{
            schema::{Missing, Place},
            tables,
        },
    };

    #[test]
    fn a_lease_of_an_earlier_boot_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = Place::new(&dir.path().join("store.db")).connect(Missing::Create).unwrap();
        let this_boot = Clock::of_this_boot().unwrap();
        let earlier_boot = Clock { boot_id: "earlier".into() };
        let lease = grant(&mut connection, Duration::from_secs(3600), &earlier_boot).unwrap();
        let leased = Transaction::new().create("node", &1).leased(lease);
        tables::commit(&mut connection, leased, &earlier_boot).unwrap();

        assert!(!sweep(&mut connection, &earlier_boot).unwrap(), "it has an hour left");
        assert!(tables::get(&connection, "node").unwrap().is_some());
        assert!(sweep(&mut connection, &this_boot).unwrap());
        assert_eq!(tables::get(&connection, "node").unwrap(), None);
    }

    #[test]
    fn a_lease_of_endless_time_can_be_granted_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = Place::new(&dir.path().join("store.db")).connect(Missing::Create).unwrap();
        let clock = Clock::of_this_boot().unwrap();
        let lease = grant(&mut connection, Duration::MAX, &clock).unwrap();
        assert_eq!(keep_alive(&mut connection, lease, &clock).unwrap(), LeaseState::Alive);
        assert!(is_alive(&connection, lease, &clock).unwrap());
    }
}
