"""The firewall table as nftables' JSON: static chains, and sets that hold what is different from host to host.

Our chains come before everybody else's filter chains and only ever deny more: what they accept, libvirt's and others'
may still deny.

New rules take over from old ones without a packet lost or let through. One transaction does not see to that: the kernel
fills some kinds of sets a moment after it has put the rules in force that look into them (nft_set_pipapo.c, `commit`).
So nothing that a packet enters comes into force together with sets.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from ai_how.resources import nft
from ai_how.resources.firewall import NEXT, OUR_NAMES, TABLE, ClusterRules, Denial, FirewallTable
from ai_how.resources.nft import ACCEPT, DROP, REJECT, concat, match, meta, one_of, payload, prefix
from ai_how.spec.policy import Egress

#: The families that have a table of ours.
FAMILIES = ("inet", "arp", "bridge")

#: All tables of ours that there may be, as family and name.
TABLES = tuple(itertools.product(FAMILIES, OUR_NAMES))

#: The chain without rules whose presence makes a table ours. It outlives a flush, which rules do not, and a table's
#: comment is not shown by nft 1.0.6.
MARK = "made_by_ai_how"

#: Before filter chains of others, which are at 0 or later (nft(8), "priority").
_BEFORE_OTHERS = -10
_DNAT, _SNAT = -100, 100

#: What leads to other programs' networks on this very host: containers, other virtual networks.
_HOSTS_OWN = ("bridge", "veth", "dummy", "openvswitch", "vxlan", "geneve")

_IN, _OUT = meta("iifname"), meta("oifname")
#: The source of who has no address yet.
_NOBODY = IPv4Address(0)

_SOURCE, _TARGET = payload("ip", "saddr"), payload("ip", "daddr")
_PORT = concat(meta("l4proto"), payload("th", "dport"))

#: What answers. What asks is judged by the rules anew with every packet, also of connections that exist, so that a rule
#: taken away ends what it had allowed.
_ANSWERS = match({"ct": {"key": "direction"}}, "reply")

# DHCP messages in bits behind the start of the UDP header (RFC 2131, figure 1).
_YOUR_ADDRESS = nft.raw("th", 64 + 16 * 8, 32)
_CLIENT_MAC = nft.raw("th", 64 + 28 * 8, 48)

# An Ethernet frame in bits, with the tag of its VLAN (IEEE 802.1Q).
_SENDER_MAC = nft.raw("ll", 48, 48)
_TAG, _VLAN, _AFTER_TAG = nft.raw("ll", 96, 16), {"&": [nft.raw("ll", 112, 16), 0xFFF]}, nft.raw("ll", 128, 16)
_TAGS = (0x8100, 0x88A8)


def render(table: FirewallTable) -> str:
    """What replaces all our tables: transactions for `nft -j -f -`, a line each, to be carried out one after another.

    The new rules are first laid beside the old ones, under another name and where no packet comes by; then packets
    enter there, and the same is laid under the name that stays; then packets enter that.
    """
    beside, own = _tables(table, NEXT), _tables(table, TABLE)
    return "".join(
        (
            _transaction(each.inert for each in beside),
            _transaction((*each.entrances, *same.inert) for each, same in zip(beside, own, strict=True)),
            _transaction((*same.entrances, *each.removal) for each, same in zip(beside, own, strict=True)),
        )
    )


def at_once(text: str) -> str:
    """The same in one transaction: a packet may be lost, but none is ever without rules, whatever was there."""
    return _transaction(json.loads(each)["nftables"] for each in text.splitlines())


def render_removal(tables: Iterable[tuple[str, str]]) -> str:
    """The transaction for `nft -j -f -` that removes these, given as family and name, also where they are gone."""
    return _transaction(_table(family, name).removal for family, name in tables)


def _transaction(commands: Iterable[Iterable[nft.Command]]) -> str:
    return json.dumps({"nftables": [command for each in commands for command in each]}) + "\n"


def _tables(table: FirewallTable, name: str) -> tuple[nft.Table, ...]:
    return (
        _inet(name, table.clusters, table.uplinks),
        _arp(name, table.clusters),
        _bridge(name, table.clusters),
    )


def _table(family: str, name: str) -> nft.Table:
    table = nft.Table(family, name, "ai-how 1")
    table.chain(MARK)
    return table


def _deny(word: Denial, verdict: nft.Statement, *matches: nft.Statement) -> nft.Command:
    return {"expr": [*matches, {"counter": None}, verdict], "comment": str(word)}


def _inet(name: str, clusters: tuple[ClusterRules, ...], uplinks: Iterable[str]) -> nft.Table:
    table = _table("inet", name)
    _sets(table, clusters, uplinks)
    _forward(table)
    _input(table)
    _nat(table)
    return table


def _forward(table: nft.Table) -> None:
    from_known = concat(_IN, _SOURCE)
    errors = match({"ct": {"key": "state"}}, ["related"], op="in")
    not_allowed_anywhere = (
        _deny(Denial.IPV6, REJECT, match(meta("nfproto"), "ipv6")),
        _deny(Denial.SPOOFED_SOURCE, DROP, match(from_known, "@sources", op="!=")),
        _deny(Denial.BLOCKED_NETWORK, REJECT, match(concat(_IN, _TARGET), "@blocked")),
    )
    table.chain(
        "forward",
        (match(_IN, "@bridges"), nft.goto("out_of_cluster")),
        (match(_OUT, "@bridges"), nft.goto("into_cluster")),
        type="filter",
        hook="forward",
        prio=_BEFORE_OTHERS,
    )
    # What leads from one of our bridges to another is told apart first: what leaves for the uplink is most of it, and
    # every look into a set costs each packet.
    table.chain(
        "out_of_cluster",
        (match(_OUT, "@bridges"), nft.goto("between")),
        *not_allowed_anywhere,
        _deny(Denial.CLUSTER_AWAY, REJECT, match(_TARGET, "@subnets")),
        # One look for what most packets are: to an uplink, with nothing denied.
        (match(concat(_IN, _OUT), "@ways_out"), ACCEPT),
        (_ANSWERS, ACCEPT),
        (errors, ACCEPT),
        _deny(
            Denial.EGRESS,
            REJECT,
            match(_IN, "@egress_denied"),
            match(concat(_IN, _TARGET), "@egress_allowed", op="!="),
        ),
        (match(_OUT, "@uplinks"), ACCEPT),
        # A link that came later, a VPN say, needs no new rules.
        _deny(Denial.HOST_NETWORK, REJECT, match(meta("oifkind"), one_of(*_HOSTS_OWN))),
    )
    table.chain(
        "between",
        # Frames within one bridge come here where net.bridge.bridge-nf-call-iptables is 1.
        (match(concat(_IN, _OUT), "@within"), ACCEPT),
        *not_allowed_anywhere,
        (match(concat(_IN, _OUT), "@peers"), ACCEPT),
        _deny(Denial.OTHER_CLUSTER, REJECT),
    )
    exposed = concat(_OUT, _TARGET, meta("l4proto"), payload("th", "dport"))
    table.chain(
        "into_cluster",
        _deny(Denial.IPV6, DROP, match(meta("nfproto"), "ipv6")),
        _deny(Denial.SPOOFED_SOURCE, DROP, match(_SOURCE, "@subnets")),
        (_ANSWERS, ACCEPT),
        (errors, ACCEPT),
        (match(exposed, "@exposed"), match({"ct": {"key": "status"}}, "dnat", op="in"), ACCEPT),
        (match(concat(_OUT, _SOURCE), "@allowed_from"), ACCEPT),
        _deny(Denial.INTO_CLUSTER, DROP),
    )


def _input(table: nft.Table) -> None:
    asks_for_an_address = (match(payload("udp", "sport"), 68), match(payload("udp", "dport"), 67))
    everybody = match(_TARGET, "255.255.255.255")
    own_gateway = match(concat(_IN, _TARGET), "@own_gateway")
    table.chain(
        "input",
        (match(_IN, "@bridges"), nft.goto("to_host")),
        _deny(Denial.GATEWAY_FROM_OUTSIDE, DROP, match(_IN, "lo", op="!="), match(_TARGET, "@gateways")),
        type="filter",
        hook="input",
        prio=_BEFORE_OTHERS,
    )
    table.chain(
        "to_host",
        _deny(Denial.IPV6, DROP, match(meta("nfproto"), "ipv6")),
        (match(_SOURCE, str(_NOBODY)), everybody, *asks_for_an_address, ACCEPT),
        _deny(Denial.SPOOFED_SOURCE, DROP, match(concat(_IN, _SOURCE), "@sources", op="!=")),
        (_ANSWERS, ACCEPT),
        (everybody, *asks_for_an_address, ACCEPT),
        # The host hears its own answers to everybody; counted as denied they would hide what is.
        (
            match(concat(_IN, _SOURCE), "@own_gateway"),
            everybody,
            match(payload("udp", "sport"), 67),
            match(payload("udp", "dport"), 68),
            ACCEPT,
        ),
        (own_gateway, *asks_for_an_address, ACCEPT),
        (own_gateway, nft.jump("gateway_services")),
        (match(concat(_IN, _TARGET, meta("l4proto"), payload("th", "dport")), "@host_ports"), ACCEPT),
        _deny(Denial.BLOCKED_NETWORK, REJECT, match(concat(_IN, _TARGET), "@blocked")),
        (match(concat(_IN, _TARGET), "@peers_gateways"), nft.jump("gateway_services")),
        _deny(Denial.HOST_SERVICE, REJECT),
    )
    table.chain(
        "output",
        # A question for a peer's names, say, which is nobody's business outside.
        _deny(
            Denial.CLUSTER_AWAY,
            REJECT,
            match(_OUT, "@bridges", op="!="),
            match(_OUT, "lo", op="!="),
            match(_TARGET, "@subnets"),
        ),
        type="filter",
        hook="output",
        prio=_BEFORE_OTHERS,
    )
    table.chain(
        "gateway_services",
        (match(meta("l4proto"), one_of("tcp", "udp")), match(payload("th", "dport"), 53), ACCEPT),
        (match(payload("icmp", "type"), "echo-request"), ACCEPT),
    )


def _nat(table: nft.Table) -> None:
    # Gateways are for their clusters: peers' servers ask each other there.
    local = (match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), match(_TARGET, "@gateways", op="!="))
    # nft 1.0.6 reads no map to address and port together from JSON.
    to_node = {"family": "ip", "addr": nft.look_up(_PORT, "nodes"), "port": nft.look_up(_PORT, "ports")}
    table.chain(
        "prerouting",
        (match(_IN, "@bridges", op="!="), *local, {"dnat": to_node}),
        type="nat",
        hook="prerouting",
        prio=_DNAT,
    )
    table.chain(
        "output_nat",
        # From 127.0.0.1 nothing can be answered by a node.
        (match(_TARGET, prefix(IPv4Network("127.0.0.0/8")), op="!="), *local, {"dnat": to_node}),
        type="nat",
        hook="output",
        prio=_DNAT,
    )
    table.chain(
        "postrouting",
        (
            match(_SOURCE, "@masqueraded"),
            match(_OUT, "@bridges", op="!="),
            match(_OUT, "lo", op="!="),
            match(concat(_SOURCE, _TARGET), "@direct", op="!="),
            match(_TARGET, prefix(IPv4Network("224.0.0.0/4")), op="!="),
            match(_TARGET, "255.255.255.255", op="!="),
            nft.MASQUERADE,
        ),
        type="nat",
        hook="postrouting",
        prio=_SNAT,
    )


def _sets(table: nft.Table, clusters: tuple[ClusterRules, ...], uplinks: Iterable[str]) -> None:
    """Everything that is different from host to host."""
    gateways = {each.bridge: str(each.gateway) for each in clusters}
    pair, place = ("ifname", "ifname"), ("ifname", "ipv4_addr")
    port = ("inet_proto", "inet_service")

    table.set("bridges", "ifname", gateways)
    table.set("within", pair, (concat(each.bridge, each.bridge) for each in clusters))
    table.set("peers", pair, (concat(each.bridge, peer) for each in clusters for peer in each.peers))
    links = tuple(uplinks)
    table.set("uplinks", "ifname", links)
    free = (each.bridge for each in clusters if each.egress is not Egress.DENY)
    table.set("ways_out", pair, (concat(bridge, link) for bridge in free for link in links))

    _set_of_sources(table, clusters)
    table.set("subnets", "ipv4_addr", map(prefix, _whole(each.subnet for each in clusters)), interval=True)
    table.set("blocked", place, _by_bridge((each.bridge, each.block_networks) for each in clusters), interval=True)
    denied = [each for each in clusters if each.egress is Egress.DENY]
    table.set("egress_denied", "ifname", (each.bridge for each in denied))
    allowed = _by_bridge((each.bridge, (*each.allow_networks, *each.direct)) for each in denied)
    table.set("egress_allowed", place, allowed, interval=True)
    table.set("allowed_from", place, _by_bridge((each.bridge, each.allow_from) for each in clusters), interval=True)

    table.set("gateways", "ipv4_addr", sorted(set(gateways.values())))
    table.set("own_gateway", place, (concat(*each) for each in gateways.items()))
    peers = (concat(each.bridge, gateways[peer]) for each in clusters for peer in each.peers if peer in gateways)
    table.set("peers_gateways", place, peers)
    open_ports = (
        concat(each.bridge, str(each.gateway), str(one.protocol), one.number)
        for each in clusters
        for one in each.allow_host_ports
    )
    table.set("host_ports", (*place, *port), open_ports)

    masqueraded = [each for each in clusters if each.masquerade]
    table.set("masqueraded", "ipv4_addr", map(prefix, _whole(each.subnet for each in masqueraded)), interval=True)
    direct = (concat(prefix(each.subnet), prefix(one)) for each in masqueraded for one in _whole(each.direct))
    table.set("direct", ("ipv4_addr", "ipv4_addr"), direct, interval=True)

    # Of two clusters with the same port the first one has it: one map holds it once.
    exposed = {one.host: (each.bridge, one) for each in reversed(clusters) for one in reversed(each.expose)}
    leads = [(concat(str(host.protocol), host.number), bridge, one) for host, (bridge, one) in sorted(exposed.items())]
    table.map("nodes", port, "ipv4_addr", ((key, str(one.ip)) for key, _, one in leads))
    table.map("ports", port, "inet_service", ((key, one.node_port) for key, _, one in leads))
    targets = {(bridge, str(one.ip), str(one.host.protocol), one.node_port) for _, bridge, one in leads}
    table.set("exposed", (*place, *port), (concat(*each) for each in sorted(targets)))


def _arp(name: str, clusters: tuple[ClusterRules, ...]) -> nft.Table:
    """The host answers on a bridge for addresses of its network alone; by itself it answers for all it has."""
    table = _table("arp", name)
    table.set("bridges", "ifname", (each.bridge for each in clusters))
    _set_of_sources(table, clusters)
    sought = concat(_IN, payload("arp", "daddr ip"))
    table.chain(
        "input",
        _deny(Denial.FOREIGN_ARP, DROP, match(_IN, "@bridges"), match(sought, "@sources", op="!=")),
        type="filter",
        hook="input",
        prio=_BEFORE_OTHERS,
    )
    return table


def _bridge(name: str, clusters: tuple[ClusterRules, ...]) -> nft.Table:
    """What passes between the ports of a bridge. Not every kernel can tell here which bridge it is
    (CONFIG_NFT_BRIDGE_META), so what is ours is known by our addresses."""
    table = _table("bridge", name)
    networks = _whole(each.subnet for each in clusters)
    macs = sorted({int(mac.replace(":", ""), 16) for each in clusters for mac in each.macs})
    table.set("gateways", "ipv4_addr", sorted({str(each.gateway) for each in clusters}))
    table.set("subnets", "ipv4_addr", map(prefix, networks), interval=True)
    # The kernel takes the first tag from a frame, and what its protocol is then counts: who gets it does the same.
    arp, ipv4, ipv6 = (match(meta("protocol"), each) for each in ("arp", "ip", "ip6"))
    answers, answers6 = (ipv4, match(payload("udp", "dport"), 68)), match(payload("udp", "dport"), 546)
    rogue = [_deny(Denial.ROGUE_DHCP, DROP, *answers, match(_SOURCE, "@subnets"))]
    if networks:
        spans = one_of(*({"range": [int(each[0]), int(each[-1])]} for each in networks))
        rogue.append(_deny(Denial.ROGUE_DHCP, DROP, *answers, match(_YOUR_ADDRESS, spans)))
    if macs:
        rogue.append(_deny(Denial.ROGUE_DHCP, DROP, *answers, match(_CLIENT_MAC, one_of(*macs))))
        table.chain("from_node", _deny(Denial.ROGUE_ROUTER, DROP, match(_SENDER_MAC, one_of(*macs))))
        says_a_router = match(payload("icmpv6", "type"), one_of("nd-router-advert", "nd-redirect"))
        rogue.extend({"expr": [ipv6, each, nft.jump("from_node")]} for each in (says_a_router, answers6))
    table.chain("forward", (nft.jump("between_ports"),), type="filter", hook="forward", prio=_BEFORE_OTHERS)
    table.chain(
        "between_ports",
        # A tag of no VLAN before another one means nothing but to hide what follows.
        _deny(
            Denial.HIDDEN_FRAME, DROP, match(_TAG, one_of(*_TAGS)), match(_VLAN, 0), match(_AFTER_TAG, one_of(*_TAGS))
        ),
        _deny(Denial.FALSE_GATEWAY, DROP, arp, match(payload("arp", "saddr ip"), "@gateways")),
        _deny(Denial.FALSE_GATEWAY, DROP, ipv4, match(_SOURCE, "@gateways")),
        *rogue,
    )
    return table


def _set_of_sources(table: nft.Table, clusters: Iterable[ClusterRules]) -> None:
    """Which addresses live on which bridge."""
    elements = _by_bridge((each.bridge, (each.subnet, *each.behind)) for each in clusters)
    table.set("sources", ("ifname", "ipv4_addr"), elements, interval=True)


def _by_bridge(networks: Iterable[tuple[str, Iterable[IPv4Network]]]) -> Iterator[nft.Expression]:
    for bridge, those in networks:
        for each in _whole(those):
            yield concat(bridge, prefix(each))


def _whole(networks: Iterable[IPv4Network]) -> list[IPv4Network]:
    """The same addresses without overlaps, which sets refuse."""
    return list(collapse_addresses(networks))
