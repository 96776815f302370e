//! Rules between two networks, a packet at a time: what they let through, what they count, and what makes an answer.

use etherparse::{IpNumber, TcpHeader, ip_number};
use overlay_common::{
    flow::{FRAGMENTS_NS, OTHER_IDLE_NS},
    policy::{Rule, RuleBits},
    wire::headers::ip_proto::{ICMP, TCP, UDP},
};
use overlay_tests::packet::offset;

use super::{world::Run, *};
use overlay_common::policy::{PolicyKey, RuleSet};

/// From the network of the container under test to the other one.
const THERE: PolicyKey = PolicyKey { src_vni: VNI, dst_vni: VNI_ROUTED };
/// The other way.
const BACK: PolicyKey = PolicyKey { src_vni: VNI_ROUTED, dst_vni: VNI };

const TCP_RULE: u32 = 7;
const UDP_RULE: u32 = 8;
const ICMP_RULE: u32 = 9;
const LABEL_RULE: u32 = 10;
/// The slot of the last.
const LABEL_BIT: u32 = 1 << 31;

fn rule(id: u32, protocol: u8, first_port: u16, last_port: u16) -> Rule {
    let protocol_mask = if protocol == 0 { 0 } else { u8::MAX };
    Rule { id, first_port, last_port, protocol, protocol_mask, slot: 0, pad: 0 }
}

fn set(flags: u32, rules: &[Rule]) -> RuleSet {
    let mut set = RuleSet { flags, count: u32::try_from(rules.len()).unwrap(), ..RuleSet::default() };
    set.rules[..rules.len()].copy_from_slice(rules);
    set
}

/// TCP 5432, UDP 53 to 54, ICMP, and TCP 9999 for those with labels.
fn rules() -> RuleSet {
    let labelled = Rule { slot: 31, ..rule(LABEL_RULE, TCP, 9999, 9999) };
    let some =
        [rule(TCP_RULE, TCP, 5432, 5432), rule(UDP_RULE, UDP, 53, 54), rule(ICMP_RULE, ICMP, 0, u16::MAX)];
    RuleSet { src_labelled: LABEL_BIT, dst_labelled: LABEL_BIT, ..set(0, &[&some[..], &[labelled]].concat()) }
}

/// The rules hold from the container under test to the other network, which may only answer.
fn one_way() -> World {
    let mut world = World::load();
    world.set_rules(THERE, rules());
    world.set_rules(BACK, set(RuleSet::ANSWERS, &[]));
    world
}

fn send(world: &mut World, frame: &Frame) -> Run {
    world.run(program::FROM_ENDPOINT, frame)
}

/// A frame of the other network arrives, as the other host routes it.
fn receive(world: &mut World, frame: &Frame) -> Run {
    world.run(program::FROM_UNDERLAY, &from_remote(frame))
}

/// To the other network by way of the gateway.
const TO: Addr = Addr { mac: GATEWAY.mac, ip: ROUTED.ip };
/// From the other network by way of the gateway.
const FROM: Addr = TO;

fn tcp(from: Addr, to: Addr, (src_port, dst_port): (u16, u16), edit: impl FnOnce(&mut TcpHeader)) -> Frame {
    let mut header = TcpHeader::new(src_port, dst_port, 1, 64_000);
    edit(&mut header);
    Frame::ipv4(from, to, ip_number::TCP, &header.to_bytes())
}

fn syn(from: Addr, to: Addr, ports: (u16, u16)) -> Frame {
    tcp(from, to, ports, |header| header.syn = true)
}

fn ack(from: Addr, to: Addr, ports: (u16, u16)) -> Frame {
    tcp(from, to, ports, |header| header.ack = true)
}

fn datagram(from: Addr, to: Addr, ports: (u16, u16)) -> Frame {
    Frame::udp(from, to, ports, b"payload")
}

fn icmp(from: Addr, to: Addr, kind: u8, id: u16) -> Frame {
    let [high, low] = id.to_be_bytes();
    Frame::ipv4(from, to, ip_number::ICMP, &[kind, 0, 0, 0, high, low, 0, 1])
}

