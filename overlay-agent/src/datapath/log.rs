//! What the programs log through aya-log: with `--bpf-log off` their logging code is not even loaded.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::DatapathError;
use crate::config::BpfLog;

/// Reads the programs' log records and passes them to the agent's own log.
pub struct Reader(EbpfLogger<&'static dyn log::Log>);

impl Reader {
    /// Takes the reader out of a loaded object, if its programs log.
    pub(super) fn take(ebpf: &mut Ebpf, log: BpfLog) -> Result<Option<Self>, DatapathError> {
        if log == BpfLog::Off {
            return Ok(None);
        }
        EbpfLogger::init(ebpf).map(|logger| Some(Self(logger))).map_err(|e| DatapathError::Log(e.to_string()))
    }

    /// Passes records on until dropped.
    ///
    /// # Errors
    /// If the map cannot be polled.
    pub async fn run(self) -> Result<(), DatapathError> {
        let fail = |e: &dyn std::fmt::Display| DatapathError::Log(e.to_string());
        // SAFETY: the logger owns its ring buffer's descriptor, always returns the same one, and closes it
        // only when it is dropped, with the `AsyncFd` that owns it.
        let logger = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let mut logger = logger.map_err(|e| fail(&e))?;
        loop {
            let mut guard = logger.readable_mut().await.map_err(|e| fail(&e))?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
