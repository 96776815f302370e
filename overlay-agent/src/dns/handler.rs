//! From a query to its answer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use hickory_server::{
    net::runtime::Time,
    proto::{
        op::{Edns, Header, HeaderCounts, LowerQuery, MessageType, Metadata, OpCode, ResponseCode},
        rr::{DNSClass, Name, RData, Record, RecordType, rdata::PTR},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use ipnet::IpNet;
use rand::seq::SliceRandom as _;

use super::{
    Sources,
    names::{Meaning, View},
};
use crate::{agent::lock, model::EndpointId};

/// How long an answer of ours may be kept, in seconds: containers come and go.
const TTL: u32 = 5;
/// Longest UDP answer in bytes: no path fragments it (DNS Flag Day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// Queries of one container that may wait for others at once; more are refused, so that nobody slows the rest.
const IN_FLIGHT: usize = 64;

/// Answers queries.
pub struct Handler {
    sources: Sources,
    waiting: Waiting,
}

/// What goes into a response.
type Answer = Result<Vec<Record>, ResponseCode>;

impl Handler {
    /// A handler that answers from these.
    pub fn new(sources: Sources) -> Self {
        Self { sources, waiting: Waiting::default() }
    }

    async fn answer(&self, request: &Request) -> Answer {
        let info = request.request_info().map_err(|_| ResponseCode::FormErr)?;
        if info.metadata.op_code != OpCode::Query || info.metadata.message_type != MessageType::Query {
            return Err(ResponseCode::NotImp);
        }
        let IpAddr::V4(source) = info.src.ip() else { return Err(ResponseCode::Refused) };
        let query = info.query;
        if query.query_class() != DNSClass::IN {
            return Err(ResponseCode::NotImp);
        }
        let (asker, meaning) = self.meaning(source, query).ok_or(ResponseCode::Refused)?;
        match meaning {
            Meaning::Containers(addresses) => Ok(address_records(query, addresses)),
            Meaning::Name(name) => name_record(query, &name),
            Meaning::Nothing => Err(ResponseCode::NXDomain),
            Meaning::Foreign => {
                let _turn = self.waiting.begin(asker).ok_or(ResponseCode::Refused)?;
                self.sources.upstream.ask(query.original().name().clone(), query.query_type()).await
            }
        }
    }

    /// What the query means to whoever has this address; `None` if no container of this host has it.
    fn meaning(&self, source: Ipv4Addr, query: &LowerQuery) -> Option<(EndpointId, Meaning)> {
        let asker = (self.sources.who_is)(source)?;
        let cluster = Arc::clone(&self.sources.cluster.borrow());
        let view = View::of(&cluster, &cluster.endpoints.get(&asker)?.record);
        let name = Name::from(query.name());
        let meaning = match address_asked_for(&name) {
            Some(address) => view.owner(address),
            None => view.meaning(name.to_utf8().trim_end_matches('.')),
        };
        Some((asker, meaning))
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let answer = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let records = match answer {
            Ok(records) => records,
            Err(code) => {
                metadata.response_code = code;
                Vec::new()
            }
        };
        let edns = request.edns.as_ref().map(|theirs| {
            let mut ours = Edns::new();
            ours.set_max_payload(theirs.max_payload().min(UDP_PAYLOAD));
            ours
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let message = builder.build(metadata, &records, [], [], []);
        response.send_response(message).await.unwrap_or_else(|e| {
            tracing::debug!(reason = %e, "answer not sent");
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

/// The address in a name such as `2.0.0.10.in-addr.arpa`, if it is a whole one.
fn address_asked_for(name: &Name) -> Option<Ipv4Addr> {
    match name.parse_arpa_name().ok()? {
        IpNet::V4(net) if net.prefix_len() == 32 => Some(net.addr()),
        _ => None,
    }
}

/// Shuffled, so that clients that take the first spread over all. There are only IPv4 addresses: asked for
/// another kind, the name exists and has nothing of it.
fn address_records(query: &LowerQuery, mut addresses: Vec<Ipv4Addr>) -> Vec<Record> {
    if !matches!(query.query_type(), RecordType::A | RecordType::ANY) {
        return Vec::new();
    }
    addresses.shuffle(&mut rand::rng());
    let name = query.original().name();
    addresses.into_iter().map(|ip| Record::from_rdata(name.clone(), TTL, RData::A(ip.into()))).collect()
}

fn name_record(query: &LowerQuery, name: &str) -> Answer {
    if !matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
        return Ok(Vec::new());
    }
    let mut target = Name::from_utf8(name).map_err(|_| ResponseCode::ServFail)?;
    target.set_fqdn(true);
    let owner = query.original().name().clone();
    Ok(vec![Record::from_rdata(owner, TTL, RData::PTR(PTR(target)))])
}

/// How many queries of each container wait for others.
#[derive(Default)]
struct Waiting(Arc<Mutex<BTreeMap<EndpointId, usize>>>);

/// A query's turn; ends when dropped.
struct Turn {
    waiting: Arc<Mutex<BTreeMap<EndpointId, usize>>>,
    asker: EndpointId,
}

impl Waiting {
    /// `None` if too many wait already.
    fn begin(&self, asker: EndpointId) -> Option<Turn> {
        let mut waiting = lock(&self.0);
        let count = waiting.entry(asker.clone()).or_default();
        if *count >= IN_FLIGHT {
            return None;
        }
        *count += 1;
        Some(Turn { waiting: Arc::clone(&self.0), asker })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        if let Some(count) = waiting.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.asker);
            }
        }
    }
}
