//! A peer that says who it is: addresses may be the same in two networks, names are not.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use super::service::{Heard, Running, Service, TICK};
use crate::netns::Netns;

/// Port on which a responder answers.
pub const PORT: u16 = 7007;

/// Answers each UDP datagram and each line of a TCP connection with its name and the question.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Shared>,
    _service: Service,
}

#[derive(Debug)]
struct Shared {
    name: String,
    heard: Heard,
}

impl Shared {
    fn answer(&self, question: &str) -> String {
        self.heard.note(question.to_owned());
        format!("{} {question}", self.name)
    }
}

impl Responder {
    /// Starts one in a namespace.
    ///
    /// # Panics
    /// If its port is taken.
    #[must_use]
    #[track_caller]
    pub fn start(netns: &Netns, name: &str) -> Self {
        let shared = Arc::new(Shared { name: name.to_owned(), heard: Heard::default() });
        let (for_udp, for_tcp) = (shared.clone(), shared.clone());
        let service = Service::start(
            netns,
            SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT),
            move |udp, running| answer_datagrams(udp, &for_udp, running),
            move |tcp, running| answer_connections(tcp, &for_tcp, running),
        );
        Self { shared, _service: service }
    }

    /// The questions that have arrived.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        self.shared.heard.all()
    }
}

fn answer_datagrams(socket: &UdpSocket, shared: &Shared, running: &Running) {
    let mut buffer = [0; 2048];
    while running.goes_on() {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let answer = shared.answer(&String::from_utf8_lossy(&buffer[..len]));
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    }
}

fn answer_connections(listener: &TcpListener, shared: &Arc<Shared>, running: &Running) {
    while running.goes_on() {
        if let Ok((stream, _)) = listener.accept() {
            let (shared, running) = (shared.clone(), running.clone());
            thread::spawn(move || answer_lines(&stream, &shared, &running));
        }
    }
}

/// Ends when the other side closes, or with the responder.
fn answer_lines(stream: &TcpStream, shared: &Shared, running: &Running) {
    let _ = stream.set_read_timeout(Some(TICK));
    let (mut reader, mut writer, mut line) = (BufReader::new(stream), stream, String::new());
    while running.goes_on() {
        match reader.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {
                let answer = shared.answer(line.trim_end());
                line.clear();
                if writeln!(writer, "{answer}").is_err() {
                    return;
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// Sends a question as one datagram; who answered, if anybody did before the deadline.
#[must_use]
pub fn ask_udp(netns: &Netns, to: Ipv4Addr, question: &str, deadline: Duration) -> Option<String> {
    let socket = netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a UDP socket");
    socket.set_read_timeout(Some(deadline)).expect("set a deadline");
    socket.send_to(question.as_bytes(), (to, PORT)).ok()?;
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer).ok()?;
    who(&String::from_utf8_lossy(&buffer[..len]), question)
}

/// Asks over a TCP connection of its own; who answered, if anybody did before the deadline.
#[must_use]
pub fn ask_tcp(netns: &Netns, to: Ipv4Addr, question: &str, deadline: Duration) -> Option<String> {
    Session::connect(netns, to, deadline).ok()?.ask(question).ok()
}

/// A TCP connection to a responder.
#[derive(Debug)]
pub struct Session {
    reader: BufReader<TcpStream>,
}

impl Session {
    /// Connects. The deadline holds for this and for each later question.
    ///
    /// # Errors
    /// If there is no connection before the deadline.
    pub fn connect(netns: &Netns, to: Ipv4Addr, deadline: Duration) -> io::Result<Self> {
        let stream = netns.enter(|| TcpStream::connect_timeout(&SocketAddr::from((to, PORT)), deadline))?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Asks a question; who answered.
    ///
    /// # Errors
    /// If the answer does not come before the deadline, or is to another question.
    pub fn ask(&mut self, question: &str) -> io::Result<String> {
        writeln!(self.reader.get_mut(), "{question}")?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        who(answer.trim_end(), question)
            .ok_or_else(|| io::Error::other(format!("{answer:?} is no answer to {question:?}")))
    }
}

/// Who gave this answer, if it is one to this question.
fn who(answer: &str, question: &str) -> Option<String> {
    answer.strip_suffix(question).map(|name| name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_responder_says_its_name_over_udp_and_tcp_and_remembers_the_questions() {
        let netns = Netns::new("unit");
        let responder = Responder::start(&netns, "box");
        let deadline = Duration::from_secs(2);
        assert_eq!(ask_udp(&netns, Ipv4Addr::LOCALHOST, "one", deadline).as_deref(), Some("box"));
        assert_eq!(ask_tcp(&netns, Ipv4Addr::LOCALHOST, "two", deadline).as_deref(), Some("box"));
        assert_eq!(responder.heard(), ["one", "two"]);
        drop(responder);
        assert_eq!(ask_tcp(&netns, Ipv4Addr::LOCALHOST, "three", deadline), None);
    }
}
