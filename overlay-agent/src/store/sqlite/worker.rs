//! One thread for one connection, which it opens again when the file at the path is another one.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::schema::{self, FileId, Missing, Place};
use crate::store::StoreError;

/// How often the file was opened anew. Revisions of different generations cannot be compared: the file may
/// be another one, even with the inode number of the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation(u64);

/// A connection to the file that lies at the path.
pub(super) struct Open {
    pub(super) connection: Connection,
    pub(super) generation: Generation,
    file: FileId,
}

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// A thread that carries out jobs one after the other. It ends with its last handle.
pub(super) struct Worker {
    place: Arc<Place>,
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Opens the file, making it if it is missing, and starts the thread.
    pub(super) fn start(place: &Arc<Place>, name: &str) -> Result<Self, StoreError> {
        let mut session = Session::start(Arc::clone(place))?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || queue.into_iter().for_each(|job| job(&mut session));
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|e| place.unavailable("start a thread", e.to_string()))?;
        Ok(Self { place: Arc::clone(place), jobs })
    }

    /// Has the thread do a job. One that nobody waits for any more is left undone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&mut Open) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = move |session: &mut Session| {
            if !reply.is_closed() {
                let _ = reply.send(session.run(operation, job));
            }
        };
        let stopped = || self.place.unavailable(operation, "its thread has stopped: restart the agent");
        self.jobs.send(Box::new(job)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// A connection that comes and goes with its file.
struct Session {
    place: Arc<Place>,
    open: Option<Open>,
    generation: u64,
}

impl Session {
    fn start(place: Arc<Place>) -> Result<Self, StoreError> {
        let mut session = Self { place, open: None, generation: 0 };
        let connection = session.place.connect(Missing::Create)?;
        let file = session.file("open")?;
        session.keep(connection, file);
        Ok(session)
    }

    fn run<T>(
        &mut self,
        operation: &'static str,
        job: impl FnOnce(&mut Open) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let answer = job(self.current(operation)?);
        answer.map_err(|e| {
            // After any other failure a new connection is worth a try.
            if !schema::is_busy(&e) {
                self.open = None;
            }
            self.place.failure(operation, &e)
        })
    }

    /// The connection to the file that lies at the path now.
    fn current(&mut self, operation: &'static str) -> Result<&mut Open, StoreError> {
        let file = self.file(operation).inspect_err(|_| self.open = None)?;
        match self.open.take() {
            Some(open) if open.file == file => Ok(self.open.insert(open)),
            stale => {
                // Closed before the new one is opened: the two would share the log's index, which has the
                // same path for both.
                drop(stale);
                let connection = self.place.connect(Missing::Fail)?;
                Ok(self.keep(connection, file))
            }
        }
    }

    fn keep(&mut self, connection: Connection, file: FileId) -> &mut Open {
        self.generation += 1;
        self.open.insert(Open { connection, generation: Generation(self.generation), file })
    }

    fn file(&self, operation: &'static str) -> Result<FileId, StoreError> {
        self.place.file().map_err(|e| {
            self.place.unavailable(
                operation,
                format!(
                    "the file cannot be found ({e}): put it back, or restart the agent, which makes it anew"
                ),
            )
        })
    }
}
