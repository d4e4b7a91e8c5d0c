"""What is understood of a traced packet, and of what the host says where no rule has stopped it. The captures are of
`nft -a monitor trace` (1.0.6): a ping from 10.44.0.2 to 8.8.8.8 by NAT, and one to 10.46.0.2 that libvirt rejects."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ai_how.config.terms import Protocol
from ai_how.errors import UsageError
from ai_how.host.iptables import LEGACY
from ai_how.probe import legacy
from ai_how.probe.circumstances import Routing, Way, judge_routing, read_links, read_states, read_way
from ai_how.probe.ends import Target, read_target
from ai_how.probe.path import Cause, hops
from ai_how.probe.remedy import Asked, denial_of, owner_of, remedies, words_of
from ai_how.probe.trace import Direction, Event, Rule, Stay, Verdict, last, read_trace, stays
from ai_how.probe.tracer import Flow, commands
from ai_how.resources.firewall import Denial
from ai_how.spec.policy import Port

CAPTURES = Path(__file__).parents[1] / "captures"
NODE, WEB, LAN, OTHER = (IPv4Address(each) for each in ("10.44.0.2", "8.8.8.8", "203.0.113.1", "10.46.0.2"))
#: A comment that looks like what is looked for.
WORDS = "so # handle 1 (verdict drop)"
HEAD = "trace id 22e1cf98 ip filter FORWARD "
PACKET = HEAD + 'packet: iif "br-a" oif "uplink" ip saddr 10.44.0.2 ip daddr 8.8.8.8 ip ttl 63 tcp sport 7 tcp dport 9'


def captured(name: str) -> tuple[Event, ...]:
    """Without the packets by which a trace knows that it is complete."""
    text = (CAPTURES / f"nft-trace-{name}.txt").read_text()
    return tuple(each for each in read_trace(text) if each.headers.protocol != "udp")


def places(way: list[Stay]) -> list[str]:
    return [f"{'(' if each.nested else ''}{each.family} {each.hook}{')' if each.nested else ''}" for each in way]


def test_the_way_out_is_followed_from_the_bridge_through_ip_to_the_uplink_and_back() -> None:
    ways = stays(captured("nat"), NODE, WEB, None)
    request = ways[Direction.REQUEST]
    ip = ["inet prerouting", "inet forward", "inet postrouting"]
    assert places(request) == ["bridge prerouting", "bridge input", *ip]
    assert [each.left for each in request] == [True] * 5
    assert last(request).before.source == NODE
    assert str(last(request).after.source) == "203.0.113.2"
    assert places(ways[Direction.REPLY]) == [*ip, "bridge output", "bridge postrouting"]
    assert ways[Direction.ERROR] == []


def test_rules_of_ip_that_the_bridge_asks_are_told_from_those_that_ip_asks() -> None:
    request = stays(captured("nat-bridge-calls-iptables"), NODE, WEB, None)[Direction.REQUEST]
    assert places(request) == [
        "bridge prerouting",
        "(inet prerouting)",
        "bridge input",
        "inet prerouting",
        "inet forward",
        "inet postrouting",
    ]
    assert all(each.left for each in request)


def test_the_rule_that_dropped_is_found_with_its_handle_and_text() -> None:
    request = stays(captured("libvirt-reject"), LAN, OTHER, None)[Direction.REQUEST]
    assert last(request).hook == "forward"
    assert not last(request).left
    assert last(request).dropped == Rule("ip", "filter", "LIBVIRT_FWI", 'oifname "br-gamma" reject', 49)


def test_hops_say_the_way_in_words_once_each() -> None:
    ways = stays(captured("nat"), NODE, WEB, None)
    said = [str(each.what) for each in hops(ways, {}) if each.direction is Direction.REQUEST and each.verdict is None]
    assert [each.split(" by port")[0] for each in said] == [
        "10.44.0.2 → 8.8.8.8 comes in",
        "is routed from br-alpha to uplink",
        "has 203.0.113.2 as its source from here on",
    ]


def test_a_line_cut_anywhere_is_no_trouble() -> None:
    text = (CAPTURES / "nft-trace-libvirt-reject.txt").read_text()
    for end in range(0, len(text), 97):
        stays(read_trace(text[:end]), LAN, OTHER, None)
        stays(read_trace(text[end:]), LAN, OTHER, None)


def test_what_answers_another_question_is_no_reply() -> None:
    """A server that got no answer repeats itself for a while."""
    table = "inet ai_how_trace_1"

    def packet(number: int, hook: str, line: str) -> str:
        begin = f"trace id {number} {table} {hook}"
        return f"{begin}_first packet: {line}\n{begin}_last policy accept \n"

    there = packet(1, "output", 'oif "uplink" ip saddr 10.44.0.2 ip daddr 8.8.8.8 tcp sport 7001 tcp dport 53')
    stray, reply = (
        packet(n, "input", f'iif "uplink" ip saddr 8.8.8.8 ip daddr 10.44.0.2 tcp sport 53 tcp dport 700{n}')
        for n in (0, 1)
    )
    reply = reply.replace("trace id 1", "trace id 2")
    for text, answers in ((stray + there + stray, 0), (stray + there + reply, 1)):
        assert len(stays(read_trace(text), NODE, WEB, 53)[Direction.REPLY]) == answers


@pytest.mark.parametrize(
    ("line", "rule", "verdict"),
    [
        ("policy drop ", Rule("ip", "filter", "FORWARD"), Verdict.DROP),
        ("policy accept ", Rule("ip", "filter", "FORWARD"), Verdict.ACCEPT),
        (
            "rule ip saddr 10.0.0.0/8 counter packets 3 bytes 9 drop # handle 12 (verdict drop)",
            Rule("ip", "filter", "FORWARD", "ip saddr 10.0.0.0/8 drop", 12),
            Verdict.DROP,
        ),
        (
            f'rule accept comment "{WORDS}" # handle 2 (verdict accept)',
            Rule(
                "ip",
                "filter",
                "FORWARD",
                'accept comment "so # handle 1 (verdict drop)"',
                2,
                "so # handle 1 (verdict drop)",
            ),
            Verdict.ACCEPT,
        ),
        ("rule jump DOCKER # handle 5 (verdict jump DOCKER)", Rule("ip", "filter", "FORWARD", "jump DOCKER", 5), None),
        ("rule drop (verdict drop)", Rule("ip", "filter", "FORWARD", "drop"), Verdict.DROP),
        ("unknown rule handle 18 (verdict drop)", Rule("ip", "filter", "FORWARD", "", 18), Verdict.DROP),
    ],
)
def test_lines_about_rules_are_understood(line: str, rule: Rule, verdict: Verdict | None) -> None:
    event = read_trace(f"{PACKET}\n{HEAD}{line}\n")[-1]
    assert (event.rule, event.verdict) == (rule, verdict)
    assert (event.headers.iif, event.headers.oif, event.headers.dport) == ("br-a", "uplink", 9)


def test_a_rule_without_its_packet_is_left_out() -> None:
    assert read_trace(f"{HEAD}policy drop \n") == ()


def test_every_line_that_nft_is_told_marks_the_flow_and_nothing_wider() -> None:
    told = list(commands("t", [Flow("tcp", NODE, WEB, 53)], 40000))
    marks = [each for each in told if "nftrace" in each]
    assert all(str(NODE) in each and "53" in each for each in marks if "40000" not in each)
    assert [each for each in told if "flags owner" in each] == [
        "add table inet t { flags owner; }",
        "add table bridge t { flags owner; }",
    ]


def test_routes_are_understood() -> None:
    assert read_way(
        '[{"dst":"8.8.8.8","from":"10.1.0.5","gateway":"203.0.113.1","dev":"uplink","flags":[],"iif":"b0"}]'
    ) == Way("uplink", IPv4Address("203.0.113.1"))
    assert read_way('[{"dst":"10.1.0.77","dev":"b0","prefsrc":"10.1.0.1","flags":[]}]') == Way(
        "b0", None, IPv4Address("10.1.0.1")
    )
    assert read_way('[{"type":"local","dst":"10.1.0.1","dev":"lo","flags":[]}]').local
    assert read_way('[{"type":"blackhole","dst":"10.1.0.1","flags":[]}]').refused == "the route is of type blackhole"


GOOD, BAD = Way("uplink", WEB), Way(refused="No route to host")


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (Routing("br-a", BAD, Way(refused="Network is unreachable"), forwarding=False, strict=True), Cause.ROUTE),
        (Routing("br-a", BAD, GOOD, forwarding=False, strict=True), Cause.FORWARDING),
        (Routing("br-a", BAD, GOOD, forwarding=True, strict=True), Cause.SOURCE),
        (Routing("br-a", BAD, Way("lo", local=True), forwarding=False, strict=True), Cause.SOURCE),
        (Routing("br-a", BAD, GOOD, forwarding=True, strict=False), Cause.ROUTE),
        (Routing("br-a", GOOD, GOOD, forwarding=False, strict=True), None),
    ],
)
def test_routing_is_judged_by_what_is_missing_first(found: Routing, cause: Cause | None) -> None:
    stop = judge_routing(found, NODE, WEB, Direction.REQUEST)
    assert (None if stop is None else stop.cause) == cause


def test_links_and_neighbours_are_understood() -> None:
    links = read_links(
        '[{"ifindex":7,"ifname":"vnet0","flags":["BROADCAST","UP","LOWER_UP"],"master":"br-a","linkinfo":'
        '{"info_slave_kind":"bridge","info_slave_data":{"state":"forwarding","isolated":true}},"addr_info":[]},{}]'
    )
    assert (links["vnet0"].master, links["vnet0"].isolated, links["vnet0"].state) == ("br-a", True, "forwarding")
    states = read_states('[{"dst":"10.1.0.7","dev":"b0","state":["FAILED"]},{"dst":"10.1.0.8","dev":"b0","state":[]}]')
    assert states["b0", IPv4Address("10.1.0.7")] == "FAILED"


def test_rules_of_the_old_iptables_are_known_by_their_counters() -> None:
    text = "*filter\n:FORWARD {} [{}:84]\n[{}:9] -A FORWARD -s 10.0.0.0/8 -j DROP\n[8:9] -A FORWARD -j ACCEPT\nCOMMIT\n"
    before, by_rule = legacy.read(text.format("ACCEPT", 1, 1)), legacy.read(text.format("ACCEPT", 2, 2))
    assert legacy.dropped(before, before) == ()
    drop = Rule(LEGACY, "filter", "FORWARD", "-A FORWARD -s 10.0.0.0/8 -j DROP")
    assert legacy.dropped(before, by_rule) == (drop,)
    policy = legacy.read(text.format("DROP", 1, 1)), legacy.read(text.format("DROP", 2, 1))
    assert legacy.dropped(*policy) == (Rule(LEGACY, "filter", "FORWARD"),)


@pytest.mark.parametrize(
    ("rule", "chains", "owner"),
    [
        (Rule("inet", "ai_how", "between", "reject"), (), "ai-how"),
        (Rule("ip", "filter", "LIBVIRT_FWI", "reject"), (), "libvirt"),
        (Rule("ip", "libvirt_network", "guest_input", "reject"), (), "libvirt"),
        (Rule("ip", "filter", "FORWARD"), ("FORWARD", "DOCKER-USER"), "Docker"),
        (Rule("ip", "filter", "DOCKER-ISOLATION-STAGE-2", "drop"), (), "Docker"),
        (Rule("ip", "filter", "INPUT"), ("INPUT", "DOCKER"), "somebody else"),
        (Rule("ip", "filter", "INPUT"), ("INPUT", "ufw-before-input"), "ufw"),
        (Rule("inet", "firewalld", "filter_FORWARD", "reject"), (), "firewalld"),
        (Rule("ip", "filter", "FORWARD", "drop"), ("FORWARD", "DOCKER-USER"), "somebody else"),
        (Rule("inet", "site", "FORWARD"), (), "somebody else"),
    ],
)
def test_every_rule_has_an_owner(rule: Rule, chains: tuple[str, ...], owner: str) -> None:
    assert owner_of(rule, chains) == owner


@pytest.mark.parametrize("denial", list(Denial))
def test_every_denial_has_words_and_says_what_would_allow_it(denial: Denial) -> None:
    rule = Rule("inet", "ai_how", "c", f'drop comment "{denial}"', 4, denial.value)
    assert denial_of(rule) is denial
    assert words_of(rule) != rule.text
    for port in (None, 22):
        assert remedies(rule, "ai-how", Asked(NODE, WEB, "tcp" if port else "icmp", port), ())


def test_somebodys_rule_is_opened_for_this_packet_or_deleted() -> None:
    rule = Rule("inet", "site", "fwd_", "drop", 7)
    there, back = (remedies(rule, "somebody else", Asked(NODE, WEB, "tcp", 53, each), ())[0] for each in (False, True))
    assert there == "nft 'insert rule inet site fwd_ ip saddr 10.44.0.2 ip daddr 8.8.8.8 tcp dport 53 accept'"
    assert back == "nft 'insert rule inet site fwd_ ip saddr 10.44.0.2 ip daddr 8.8.8.8 tcp sport 53 accept'"
    old = Rule("ip", "filter", "FORWARD", "drop", 7)
    accepts = tuple(remedies(old, "somebody else", Asked(NODE, WEB), ()))
    assert accepts == ("iptables -I FORWARD -s 10.44.0.2 -d 8.8.8.8 -j ACCEPT",)


def test_targets_are_understood() -> None:
    assert read_target("hpc-controller") == Target("hpc-controller")
    assert read_target("8.8.8.8:53/udp") == Target("8.8.8.8", Port(Protocol.UDP, 53))
    assert read_target("gateway:22") == Target("gateway", Port(Protocol.TCP, 22))
    assert read_target("example.com.") == Target("example.com.")
    too_long = (f"{'a' * 64}.com", ".".join(["a" * 63] * 4))
    for wrong in ("", ":22", "a:0", "a:65536", "a:22/sctp", "a b", "http://a", "a..b", ".", "bücher.de", *too_long):
        with pytest.raises(UsageError):
            read_target(wrong)
