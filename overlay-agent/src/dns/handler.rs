//! From a query to its answer.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    ProtoError,
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::PTR},
    serialize::binary::{BinEncodable as _, BinEncoder},
};
use ipnet::IpNet;
use rand::seq::SliceRandom as _;

use super::{
    Sources, Upstream,
    directory::Directory,
    limits::{Turn, Turns},
    names::{Known, Meaning, View},
};
use crate::agent::lock;

/// How long an answer of ours may be kept, in seconds: containers come and go.
const TTL: u32 = 5;
/// Longest UDP answer in bytes: no path fragments it (DNS Flag Day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// Longest UDP answer to those who do not say what they take (RFC 1035 section 4.2.1).
const PLAIN_UDP_PAYLOAD: u16 = 512;
/// Bytes of a message's header.
const HEADER_LEN: usize = 12;
/// Queries of one container that may wait for others at once; more are refused.
const IN_FLIGHT: usize = 64;

/// Answers queries.
pub struct Handler {
    sources: Sources,
    directory: Mutex<Directory>,
    waiting: Turns,
}

/// What is to be done about a query.
pub enum Outcome {
    /// Nothing: this is the answer.
    Answer(Response),
    /// Others have to be asked.
    Ask(Question),
}

/// What goes into a response.
type Answer = Result<Vec<Record>, ResponseCode>;

impl Handler {
    /// A handler that answers from these.
    pub fn new(sources: Sources) -> Self {
        Self { sources, directory: Mutex::default(), waiting: Turns::new(IN_FLIGHT) }
    }

    /// What to do about a message from this address; `None`: nothing, it is no query.
    pub fn take(&self, message: &[u8], source: Ipv4Addr) -> Option<Outcome> {
        let Ok(message) = Message::from_vec(message) else {
            return Response::to_malformed(message).map(Outcome::Answer);
        };
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let response = Response::to(&message);
        let taken = check(&message).and_then(|query| self.answer_or_ask(query, source));
        Some(match taken {
            Ok(Taken::Known(records)) => Outcome::Answer(response.with(Ok(records))),
            Ok(Taken::Foreign(upstream, turn)) => Outcome::Ask(Question { response, upstream, _turn: turn }),
            Err(code) => Outcome::Answer(response.with(Err(code))),
        })
    }

    /// The answer to a message from this address, once there is one.
    pub async fn answer(&self, message: &[u8], source: Ipv4Addr) -> Option<Response> {
        Some(match self.take(message, source)? {
            Outcome::Answer(response) => response,
            Outcome::Ask(question) => question.ask().await,
        })
    }

    fn answer_or_ask(&self, query: &Query, source: Ipv4Addr) -> Result<Taken, ResponseCode> {
        match self.meaning(query, source).ok_or(ResponseCode::Refused)? {
            Meaning::Containers(addresses) => Ok(Taken::Known(address_records(query, addresses))),
            Meaning::Name(name) => name_record(query, &name).map(Taken::Known),
            Meaning::Nothing => Err(ResponseCode::NXDomain),
            Meaning::Foreign => {
                let upstream = self.sources.upstream.clone().ok_or(ResponseCode::ServFail)?;
                let turn = self.waiting.begin(source).ok_or(ResponseCode::Refused)?;
                Ok(Taken::Foreign(upstream, turn))
            }
        }
    }

    /// What the query means to whoever has this address; `None` if no container of this host has it.
    fn meaning(&self, query: &Query, source: Ipv4Addr) -> Option<Meaning> {
        let asker = (self.sources.who_is)(source)?;
        let cluster = Arc::clone(&self.sources.cluster.borrow());
        let down = self.sources.absences.borrow().down();
        let mut directory = lock(&self.directory);
        directory.follow(&cluster);
        let here = &self.sources.here;
        let view = View::of(Known { cluster: &cluster, directory: &directory, here, down: &down }, &asker);
        Some(match address_asked_for(query.name()) {
            Some(address) => view.owner(address),
            None => view.meaning(query.name().to_utf8().trim_end_matches('.')),
        })
    }
}

