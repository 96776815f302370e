//! Real queries over real sockets: a resolver, and another that plays the world.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Message, MessageType, OpCode, Query, ResponseCode},
        rr::{Name, RData, Record, RecordType},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use rstest::rstest;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};

use super::{
    Resolver, ServerAddress, Sources, Trouble, Upstream,
    handler::{Handler, Outcome},
    server::Sockets,
};
use crate::{
    agent::presence::Absences,
    model::Cluster,
    store::{Entry, Revision},
};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const PATIENCE: Duration = Duration::from_secs(10);

/// Knows `example.org`, keeps silent about `silent.org`, and nothing else.
struct World;

#[async_trait::async_trait]
impl RequestHandler for World {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let query = request.request_info().unwrap().query;
        let name = query.original().name().clone();
        let asked = name.to_string();
        if asked == "silent.org." {
            std::future::pending::<()>().await;
        }
        let mut metadata = request.metadata;
        metadata.message_type = MessageType::Response;
        let known = asked == "example.org.";
        metadata.response_code = if known { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let records = match (known, query.query_type()) {
            (true, RecordType::A) => vec![Record::from_rdata(name, 300, RData::A(WORLD.into()))],
            _ => Vec::new(),
        };
        let message =
            MessageResponseBuilder::new(&request.queries, None).build(metadata, &records, [], [], []);
        to.send_response(message).await.unwrap()
    }
}

/// A resolver for container `web` in blue, with 40 containers called `many`; `lone` is in red, which is internal.
struct Lab {
    address: SocketAddr,
    _resolver: Resolver,
    _world: Server<World>,
    _cluster: watch::Sender<Arc<Cluster>>,
}

fn cluster() -> Cluster {
    let network = |name: &str, vni: u32, net: u8, internal: bool| {
        let value = json!({"name": name, "vni": vni, "subnet": format!("10.0.{net}.0/24"),
                           "gateway": format!("10.0.{net}.1"), "internal": internal});
        (format!("overlay/v1/networks/{name}"), value)
    };
    let endpoint = |id: u64, network: &str, name: &str, ip: String, aliases: &[&str]| {
        let value = json!({"id": format!("{id:016x}"), "network": network, "name": name, "node": "host1",
                           "ipv4": ip, "mac": "02:42:0a:00:00:02", "ifname": "eth0", "netns": name,
                           "aliases": aliases});
        let claim = json!({"state": "held", "endpoint": format!("{id:016x}")});
        [
            (format!("overlay/v1/endpoints/{network}/{id:016x}"), value),
            (format!("overlay/v1/addresses/{network}/{ip}"), claim),
        ]
    };
    let many = (0..40)
        .map(|n| endpoint(100 + n, "blue", &format!("m{n}"), format!("10.0.0.{}", 100 + n), &["many"]));
    let entries = [network("blue", 256, 0, false), network("red", 257, 1, true)]
        .into_iter()
        .chain(endpoint(1, "blue", "web", "10.0.0.2".to_owned(), &[]))
        .chain(endpoint(2, "red", "lone", "10.0.1.2".to_owned(), &[]))
        .chain(many.flatten())
        .map(|(key, value)| Entry {
            key,
            value: value.to_string().into_bytes(),
            revision: Revision(1),
            lease: None,
        });
    Cluster::from_listing(&entries.collect::<Vec<_>>(), Revision(1))
}

