//! Many TCP connections that are busy all the time: each asks, waits for the echo, compares, and asks again.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::netns::Netns;

const PORT: u16 = 7012;
/// Longest time without an answer.
const STALL: Duration = Duration::from_secs(10);
/// Pause between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of a question: more than one segment.
const LEN: usize = 4000;

/// Running connections. They end when they are stopped or dropped.
#[derive(Debug)]
#[must_use]
pub struct Sessions {
    stop: Arc<AtomicBool>,
    sessions: Vec<Session>,
}

#[derive(Debug)]
struct Session {
    answers: Arc<AtomicU64>,
    client: JoinHandle<io::Result<()>>,
}

impl Sessions {
    /// Opens `count` connections.
    ///
    /// # Panics
    /// If one cannot be opened.
    #[track_caller]
    pub fn start(from: &Netns, receiver: &Netns, to: Ipv4Addr, count: usize) -> Self {
        let listener = receiver.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
        let listener = listener.expect("bind the sessions' port");
        let stop = Arc::new(AtomicBool::new(false));
        let connect = |_| {
            let address = SocketAddr::from((to, PORT));
            let client = from.enter(|| TcpStream::connect_timeout(&address, STALL)).expect("connect");
            let (server, _) = listener.accept().expect("accept");
            thread::spawn(move || echo(server));
            Session::start(client, &stop)
        };
        Self { sessions: (0..count).map(connect).collect(), stop: stop.clone() }
    }

    /// Answers until now, by connection.
    #[must_use]
    pub fn answers(&self) -> Vec<u64> {
        self.sessions.iter().map(|session| session.answers.load(Ordering::Relaxed)).collect()
    }

    /// Ends all connections in good order; what each that broke says.
    ///
    /// # Panics
    /// If a thread did.
    #[must_use]
    pub fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let results = self.sessions.drain(..).map(|session| session.client.join().expect("a session"));
        results
            .enumerate()
            .filter_map(|(i, result)| Some(format!("session {i}: {}", result.err()?)))
            .collect()
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Session {
    fn start(stream: TcpStream, stop: &Arc<AtomicBool>) -> Self {
        let answers = Arc::new(AtomicU64::new(0));
        let (counter, stop) = (Arc::clone(&answers), Arc::clone(stop));
        Self { answers, client: thread::spawn(move || ask(stream, &stop, &counter)) }
    }
}

fn ask(mut stream: TcpStream, stop: &AtomicBool, answers: &AtomicU64) -> io::Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let mut answer = vec![0; LEN];
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let question = number.to_be_bytes().repeat(LEN / 8);
        stream.write_all(&question)?;
        stream.read_exact(&mut answer)?;
        if answer != question {
            return Err(io::Error::other(format!("the answer to question {number} is another's")));
        }
        answers.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Ends when the other side does.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; LEN];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    #[test]
    fn sessions_over_loopback_are_answered_and_end_whole() {
        let netns = Netns::new("unit");
        let sessions = Sessions::start(&netns, &netns, Ipv4Addr::LOCALHOST, 3);
        let all = || sessions.answers().iter().all(|answers| *answers >= 3);
        wait::until("each has answers", Duration::from_secs(10), all);
        assert_eq!(sessions.stop(), Vec::<String>::new());
    }
}
