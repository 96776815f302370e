use std::path::PathBuf;

use axum::{Json, routing::post};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::{
    reply::{Body, Params},
    *,
};
use crate::model::Name;

const SHORT: Duration = Duration::from_millis(50);
/// What takes longer than this does not come at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server with routes of the tests' own behind the real limits.
struct Harness {
    dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Slots>,
}

impl Harness {
    fn start(router: Router, limits: Limits) -> Self {
        Self::start_for(router, limits, |access| access)
    }

    fn start_for(router: Router, limits: Limits, change: impl FnOnce(Access) -> Access) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(&dir.path().join("api.sock")).unwrap();
        let access = change(Access::of_socket(&listener).unwrap());
        let server = Server { router: harden(router, limits), access, limits };
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server.accept_until(listener, async { drop(stopped.await) }));
        Self { dir, stop, server }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    /// Status and body of the answer.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = self.connect().await;
        stream.write_all(request(method, path, body).as_bytes()).await.unwrap();
        answer(stream).await
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

async fn answer(mut stream: UnixStream) -> (u16, Value) {
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("no answer").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn echo() -> Router {
    Router::new()
        .route("/echo", post(async |Body(body): Body<Vec<u32>>| Json(body)))
        .route("/names/{a}/{b}", post(async |Params((a, b)): Params<(Name, Name)>| Json([a, b])))
}

fn assert_error((status, body): (u16, Value), expected_status: u16, code: &str, message: &str) {
    assert_eq!((status, &body["code"]), (expected_status, &json!(code)), "{body}");
    assert!(body["message"].as_str().unwrap().contains(message), "{body}");
}

#[tokio::test]
async fn what_is_right_is_answered() {
    let server = Harness::start(echo(), Limits::DEFAULT);
    assert_eq!(server.ask("POST", "/echo", "[1,2]").await, (200, json!([1, 2])));
    assert_eq!(server.ask("POST", "/names/a/b", "").await, (200, json!(["a", "b"])));
}

#[tokio::test]
async fn what_is_wrong_gets_an_error_body() {
    let server = Harness::start(echo(), Limits::DEFAULT);
    let unknown = server.ask("POST", "/nothing?x=1", "").await;
    assert_error(unknown, 404, "not_found", "the API has no path /nothing");
    assert_error(server.ask("DELETE", "/echo", "").await, 405, "invalid", "the API cannot DELETE /echo");
    assert_error(
        server.ask("POST", "/echo", "[1,").await,
        400,
        "invalid",
        "Failed to parse the request body as JSON",
    );
    assert_error(server.ask("POST", "/echo", "[\"x\"]").await, 422, "invalid", "expected u32");
    let name = server.ask("POST", "/names/a/%2e%2e", "").await;
    assert_error(name, 400, "invalid", "\"..\" is no name: use 1 to 63 letters");
}

#[tokio::test]
async fn a_body_without_the_json_type_is_refused() {
    let server = Harness::start(echo(), Limits::DEFAULT);
    let mut stream = server.connect().await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n[]").await.unwrap();
    assert_error(answer(stream).await, 415, "invalid", "application/json");
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_and_a_longer_one_refused() {
    let server = Harness::start(echo(), Limits::DEFAULT);
    let body = |len: usize| format!("[1{}]", " ".repeat(len - 3));
    assert_eq!(server.ask("POST", "/echo", &body(64 * 1024)).await, (200, json!([1])));
    let refused = server.ask("POST", "/echo", &body(64 * 1024 + 1)).await;
    assert_error(refused, 413, "invalid", "too large: 65536 bytes are the limit");
}

#[tokio::test]
async fn headers_that_do_not_come_end_the_connection() {
    let server = Harness::start(echo(), Limits { headers: SHORT, ..Limits::DEFAULT });
    for start in ["", "POST /echo HTTP/1.1\r\nhost:"] {
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("not cut off").unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Harness::start(echo(), Limits { request: SHORT, ..Limits::DEFAULT });
    let mut stream = server.connect().await;
    let whole = request("POST", "/echo", "[1,2]");
    stream.write_all(&whole.as_bytes()[..whole.len() - 1]).await.unwrap();
    assert_error(answer(stream).await, 503, "unavailable", "not done within 50ms; the change goes on");
}

#[tokio::test]
async fn an_answer_that_is_not_read_ends_the_connection() {
    let huge = "x".repeat(8 * 1024 * 1024);
    let router = Router::new().route("/huge", post(async move || huge.clone()));
    let server = Harness::start(router, Limits { connection: SHORT, connections: 1, ..Limits::DEFAULT });
    let mut idle = server.connect().await;
    idle.write_all(request("POST", "/huge", "").as_bytes()).await.unwrap();
    assert_eq!(server.ask("POST", "/nothing", "").await.0, 404);
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_their_turn() {
    let server = Harness::start(echo(), Limits { connections: 1, ..Limits::DEFAULT });
    let first = server.connect().await;
    let mut second = server.connect().await;
    second.write_all(request("POST", "/echo", "[2]").as_bytes()).await.unwrap();
    assert!(timeout(SHORT, second.readable()).await.is_err(), "the second was served beside the first");
    drop(first);
    assert_eq!(answer(second).await, (200, json!([2])));
}

#[tokio::test]
async fn who_may_not_ask_is_told_so() {
    let nobody = |_| Access { users: [u32::MAX; 2], group: u32::MAX };
    let server = Harness::start_for(echo(), Limits::DEFAULT, nobody);
    assert_error(server.ask("POST", "/echo", "[1]").await, 403, "forbidden", "only root");
}

#[tokio::test]
async fn stopping_finishes_running_requests_but_waits_for_no_new_ones() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begun_there, go_on_there) = (begun.clone(), go_on.clone());
    let wait = async move || {
        begun_there.notify_one();
        go_on_there.notified().await;
        Json("done")
    };
    let limits = Limits { headers: 2 * PATIENCE, ..Limits::DEFAULT };
    let server = Harness::start(Router::new().route("/wait", post(wait)), limits);
    let socket = server.socket();
    let _idle = server.connect().await;
    let mut running = server.connect().await;
    running.write_all(request("POST", "/wait", "").as_bytes()).await.unwrap();
    begun.notified().await;

    server.stop.send(()).unwrap();
    let open = server.server.await.unwrap();
    let closed = async { while UnixStream::connect(&socket).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("new connections are still taken");
    assert!(timeout(SHORT, open.all_free()).await.is_err(), "the running request was not waited for");
    go_on.notify_one();
    assert_eq!(answer(running).await, (200, json!("done")));
    timeout(PATIENCE, open.all_free()).await.expect("the idle connection was waited for");
}

/// A socket that nobody listens on. It never was a listener's: a process that another test forks
/// just now would keep that alive for a moment.
fn leave_stale_socket(path: &Path) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    leave_stale_socket(&path);
    let live = bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
    let error = bind(&path).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (io::ErrorKind::AddrInUse, "another agent answers on it".into())
    );
    UnixStream::connect(&path).await.expect("the live socket still answers");
    drop(live);

    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert_eq!(bind(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}