enum Taken {
    Known(Vec<Record>),
    Foreign(Arc<Upstream>, Turn),
}

/// The one query of a message that we can answer.
fn check(message: &Message) -> Result<&Query, ResponseCode> {
    if message.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    match &message.queries[..] {
        [query] if query.query_class() == DNSClass::IN => Ok(query),
        [_] => Err(ResponseCode::NotImp),
        _ => Err(ResponseCode::FormErr),
    }
}

/// A query that others have to be asked about.
pub struct Question {
    response: Response,
    upstream: Arc<Upstream>,
    _turn: Turn,
}

impl Question {
    /// Asks them.
    pub async fn ask(self) -> Response {
        let Some(query) = self.response.message.queries.first() else { return self.response };
        let answer = self.upstream.ask(query.name().clone(), query.query_type()).await;
        self.response.with(answer)
    }
}

/// An answer on its way to its bytes.
pub struct Response {
    message: Message,
    /// Longest UDP answer that the asker takes.
    udp_payload: u16,
}

impl Response {
    fn to(message: &Message) -> Self {
        let mut response = Message::response(message.metadata.id, message.metadata.op_code);
        response.metadata = Metadata::response_from_request(&message.metadata);
        response.metadata.recursion_available = true;
        response.add_queries(message.queries.iter().cloned());
        let udp_payload = message.edns.as_ref().map_or(PLAIN_UDP_PAYLOAD, |theirs| {
            let payload = theirs.max_payload().clamp(PLAIN_UDP_PAYLOAD, UDP_PAYLOAD);
            let mut ours = Edns::new();
            ours.set_max_payload(payload);
            response.set_edns(ours);
            payload
        });
        Self { message: response, udp_payload }
    }

    /// For what cannot be read but has a header, and is no answer itself.
    fn to_malformed(message: &[u8]) -> Option<Self> {
        let [id_high, id_low, flags, ..] = *message.get(..HEADER_LEN)? else { return None };
        let is_response = flags & 0x80 != 0;
        let id = u16::from_be_bytes([id_high, id_low]);
        let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
        (!is_response).then_some(Self { message, udp_payload: PLAIN_UDP_PAYLOAD })
    }

    fn with(mut self, answer: Answer) -> Self {
        match answer {
            Ok(records) => self.message.insert_answers(records),
            Err(code) => self.message.metadata.response_code = code,
        }
        self
    }

    /// As a datagram. What does not fit is left out, and the message says so.
    pub fn for_udp(&self) -> Result<Vec<u8>, ProtoError> {
        self.encode(self.udp_payload)
    }

    /// As a message of a connection, without its length.
    pub fn for_tcp(&self) -> Result<Vec<u8>, ProtoError> {
        self.encode(u16::MAX)
    }

    fn encode(&self, most: u16) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = Vec::with_capacity(PLAIN_UDP_PAYLOAD.into());
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(most);
        self.message.emit(&mut encoder)?;
        Ok(bytes)
    }
}

/// The address in a name such as `2.0.0.10.in-addr.arpa`, or the longer kind below `ip6.arpa`, if it is a whole one.
fn address_asked_for(name: &Name) -> Option<IpAddr> {
    let net: IpNet = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// Shuffled, so that clients that take the first spread over all. Asked for a kind of address that its containers do not
/// have, the name exists and has nothing of it.
fn address_records(query: &Query, mut addresses: Vec<IpAddr>) -> Vec<Record> {
    addresses.retain(|address| match query.query_type() {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        kind => kind == RecordType::ANY,
    });
    addresses.shuffle(&mut rand::rng());
    let data = |address| match address {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    };
    addresses.into_iter().map(|ip| Record::from_rdata(query.name().clone(), TTL, data(ip))).collect()
}

fn name_record(query: &Query, name: &str) -> Answer {
    if !matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
        return Ok(Vec::new());
    }
    let mut target = Name::from_utf8(name).map_err(|_| ResponseCode::ServFail)?;
    target.set_fqdn(true);
    let owner = query.name().clone();
    Ok(vec![Record::from_rdata(owner, TTL, RData::PTR(PTR(target)))])
}
