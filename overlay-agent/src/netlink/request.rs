//! One request to the kernel: sent, answered in time, its errors named.
//!
//! The requests of rtnetlink itself are not used: they wait without end for an answer that cannot be
//! parsed, and do not see that a list changed while the kernel was writing it.

use std::{io, sync::Arc, time::Duration};

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    },
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::{sync::Mutex, time::timeout};

use super::NetlinkError;
use crate::netns::{NetnsHandle, run_in};

/// The kernel answers at once; it is late only if it holds its configuration lock for somebody else.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a list is read again that changed while it was read.
const LIST_ATTEMPTS: usize = 10;

/// How a change treats what exists.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// Change or remove what must exist.
    Existing,
    /// Make what may not exist.
    Create,
    /// Make, or change what exists.
    CreateOrReplace,
}

impl Mode {
    fn flags(self) -> u16 {
        NLM_F_REQUEST
            | NLM_F_ACK
            | match self {
                Self::Existing => 0,
                Self::Create => NLM_F_CREATE | NLM_F_EXCL,
                Self::CreateOrReplace => NLM_F_CREATE | NLM_F_REPLACE,
            }
    }
}

/// A connection to the network configuration of the namespace in which it was opened.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
    /// The kernel writes one list at a time for a socket, and refuses the next with EBUSY.
    listing: Arc<Mutex<()>>,
}

impl Netlink {
    /// Opens a connection. Its task belongs to the current runtime and ends with the last clone.
    ///
    /// # Errors
    /// If there is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
        // The end of a list may be the only message that says that the list changed.
        connection.set_forward_done(true);
        tokio::spawn(connection);
        Ok(Self { handle, listing: Arc::default() })
    }

    /// Changes something. `operation` ends a sentence that begins with "cannot".
    pub(super) async fn change(
        &self,
        operation: &str,
        mode: Mode,
        message: RouteNetlinkMessage,
    ) -> Result<(), NetlinkError> {
        self.request(operation, mode.flags(), message).await.map(drop)
    }

    /// Asks for one thing.
    pub(super) async fn get(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        let answers = self.request(operation, NLM_F_REQUEST, message).await?;
        let no_answer = || NetlinkError::NoAnswer { operation: operation.to_owned() };
        answers.messages.into_iter().next().ok_or_else(no_answer)
    }

    /// Asks for a list, until one was not changed while it was written.
    pub(super) async fn list(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let _one_at_a_time = self.listing.lock().await;
        for _ in 0..LIST_ATTEMPTS {
            let answers = self.request(operation, NLM_F_REQUEST | NLM_F_DUMP, message.clone()).await?;
            if !answers.interrupted {
                return Ok(answers.messages);
            }
        }
        Err(NetlinkError::Restless { operation: operation.to_owned() })
    }

    async fn request(
        &self,
        operation: &str,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<Answers, NetlinkError> {
        let no_answer = || NetlinkError::NoAnswer { operation: operation.to_owned() };
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut stream = self.handle.clone().request(request).map_err(|_| no_answer())?;
        let collect = async {
            let mut answers = Answers::default();
            while let Some(answer) = stream.next().await {
                answers
                    .add(answer)
                    .map_err(|source| NetlinkError::Kernel { operation: operation.to_owned(), source })?;
            }
            Ok(answers)
        };
        timeout(ANSWER_TIMEOUT, collect).await.map_err(|_| no_answer())?
    }
}

#[derive(Default)]
struct Answers {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

impl Answers {
    fn add(&mut self, answer: NetlinkMessage<RouteNetlinkMessage>) -> io::Result<()> {
        self.interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => self.messages.push(message),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(-done.code));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Runs `work` with a connection of another namespace, on a thread and a runtime of its own.
pub(super) async fn within<F, T>(ns: &NetnsHandle, work: F) -> Result<T, NetlinkError>
where
    F: AsyncFnOnce(Netlink) -> Result<T, NetlinkError> + Send + 'static,
    T: Send + 'static,
{
    run_in(ns, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetlinkError::Socket)?;
        runtime.block_on(async move { work(Netlink::open()?).await })
    })
    .await?
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;
    use rtnetlink::packet_core::{DoneMessage, NetlinkHeader};

    use super::*;

    fn answer(
        flags: u16,
        payload: NetlinkPayload<RouteNetlinkMessage>,
    ) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        NetlinkMessage::new(header, payload)
    }

    fn done(code: i32) -> NetlinkPayload<RouteNetlinkMessage> {
        let mut done = DoneMessage::default();
        done.code = code;
        NetlinkPayload::Done(done)
    }

    fn link() -> NetlinkPayload<RouteNetlinkMessage> {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(LinkMessage::default()))
    }

    #[test]
    fn a_list_that_changed_while_it_was_written_is_known_by_any_of_its_messages() {
        for interrupted in 0..3 {
            let mut answers = Answers::default();
            for (position, payload) in [link(), link(), done(0)].into_iter().enumerate() {
                let flags = if position == interrupted { NLM_F_DUMP_INTR } else { 0 };
                answers.add(answer(flags, payload)).unwrap();
            }
            assert!(answers.interrupted, "at {interrupted}");
        }
        let mut answers = Answers::default();
        answers.add(answer(0, link())).unwrap();
        answers.add(answer(0, done(0))).unwrap();
        assert_eq!((answers.messages.len(), answers.interrupted), (1, false));
    }

    #[test]
    fn a_list_that_ends_with_an_error_is_an_error() {
        let error = Answers::default().add(answer(0, done(-nix::libc::EPERM))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EPERM));
    }
}
