//! What our table holds.
//!
//! ```text
//! prerouting  −300  host-local addresses neither come from nor go to any other device
//! prerouting  −101 ┐
//! output      −101 ┴ to an address of this host: published port → host-local address and port
//! forward        0  what was never translated goes nowhere; devices that forward for us forward for nobody else
//! postrouting  100  host-local sources become the address that the packet leaves with
//! ```

use std::net::SocketAddrV4;

use ipnet::Ipv4Net;
use nftables::{
    batch::Batch,
    expr::{CT, SetItem},
    expr::{
        Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix,
    },
    schema::{Chain, NfListObject, Nftables, Rule, Table},
    stmt::{Drop, JumpTarget, Match, NAT, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};

use super::TABLE;
use crate::model::Publication;

const PUBLISHED: &str = "published";
const LOOPBACK: &str = "lo";
/// Priorities of the kernel's own names `raw`, `filter` and `srcnat`, and one before its `dstnat`: the first translation of a
/// connection is the one that counts, and of others' at the same priority those that came last would be first.
const RAW: i32 = -300;
const DSTNAT: i32 = -101;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// A published port and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// What was asked for.
    pub publication: Publication,
    /// The container's host-local address and its port.
    pub target: SocketAddrV4,
}

/// All that the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The gateway device.
    pub device: String,
    /// The range of host-local addresses.
    pub range: Ipv4Net,
    /// Devices that forward only because we told them to.
    pub closed: Vec<String>,
    /// Published ports.
    pub published: Vec<Published>,
}

/// The batch that takes the table away, if it is there.
pub(super) fn removal() -> Nftables<'static> {
    let mut batch = Batch::new();
    // To add what may be there is no error, to delete what is not is one.
    batch.add(table());
    batch.delete(table());
    batch.to_nftables()
}

impl Rules {
    /// The batch that puts these rules in the place of whatever the table held.
    pub(super) fn replace(&self) -> Nftables<'static> {
        let mut batch = Batch::new();
        batch.add(table());
        batch.delete(table());
        batch.add(table());
        for (chain, rules) in self.chains() {
            let name = chain.name.clone();
            batch.add(NfListObject::Chain(chain));
            for expr in rules {
                batch.add(NfListObject::Rule(rule(&name, expr)));
            }
        }
        batch.to_nftables()
    }

    fn chains(&self) -> [(Chain<'static>, Vec<Vec<Statement<'static>>>); 6] {
        use NfChainType::{Filter, NAT};
        use NfHook::{Forward, Output, Postrouting, Prerouting};
        let to_published = || vec![vec![destination_is_local(), jump(PUBLISHED)]];
        [
            (chain(PUBLISHED), self.published.iter().map(translation).collect()),
            (base("guard", Filter, Prerouting, RAW), self.guard()),
            (base("prerouting", NAT, Prerouting, DSTNAT), to_published()),
            (base("output", NAT, Output, DSTNAT), to_published()),
            (base("forward", Filter, Forward, FILTER), self.forward()),
            (base("postrouting", NAT, Postrouting, SRCNAT), self.masquerade()),
        ]
    }

    /// What somebody else on the wire sends to or from host-local addresses.
    fn guard(&self) -> Vec<Vec<Statement<'static>>> {
        let outside = || {
            let inside = [LOOPBACK.to_owned(), self.device.clone()].map(|name| SetItem::Element(text(name)));
            let inside = Expression::Named(NamedExpression::Set(inside.into()));
            matches(meta(MetaKey::Iifname), Operator::NEQ, inside)
        };
        ["saddr", "daddr"].map(|field| vec![outside(), self.in_range(field), drop()]).into()
    }

    /// Without a state the kernel translates nothing, and the address would leave the host.
    fn forward(&self) -> Vec<Vec<Statement<'static>>> {
        let invalid = {
            let state = CT { key: "state".into(), family: None, dir: None };
            let state = Expression::Named(NamedExpression::CT(state));
            vec![matches(state, Operator::IN, text("invalid")), self.in_range("saddr"), drop()]
        };
        let closed = |device: &String| {
            let from = matches(meta(MetaKey::Iifname), Operator::EQ, text(device.clone()));
            vec![from, matches(meta(MetaKey::Oifname), Operator::NEQ, text(self.device.clone())), drop()]
        };
        [invalid].into_iter().chain(self.closed.iter().map(closed)).collect()
    }

    /// A connection that the host makes to its own loopback address needs one that the container can answer to.
    fn masquerade(&self) -> Vec<Vec<Statement<'static>>> {
        let loopback = Ipv4Net::new_assert([127, 0, 0, 0].into(), 8);
        let to_container = matches(meta(MetaKey::Oifname), Operator::EQ, text(self.device.clone()));
        vec![
            vec![self.in_range("saddr"), Statement::Masquerade(None)],
            vec![to_container, address_in("saddr", loopback), Statement::Masquerade(None)],
        ]
    }

    fn in_range(&self, field: &'static str) -> Statement<'static> {
        address_in(field, self.range)
    }
}

fn translation(published: &Published) -> Vec<Statement<'static>> {
    let Published { publication, target } = published;
    let port = payload(publication.protocol.name(), "dport");
    let to = NAT {
        addr: Some(text(target.ip().to_string())),
        family: None,
        port: Some(Expression::Number(target.port().into())),
        flags: None,
    };
    let host_port = Expression::Number(publication.host_port.get().into());
    vec![matches(port, Operator::EQ, host_port), Statement::DNAT(Some(to))]
}

fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::IP, name: TABLE.into(), handle: None })
}

fn chain(name: &'static str) -> Chain<'static> {
    Chain { family: NfFamily::IP, table: TABLE.into(), name: name.into(), ..Chain::default() }
}

fn base(name: &'static str, kind: NfChainType, hook: NfHook, priority: i32) -> Chain<'static> {
    Chain {
        _type: Some(kind),
        hook: Some(hook),
        prio: Some(priority),
        policy: Some(NfChainPolicy::Accept),
        ..chain(name)
    }
}

fn rule(chain: &str, expr: Vec<Statement<'static>>) -> Rule<'static> {
    Rule {
        family: NfFamily::IP,
        table: TABLE.into(),
        chain: chain.to_owned().into(),
        expr: expr.into(),
        ..Rule::default()
    }
}

pub(super) fn matches(
    left: Expression<'static>,
    op: Operator,
    right: Expression<'static>,
) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

pub(super) fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn text(text: impl Into<String>) -> Expression<'static> {
    Expression::String(text.into().into())
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn address_in(field: &'static str, net: Ipv4Net) -> Statement<'static> {
    let addr = Box::new(text(net.network().to_string()));
    let net = Expression::Named(NamedExpression::Prefix(Prefix { addr, len: net.prefix_len().into() }));
    matches(payload("ip", field), Operator::EQ, net)
}

fn destination_is_local() -> Statement<'static> {
    let fib = Fib { result: FibResult::Type, flags: [FibFlag::Daddr].into() };
    matches(Expression::Named(NamedExpression::Fib(fib)), Operator::EQ, text("local"))
}

fn jump(chain: &'static str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: chain.into() })
}

fn drop() -> Statement<'static> {
    Statement::Drop(Some(Drop {}))
}