/// An ICMP error of this type about the packet in a frame.
fn error(from: Addr, to: Addr, kind: u8, about: &Frame) -> Frame {
    let quote = &about.0[offset::IP..offset::IP + 28];
    let message = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], quote].concat();
    Frame::ipv4(from, to, ip_number::ICMP, &message)
}

/// A fragment: more follow, or it is a later one.
fn fragment(frame: Frame, id: u16, later: bool) -> Frame {
    frame.edit_ip(offset::IP, |ip| {
        ip.identification = id;
        ip.dont_fragment = false;
        ip.more_fragments = !later;
        ip.fragment_offset = u16::from(later).try_into().unwrap();
    })
}

#[test]
fn the_packets_of_a_flow_pass_and_are_counted_and_the_flow_once() {
    let mut world = one_way();
    for (packets, frame) in [(1, syn(ME, TO, (4000, 5432))), (2, ack(ME, TO, (4000, 5432)))] {
        let run = send(&mut world, &frame);
        assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
        let outer = run.frame.vxlan_packet().expect("a VXLAN packet");
        assert_eq!((outer.vni, outer.inner.eth().destination), (VNI_ROUTED, ROUTED.mac));
        assert_eq!(world.counted(THERE, TCP_RULE), (packets, 1));
    }
    assert_eq!(send(&mut world, &syn(ME, TO, (4001, 5432))).verdict, REDIRECT);
    assert_eq!(world.counted(THERE, TCP_RULE), (3, 2));
    let answer = ack(FROM, ME, (5432, 4000));
    let run = receive(&mut world, &answer);
    assert_eq!((run.verdict, &run.frame, run.drops), (REDIRECT, &answer, vec![]));
    assert_eq!(world.counted(THERE, TCP_RULE), (4, 2), "answers count for the rule that lets them");
    assert_eq!(world.flows().len(), 2);
}

#[rstest]
#[case::udp_port(datagram(ME, TO, (1, 54)), UDP_RULE)]
#[case::ping(icmp(ME, TO, 8, 5), ICMP_RULE)]
#[case::first_fragment(fragment(datagram(ME, TO, (1, 53)), 5, false), UDP_RULE)]
fn what_a_rule_names_passes(#[case] frame: Frame, #[case] rule: u32) {
    let mut world = one_way();
    let run = send(&mut world, &frame);
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    assert_eq!(world.counted(THERE, rule), (1, 1));
}

fn cut_tcp() -> Frame {
    Frame::ipv4(ME, TO, ip_number::TCP, &syn(ME, TO, (4000, 5432)).0[offset::UDP..][..19])
}

#[rstest]
#[case::other_port(syn(ME, TO, (5432, 5433)), NoRule)]
#[case::port_of_another_protocol(syn(ME, TO, (4000, 53)), NoRule)]
#[case::other_protocol(Frame::ipv4(ME, TO, IpNumber(132), &[0; 40]), NoRule)]
#[case::labels_are_missing(syn(ME, TO, (4000, 9999)), NoRule)]
#[case::ping_reply_to_nobody(icmp(ME, TO, 0, 5), NoFlow)]
#[case::error_about_nothing(error(ME, TO, 3, &datagram(ROUTED, ME, (53, 1))), NoFlow)]
#[case::error_between_others(error(ME, TO, 3, &datagram(REMOTE, ME, (53, 1))), NoFlow)]
#[case::error_that_quotes_too_little(error(ME, TO, 3, &datagram(ROUTED, ME, (53, 1))).edit_ip(14, |ip| ip.total_len = 55), RuleMalformed)]
#[case::error_that_quotes_no_ip(error(ME, TO, 3, &datagram(ROUTED, ME, (53, 1)).put(14, &[0x44])), RuleMalformed)]
#[case::later_fragment(fragment(datagram(ME, TO, (1, 53)), 5, true), RuleFragment)]
#[case::tcp_cut(cut_tcp(), RuleMalformed)]
#[case::tcp_in_a_fragment_too_small_for_its_header(fragment(cut_tcp(), 5, false), RuleMalformed)]
#[case::tcp_header_too_short(syn(ME, TO, (4000, 5432)).put(46, &[0x40]), RuleMalformed)]
#[case::tcp_header_beyond_the_packet(syn(ME, TO, (4000, 5432)).put(46, &[0x60]), RuleMalformed)]
#[case::udp_cut(Frame::ipv4(ME, TO, ip_number::UDP, &[0, 1, 0, 53, 0, 8, 0]), RuleMalformed)]
#[case::udp_length_too_small(datagram(ME, TO, (1, 53)).put(38, &[0, 7]), RuleMalformed)]
#[case::udp_length_beyond_the_packet(datagram(ME, TO, (1, 53)).put(38, &[0, 16]), RuleMalformed)]
#[case::icmp_cut(Frame::ipv4(ME, TO, ip_number::ICMP, &[8, 0, 0, 0, 0, 5, 0]), RuleMalformed)]
fn what_no_rule_names_is_dropped_and_counted_once(#[case] frame: Frame, #[case] reason: DropReason) {
    let mut world = one_way();
    let run = send(&mut world, &frame);
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, reason, 1)]));
    assert_eq!(world.flows(), []);
}

