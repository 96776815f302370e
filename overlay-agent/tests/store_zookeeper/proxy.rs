//! A wire that can lose a commit on its way, or the answer to it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

/// What becomes of the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Request,
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Passes,
    WillLose(Loss),
    /// The commit was passed on; what comes back is cut off.
    Cuts,
}

/// Stands before a server.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    cut: watch::Sender<bool>,
}

impl Proxy {
    /// Passes everything on.
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::Passes));
        let shared = Arc::clone(&state);
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&shared), is_cut.clone()));
            }
        });
        Self { address, state, cut }
    }

    /// Cuts all connections, and those to come.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Cuts the connection over the next commit.
    pub fn lose_the_next(&self, loss: Loss) {
        *self.state.lock().unwrap() = State::WillLose(loss);
    }
}

async fn carry(
    client: TcpStream,
    server: SocketAddr,
    state: Arc<Mutex<State>>,
    mut is_cut: watch::Receiver<bool>,
) {
    // The server may have ended before its clients.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever ends first takes both connections down. After the cut, not even the first words pass.
    tokio::select! {
        biased;
        _ = is_cut.wait_for(|cut| *cut) => {}
        () = pass(from_client, to_server, |data| requested(data, &state)) => {}
        () = pass(from_server, to_client, |_| answered(&state)) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, goes_on: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !goes_on(&buffer[..length]) || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

fn requested(data: &[u8], state: &Mutex<State>) -> bool {
    /// The code of a multi, behind the request's length and number.
    const MULTI: [u8; 4] = 14_i32.to_be_bytes();
    let mut state = state.lock().unwrap();
    let State::WillLose(loss) = *state else { return true };
    if data.get(8..12) != Some(&MULTI) {
        return true;
    }
    *state = if loss == Loss::Answer { State::Cuts } else { State::Passes };
    loss == Loss::Answer
}

fn answered(state: &Mutex<State>) -> bool {
    let mut state = state.lock().unwrap();
    let cuts = *state == State::Cuts;
    if cuts {
        *state = State::Passes;
    }
    !cuts
}
