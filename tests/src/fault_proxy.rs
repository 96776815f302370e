//! A TCP proxy that stands in front of a store and fails in the ways that networks and servers do.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    sync::watch,
    time::sleep,
};

/// What the proxy does to its connections, also to those that are open already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it forwards.
    #[default]
    None,
    /// Resets every connection.
    Refuse,
    /// Takes what comes, and answers nothing.
    Hang,
    /// Forwards each piece so much later.
    Delay(Duration),
    /// Answers each HTTP request with this status itself.
    Status(u16),
    /// Forwards so many bytes of each connection's answers, then closes it.
    Truncate(usize),
}

/// A proxy that runs until dropped.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    fault: watch::Sender<Fault>,
    // Ends all connections when it goes.
    _runtime: Runtime,
}

impl FaultProxy {
    /// A proxy on a port of loopback's.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    #[track_caller]
    pub fn start(upstream: SocketAddr) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port on loopback"), upstream)
    }

    /// A proxy on a listener, which may be in another network namespace. The upstream is reached from this one.
    ///
    /// # Panics
    /// If the listener cannot be used.
    #[must_use]
    #[track_caller]
    pub fn on(listener: TcpListener, upstream: SocketAddr) -> Self {
        let addr = listener.local_addr().expect("the listener's address");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fault-proxy")
            .enable_all()
            .build()
            .expect("a runtime");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener).expect("a listener of the runtime's")
        };
        let (fault, faults) = watch::channel(Fault::None);
        runtime.spawn(accept(listener, upstream, faults));
        Self { addr, fault, _runtime: runtime }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what it does from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn accept(listener: tokio::net::TcpListener, upstream: SocketAddr, faults: watch::Receiver<Fault>) {
    // A failing `accept` is one connection less.
    loop {
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, upstream, faults.clone()));
        }
    }
}

/// One connection, through every change of the fault that it can live through.
async fn serve(mut client: TcpStream, upstream: SocketAddr, mut faults: watch::Receiver<Fault>) {
    let mut server = None;
    loop {
        let fault = *faults.borrow_and_update();
        let served = match fault {
            Fault::Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
            Fault::Hang => Ok(faults.changed().await.is_ok()),
            Fault::Status(status) => tokio::select! {
                answered = answer(&mut client, status) => answered.map(|()| false),
                changed = faults.changed() => Ok(changed.is_ok()),
            },
            Fault::None => forward(&mut client, &mut server, upstream, &mut faults, Limits::NONE).await,
            Fault::Delay(delay) => {
                forward(&mut client, &mut server, upstream, &mut faults, Limits { delay, ..Limits::NONE })
                    .await
            }
            Fault::Truncate(most) => {
                forward(&mut client, &mut server, upstream, &mut faults, Limits { most, ..Limits::NONE })
                    .await
            }
        };
        match served {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => {
                // Without lingering to close is to reset.
                let _ = client.set_zero_linger();
                return;
            }
        }
    }
}

/// How a connection's pieces are forwarded.
#[derive(Clone, Copy)]
struct Limits {
    /// How much later each is.
    delay: Duration,
    /// How many bytes of answers there are.
    most: usize,
}

impl Limits {
    const NONE: Self = Self { delay: Duration::ZERO, most: usize::MAX };
}

/// Forwards pieces until one end closes (`false`) or the fault changes (`true`). A piece that was read is written,
/// whatever the fault becomes: it is the network that fails, never what it carries.
async fn forward(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    upstream: SocketAddr,
    faults: &mut watch::Receiver<Fault>,
    Limits { delay, most }: Limits,
) -> io::Result<bool> {
    let server = match server {
        Some(server) => server,
        None => server.insert(TcpStream::connect(upstream).await?),
    };
    let (mut question, mut answer, mut left) = ([0; 16 << 10], [0; 16 << 10], most);
    while left > 0 {
        let (to, piece) = tokio::select! {
            length = client.read(&mut question) => (&mut *server, &question[..length?]),
            length = server.read(&mut answer) => {
                let length = length?.min(left);
                left -= length;
                (&mut *client, &answer[..length])
            }
            changed = faults.changed() => return Ok(changed.is_ok()),
        };
        if piece.is_empty() {
            return Ok(false);
        }
        sleep(delay).await;
        to.write_all(piece).await?;
    }
    Ok(false)
}