#[test]
fn an_audit_lets_pass_and_counts_what_the_rules_would_drop() {
    let later = fragment(datagram(ME, TO, (1, 53)), 5, true);
    for frame in [syn(ME, TO, (4000, 80)), cut_tcp(), later, icmp(ME, TO, 0, 5)] {
        let mut world = one_way();
        world.set_rules(THERE, RuleSet { flags: RuleSet::AUDIT, ..rules() });
        let run = send(&mut world, &frame);
        assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]), "{frame:?}");
        assert_eq!((world.counted(THERE, 0), world.counted(THERE, TCP_RULE)), ((1, 0), (0, 0)));
    }
    let mut world = one_way();
    world.set_rules(THERE, RuleSet { flags: RuleSet::AUDIT, ..rules() });
    send(&mut world, &syn(ME, TO, (4000, 80)));
    assert_eq!(receive(&mut world, &ack(FROM, ME, (80, 4000))).verdict, REDIRECT, "the answer passes too");
    assert_eq!(receive(&mut world, &ack(FROM, ME, (81, 4000))).verdict, SHOT, "nobody asked for this one");
}

/// Answers to TCP, UDP and ping, and an error about a flow.
fn answers() -> Vec<(&'static str, Frame, Frame)> {
    let asked = datagram(ME, TO, (4000, 53));
    // As it arrived at the other end.
    let arrived = datagram(ME, ROUTED, (4000, 53));
    vec![
        ("TCP", syn(ME, TO, (4000, 5432)), tcp(FROM, ME, (5432, 4000), |h| (h.syn, h.ack) = (true, true))),
        ("reset", syn(ME, TO, (4000, 5432)), tcp(FROM, ME, (5432, 4000), |h| h.rst = true)),
        ("UDP", asked.clone(), datagram(FROM, ME, (53, 4000))),
        ("ping", icmp(ME, TO, 8, 5), icmp(FROM, ME, 0, 5)),
        ("unreachable", asked.clone(), error(FROM, ME, 3, &arrived)),
        ("unreachable, of ping", icmp(ME, TO, 8, 5), error(FROM, ME, 3, &icmp(ME, ROUTED, 8, 5))),
        ("time exceeded", asked, error(FROM, ME, 11, &arrived)),
    ]
}

#[test]
fn an_answer_passes_after_its_question_and_not_before() {
    for (what, question, answer) in answers() {
        let mut world = one_way();
        let run = receive(&mut world, &answer);
        assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 0, NoFlow, 1)]), "{what}, unasked");
        assert_eq!(send(&mut world, &question).verdict, REDIRECT, "{what}, asked");
        let run = receive(&mut world, &answer);
        assert_eq!((run.verdict, &run.frame), (REDIRECT, &answer), "{what}, answered");
    }
}

#[test]
fn an_answer_ends_with_its_rule() {
    for (what, question, answer) in answers() {
        let mut world = one_way();
        send(&mut world, &question);
        world.set_rules(THERE, set(0, &[rule(99, TCP, 1, 1)]));
        assert_eq!(receive(&mut world, &answer).verdict, SHOT, "{what}");
    }
}