fn free_address() -> SocketAddr {
    StdTcpListener::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

impl Lab {
    /// Whoever asks from the loopback device is this container, if there is one.
    async fn new(asker: Option<&str>) -> Self {
        Self::start(asker, true).await
    }

    async fn without_upstream() -> Self {
        Self::start(Some("web"), false).await
    }

    async fn start(asker: Option<&str>, has_upstream: bool) -> Self {
        let tcp = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let world_address = tcp.local_addr().unwrap();
        let mut world = Server::new(World);
        world.register_socket(UdpSocket::bind(world_address).await.unwrap());
        world.register_listener(tcp, PATIENCE, 8);
        let (sender, cluster) = watch::channel(Arc::new(cluster()));
        let asker = asker.map(|name| {
            let cluster = cluster.borrow();
            let own = cluster.endpoints.values().filter(|e| e.record.name.as_str() == name);
            Arc::new(own.map(|e| e.record.id.clone()).collect())
        });
        let sources = Sources {
            here: "host1".parse().unwrap(),
            cluster,
            absences: watch::channel(Absences::default()).1,
            who_is: Arc::new(move |_| asker.clone()),
            upstream: has_upstream.then(|| Arc::new(Upstream::new(&[ServerAddress(world_address)]).unwrap())),
        };
        let address = free_address();
        let lab = Self {
            address,
            _resolver: Resolver::start(sources, address, Trouble::new(None)),
            _world: world,
            _cluster: sender,
        };
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        lab
    }

    async fn udp(&self, name: &str, kind: RecordType) -> Message {
        let socket = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
        socket.send_to(&query(name, kind), self.address).await.unwrap();
        let mut answer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut answer)).await.expect("an answer").unwrap();
        Message::from_vec(&answer[..length]).unwrap()
    }

    async fn tcp(&self, name: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let query = query(name, kind);
        stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// Whether a query on this connection is answered; otherwise it is closed.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let query = query("web.", RecordType::A);
    let message = [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat();
    let asked = stream.write_all(&message).await;
    asked.is_ok() && timeout(PATIENCE, stream.read_u16()).await.expect("an answer or an end").is_ok()
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => a.0,
        other => panic!("{other:?}"),
    };
    message.answers.iter().map(address).collect()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[rstest]
#[case::name("web.", &[[10, 0, 0, 2]])]
#[case::any_case("WEB.Blue.", &[[10, 0, 0, 2]])]
#[case::the_world("example.org.", &[[203, 0, 113, 7]])]
#[tokio::test]
async fn names_have_addresses_over_udp_and_tcp(#[case] name: &str, #[case] expected: &[[u8; 4]]) {
    let lab = Lab::new(Some("web")).await;
    let expected: Vec<Ipv4Addr> = expected.iter().map(|octets| (*octets).into()).collect();
    for answer in [lab.udp(name, RecordType::A).await, lab.tcp(name, RecordType::A).await] {
        assert_eq!((addresses(&answer), code(&answer)), (expected.clone(), ResponseCode::NoError));
        assert_eq!(answer.metadata.id, 4711);
        assert!(answer.metadata.recursion_available);
        assert_eq!(answer.answers[0].name.to_string(), name, "the name as it was asked for");
    }
}

#[tokio::test]
async fn our_answers_are_kept_for_five_seconds_at_most() {
    let lab = Lab::new(Some("web")).await;
    assert!(lab.udp("web.", RecordType::A).await.answers[0].ttl <= 5);
}

#[tokio::test]
async fn a_name_has_no_address_of_the_other_family_and_that_is_no_error() {
    let lab = Lab::new(Some("web")).await;
    for name in ["web.", "example.org."] {
        let answer = lab.udp(name, RecordType::AAAA).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0), "{name}");
    }
}

#[tokio::test]
async fn an_address_has_a_name() {
    let lab = Lab::new(Some("web")).await;
    let answer = lab.udp("2.0.0.10.in-addr.arpa.", RecordType::PTR).await;
    assert!(matches!(&answer.answers[..], [record] if record.data.to_string() == "web.blue."), "{answer:?}");
    assert_eq!(code(&lab.udp("99.0.0.10.in-addr.arpa.", RecordType::PTR).await), ResponseCode::NXDomain);
}

#[rstest]
#[case::unknown_here("none.blue.")]
#[case::unknown_upstream("none.org.")]
#[tokio::test]
async fn a_name_that_nobody_has_does_not_exist(#[case] name: &str) {
    let lab = Lab::new(Some("web")).await;
    assert_eq!(code(&lab.udp(name, RecordType::A).await), ResponseCode::NXDomain);
}

#[tokio::test]
async fn an_internal_network_asks_nobody_else() {
    let lab = Lab::new(Some("lone")).await;
    assert_eq!(addresses(&lab.udp("lone.", RecordType::A).await), [Ipv4Addr::new(10, 0, 1, 2)]);
    for name in ["example.org.", "silent.org.", "web.blue."] {
        assert_eq!(code(&lab.udp(name, RecordType::A).await), ResponseCode::NXDomain, "{name}");
    }
}

#[tokio::test]
async fn who_is_no_container_is_refused() {
    let lab = Lab::new(None).await;
    for name in ["web.", "example.org."] {
        assert_eq!(code(&lab.udp(name, RecordType::A).await), ResponseCode::Refused, "{name}");
    }
}

/// A handler at a container in a network of so many, and how long a query takes it on average.
fn time_of_a_query(endpoints: u32) -> Duration {
    const QUERIES: u32 = 1000;
    let record = |n: u32| {
        let value = json!({"id": format!("{n:016x}"), "network": "blue", "name": format!("box{n}"), "node": "host1",
                           "ipv4": Ipv4Addr::from(0x0a00_0002 + n), "mac": "02:42:0a:00:00:02", "ifname": "eth0",
                           "netns": format!("/run/netns/box{n}"), "aliases": ["all"]});
        (format!("overlay/v1/endpoints/blue/{n:016x}"), value.to_string().into_bytes())
    };
    let network = json!({"name": "blue", "vni": 256, "subnet": "10.0.0.0/8", "gateway": "10.0.0.1"});
    let network = ("overlay/v1/networks/blue".to_owned(), network.to_string().into_bytes());
    let entries: Vec<Entry> = (0..endpoints)
        .map(record)
        .chain([network])
        .map(|(key, value)| Entry { key, value, revision: Revision(1), lease: None })
        .collect();
    let asker = Arc::new([format!("{:016x}", 0).parse().unwrap()].into());
    let handler = Handler::new(Sources {
        here: "host1".parse().unwrap(),
        cluster: watch::channel(Arc::new(Cluster::from_listing(&entries, Revision(1)))).1,
        absences: watch::channel(Absences::default()).1,
        who_is: Arc::new(move |_| Some(Arc::clone(&asker))),
        upstream: None,
    });
    let ask = |n: u32| handler.take(&query(&format!("box{n}.blue."), RecordType::A), LOCALHOST);
    assert!(matches!(ask(endpoints - 1), Some(Outcome::Answer(_))));
    let start = Instant::now();
    (0..QUERIES).for_each(|n| drop(ask(n * 7 % endpoints)));
    start.elapsed() / QUERIES
}