/// Answers each HTTP request of a connection with a status. A request is what ends with an empty line.
async fn answer(client: &mut TcpStream, status: u16) -> io::Result<()> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while client.read(&mut byte).await? > 0 {
        seen.push(byte[0]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            let reply =
                format!("HTTP/1.1 {status} Fault\r\ncontent-length: 5\r\nconnection: close\r\n\r\nfault");
            client.write_all(reply.as_bytes()).await?;
            return client.shutdown().await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::TcpStream,
        thread,
        time::Instant,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    /// A server that sends everything back, and a proxy before it.
    fn echo() -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        FaultProxy::start(addr)
    }

    fn connect(proxy: &FaultProxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    /// What comes back for a word, and how long that took.
    fn ask(stream: &mut TcpStream, word: &str) -> (io::Result<String>, Duration) {
        let (start, mut answer) = (Instant::now(), vec![0; word.len()]);
        let answered = stream.write_all(word.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
        (answered.map(|()| String::from_utf8(answer).unwrap()), start.elapsed())
    }

    /// Everything that comes until the connection ends.
    fn rest(stream: &mut TcpStream) -> io::Result<String> {
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn without_a_fault_it_forwards_both_ways() {
        let proxy = echo();
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, "hello").0.unwrap(), "hello");
        assert_eq!(ask(&mut stream, "again").0.unwrap(), "again");
    }

    #[test]
    fn refusing_resets_old_and_new_connections() {
        let proxy = echo();
        let mut old = connect(&proxy);
        ask(&mut old, "hello").0.unwrap();
        proxy.set(Fault::Refuse);
        for stream in [&mut old, &mut connect(&proxy)] {
            let error = rest(stream).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        proxy.set(Fault::None);
        assert_eq!(ask(&mut connect(&proxy), "hello").0.unwrap(), "hello");
    }

    #[test]
    fn hanging_answers_nothing_until_it_is_over() {
        let proxy = echo();
        let mut stream = connect(&proxy);
        ask(&mut stream, "hello").0.unwrap();
        proxy.set(Fault::Hang);
        stream.set_read_timeout(Some(SHORT)).unwrap();
        assert_eq!(ask(&mut stream, "there?").0.unwrap_err().kind(), ErrorKind::WouldBlock);
        proxy.set(Fault::None);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"there?");
    }

    #[test]
    fn a_delay_holds_every_piece_up() {
        let proxy = echo();
        proxy.set(Fault::Delay(SHORT));
        let (answer, took) = ask(&mut connect(&proxy), "hello");
        assert_eq!(answer.unwrap(), "hello");
        assert!(took >= 2 * SHORT, "{took:?}");
    }

    #[test]
    fn a_piece_that_is_on_its_way_arrives_when_the_delay_ends() {
        let proxy = echo();
        proxy.set(Fault::Delay(SHORT));
        let mut stream = connect(&proxy);
        stream.write_all(b"hello").unwrap();
        // Not a wait for anything: the piece shall be on its way.
        thread::sleep(SHORT / 2);
        proxy.set(Fault::None);
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    }

    #[test]
    fn a_status_is_the_answer_to_each_request() {
        let proxy = echo();
        proxy.set(Fault::Status(503));
        for _ in 0..2 {
            let mut stream = connect(&proxy);
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            let answer = rest(&mut stream).unwrap();
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
    }

    #[test]
    fn truncating_cuts_the_answer_off() {
        let proxy = echo();
        proxy.set(Fault::Truncate(3));
        let mut stream = connect(&proxy);
        stream.write_all(b"hello").unwrap();
        assert_eq!(rest(&mut stream).unwrap(), "hel");
    }

    #[test]
    fn an_upstream_that_is_not_there_is_a_reset() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = FaultProxy::start(nobody);
        assert_eq!(rest(&mut connect(&proxy)).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