#[rstest]
#[case::other_port_of_the_server(ack(FROM, ME, (5433, 4000)))]
#[case::other_port_of_the_client(ack(FROM, ME, (5432, 4001)))]
#[case::other_server(ack(Addr { ip: SEPARATE.ip, ..FROM }.at([10, 0, 1, 5].into()), ME, (5432, 4000)))]
#[case::a_new_connection(syn(FROM, ME, (5432, 4000)))]
#[case::other_protocol(datagram(FROM, ME, (5432, 4000)))]
#[case::error_about_another_flow(error(FROM, ME, 3, &syn(ME, ROUTED, (4000, 5433))))]
#[case::error_about_a_flow_with_another(error(FROM, ME, 3, &syn(ME, REMOTE, (4000, 5432))))]
#[case::redirect(error(FROM, ME, 5, &syn(ME, ROUTED, (4000, 5432))))]
#[case::error_about_another_direction(error(FROM, ME, 3, &syn(ROUTED, ME, (5432, 4000))))]
fn what_is_only_like_an_answer_is_dropped(#[case] forged: Frame) {
    let mut world = one_way();
    send(&mut world, &syn(ME, TO, (4000, 5432)));
    let run = receive(&mut world, &forged);
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 0, NoFlow, 1)]));
}

#[test]
fn an_idle_flow_is_forgotten_and_one_that_goes_on_is_not() {
    let (question, answer) = (datagram(ME, TO, (4000, 53)), datagram(FROM, ME, (53, 4000)));
    let mut world = one_way();
    send(&mut world, &question);
    world.age_flows(OTHER_IDLE_NS / 2);
    assert_eq!(receive(&mut world, &answer).verdict, REDIRECT);
    world.age_flows(OTHER_IDLE_NS / 2 + 1_000_000_000);
    assert_eq!(receive(&mut world, &answer).verdict, REDIRECT, "the answer before kept it");
    world.age_flows(OTHER_IDLE_NS + 1_000_000_000);
    assert_eq!(receive(&mut world, &answer).verdict, SHOT);
    send(&mut world, &question);
    assert_eq!(receive(&mut world, &answer).verdict, REDIRECT);
    assert_eq!(world.counted(THERE, UDP_RULE), (5, 2), "it was opened twice");
}

#[test]
fn a_connection_that_is_closed_is_marked_and_one_with_the_same_ports_begins_anew() {
    let mut world = one_way();
    let closing = |world: &World| world.flows().iter().map(|(_, flow)| flow.closing).collect::<Vec<_>>();
    send(&mut world, &syn(ME, TO, (4000, 5432)));
    assert_eq!(closing(&world), [0]);
    receive(&mut world, &tcp(FROM, ME, (5432, 4000), |h| (h.fin, h.ack) = (true, true)));
    assert_eq!(closing(&world), [1]);
    send(&mut world, &ack(ME, TO, (4000, 5432)));
    assert_eq!(closing(&world), [1]);
    send(&mut world, &syn(ME, TO, (4000, 5432)));
    assert_eq!(closing(&world), [0]);
}

#[test]
fn a_rule_with_labels_holds_between_endpoints_that_have_them_and_no_longer() {
    let (ours, theirs) = (RuleBits { src: LABEL_BIT, dst: 0 }, RuleBits { src: 0, dst: LABEL_BIT });
    let (question, answer) = (syn(ME, TO, (4000, 9999)), ack(FROM, ME, (9999, 4000)));
    let mut world = one_way();
    world.set_bits((VNI, VNI_ROUTED), ME, ours);
    assert_eq!(send(&mut world, &question).verdict, SHOT);
    world.set_bits((VNI_ROUTED, VNI), ROUTED, theirs);
    assert_eq!(send(&mut world, &question).verdict, REDIRECT);
    assert_eq!(receive(&mut world, &answer).verdict, REDIRECT);
    assert_eq!(world.counted(THERE, LABEL_RULE), (2, 1));
    world.set_bits((VNI, VNI_ROUTED), ME, theirs);
    assert_eq!(receive(&mut world, &answer).verdict, SHOT, "a label changed");
    assert_eq!(send(&mut world, &ack(ME, TO, (4000, 9999))).verdict, SHOT);
}