#[test]
fn a_query_costs_no_more_among_ten_thousand_containers_than_among_ten() {
    let (few, many) = (time_of_a_query(10), time_of_a_query(10_000));
    println!("a query takes {few:?} among 10 containers, {many:?} among 10,000");
    assert!(many < 10 * few, "{few:?}, {many:?}");
}

#[tokio::test]
async fn all_of_an_alias_are_answered_and_shuffled() {
    let lab = Lab::new(Some("web")).await;
    let first = addresses(&lab.tcp("many.", RecordType::A).await);
    let second = addresses(&lab.tcp("many.", RecordType::A).await);
    assert_ne!(first, second, "forty in the same order twice: once in 10^47 times by chance");
    for mut all in [first, second] {
        all.sort_unstable();
        assert_eq!(all, (100..140).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_does_not_fit_is_said_to_be_cut_and_there_over_tcp() {
    let lab = Lab::new(Some("web")).await;
    let cut = lab.udp("many.", RecordType::A).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 40, "{cut:?}");
    assert!(!lab.tcp("many.", RecordType::A).await.metadata.truncation);
}

#[tokio::test]
async fn one_that_floods_with_questions_for_others_is_refused_and_still_gets_its_names() {
    let lab = Lab::new(Some("web")).await;
    let flood = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    for _ in 0..200 {
        flood.send_to(&query("silent.org.", RecordType::A), lab.address).await.unwrap();
    }
    let mut answer = vec![0; 512];
    let length = timeout(PATIENCE, flood.recv(&mut answer)).await.expect("a refusal").unwrap();
    assert_eq!(code(&Message::from_vec(&answer[..length]).unwrap()), ResponseCode::Refused);
    assert_eq!(addresses(&lab.udp("web.", RecordType::A).await).len(), 1);
}

#[tokio::test]
async fn a_container_has_so_many_connections_and_gets_them_back() {
    let lab = Lab::new(Some("web")).await;
    // The first one is there when it is answered; those before it may be that of the lab itself.
    let _ = lab.tcp("web.", RecordType::A).await;
    let mut open = Vec::new();
    let is_closed = loop {
        let mut stream = TcpStream::connect(lab.address).await.unwrap();
        let answered = is_answered(&mut stream).await;
        if !answered || open.len() > 100 {
            break !answered;
        }
        open.push(stream);
    };
    assert!(is_closed, "{} connections", open.len());
    assert!((10..=16).contains(&open.len()), "{} connections", open.len());
    assert_eq!(
        addresses(&lab.udp("web.", RecordType::A).await).len(),
        1,
        "datagrams are answered all the same"
    );
    drop(open);
    let again = async { while !is_answered(&mut TcpStream::connect(lab.address).await.unwrap()).await {} };
    timeout(PATIENCE, again).await.expect("a connection is free again");
}

#[tokio::test]
async fn a_connection_that_says_more_than_a_question_is_closed() {
    let lab = Lab::new(Some("web")).await;
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    stream.write_u16(u16::MAX).await.unwrap();
    assert!(timeout(PATIENCE, stream.read_u16()).await.expect("an end").is_err());
}

#[tokio::test]
async fn without_anybody_to_ask_other_names_fail_and_our_own_are_there() {
    let lab = Lab::without_upstream().await;
    assert_eq!(code(&lab.udp("example.org.", RecordType::A).await), ResponseCode::ServFail);
    assert_eq!(addresses(&lab.udp("web.", RecordType::A).await).len(), 1);
}

#[rstest]
#[case::empty(vec![])]
#[case::short(vec![0; 5])]
#[case::ones(vec![0xff; 40])]
#[case::counts_lie([&[0x12, 0x67, 1, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0][..], &[0xc0, 0x0c]].concat())]
#[case::name_points_at_itself([&[0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 0x0c, 0, 1, 0, 1]].concat())]
#[tokio::test]
async fn what_is_no_query_does_no_harm(#[case] bytes: Vec<u8>) {
    let lab = Lab::new(Some("web")).await;
    let socket = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    socket.send_to(&bytes, lab.address).await.unwrap();
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(addresses(&lab.udp("web.", RecordType::A).await).len(), 1);
}

#[tokio::test]
async fn an_address_that_somebody_has_is_reported_and_taken_as_soon_as_it_is_free() {
    let holder = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = holder.local_addr().unwrap();
    let (trouble, mut reported) = watch::channel(None);
    let sockets = tokio::spawn(async move { Sockets::bind_when_there(address, &trouble).await });
    let reason = timeout(PATIENCE, reported.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    let reason: String = reason.unwrap();
    assert!(reason.contains(&address.to_string()) && reason.contains("in use"), "{reason}");
    drop(holder);
    timeout(PATIENCE, sockets).await.unwrap().unwrap();
    assert_eq!(*reported.borrow(), None);
}