#[test]
fn later_fragments_follow_a_first_one_that_passed_and_not_for_long() {
    let first = |id| fragment(datagram(ME, TO, (4000, 53)), id, false);
    let later = |id| fragment(datagram(ME, TO, (4000, 53)), id, true);
    let mut world = one_way();
    assert_eq!(send(&mut world, &fragment(datagram(ME, TO, (4000, 55)), 5, false)).verdict, SHOT);
    assert_eq!(send(&mut world, &later(5)).verdict, SHOT, "of a packet that may not pass");
    assert_eq!(send(&mut world, &first(6)).verdict, REDIRECT);
    assert_eq!(send(&mut world, &later(6)).verdict, REDIRECT);
    assert_eq!(send(&mut world, &later(7)).verdict, SHOT, "of another packet");
    world.age_flows(FRAGMENTS_NS + 1_000_000_000);
    assert_eq!(send(&mut world, &later(6)).verdict, SHOT, "too late");
    let answer = |id, later| fragment(datagram(FROM, ME, (53, 4000)), id, later);
    assert_eq!(receive(&mut world, &answer(8, true)).verdict, SHOT);
    assert_eq!(receive(&mut world, &answer(8, false)).verdict, REDIRECT);
    assert_eq!(receive(&mut world, &answer(8, true)).verdict, REDIRECT, "of an answer");
}

/// The rules hold from the other network to the one of the container under test.
fn inward() -> World {
    let mut world = World::load();
    world.set_rules(BACK, rules());
    world.set_rules(THERE, set(RuleSet::ANSWERS, &[]));
    world
}

#[test]
fn what_another_host_let_pass_is_judged_again_and_can_be_answered() {
    let mut world = inward();
    let question = syn(FROM, ME, (4000, 5432));
    let run = receive(&mut world, &question);
    assert_eq!((run.verdict, &run.frame, run.drops), (REDIRECT, &question, vec![]));
    assert_eq!(world.counted(BACK, TCP_RULE), (1, 1));
    assert_eq!(send(&mut world, &ack(ME, TO, (5432, 4000))).verdict, REDIRECT);
    let run = send(&mut world, &ack(ME, TO, (5432, 4001)));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, NoFlow, 1)]));
}

#[rstest]
#[case::other_port(syn(FROM, ME, (4000, 5433)), NoRule)]
#[case::malformed(syn(FROM, ME, (4000, 5432)).put(46, &[0x40]), RuleMalformed)]
#[case::from_no_network_of_a_policy(syn(FROM.at(SEPARATE.ip), ME, (4000, 5432)), PolicyDenied)]
fn what_another_host_lets_pass_against_the_rules_is_dropped_here(
    #[case] frame: Frame,
    #[case] reason: DropReason,
) {
    let run = receive(&mut inward(), &frame);
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 0, reason, 1)]));
}

#[test]
fn xdp_leaves_what_rules_decide_to_tc() {
    let mut world = inward();
    world.set_flags(FLAG_XDP_DECAP);
    let (ruled, own) =
        (from_remote(&datagram(FROM, ME, (4000, 53))), from_remote(&datagram(REMOTE, ME, (4000, 53))));
    let run = world.run(program::XDP_UNDERLAY, &ruled);
    assert_eq!((run.verdict, &run.frame), (XDP_PASS, &ruled));
    assert_eq!(world.run(program::XDP_UNDERLAY, &own).verdict, XDP_REDIRECT);
}

#[test]
fn traffic_of_one_network_and_between_networks_that_are_joined_as_a_whole_leaves_no_flow() {
    let mut world = inward();
    assert_eq!(receive(&mut world, &datagram(REMOTE, ME, (1, 2))).verdict, REDIRECT, "of one network");
    assert_eq!(send(&mut world, &datagram(ME, REMOTE, (1, 2))).verdict, REDIRECT);
    let mut whole = World::load();
    assert_eq!(send(&mut whole, &datagram(ME, TO, (1, 2))).verdict, REDIRECT);
    assert_eq!((world.flows(), whole.flows()), (vec![], vec![]));
}
