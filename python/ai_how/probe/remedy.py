"""Whose a rule is, and what would let a packet pass that it stopped: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import assert_never

from ai_how.host import iptables
from ai_how.probe.trace import Rule
from ai_how.resources.firewall import OUR_NAMES, Denial
from ai_how.resources.network import VirtualNetwork

OURS, LIBVIRT, DOCKER, UFW, FIREWALLD, SOMEBODY = "ai-how", "libvirt", "Docker", "ufw", "firewalld", "somebody else"

_BUILT_IN = frozenset({"INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"})

_WORDS = {
    Denial.SPOOFED_SOURCE: "the source address is not one of the network that it comes from",
    Denial.BLOCKED_NETWORK: "the cluster's configuration blocks that network",
    Denial.OTHER_CLUSTER: "it is another cluster, and not a peer",
    Denial.CLUSTER_AWAY: "the cluster with that network is not up",
    Denial.EGRESS: "the cluster's nodes may not open connections to the outside",
    Denial.HOST_NETWORK: "it is a network of another program on this host",
    Denial.HOST_SERVICE: "it is a port or address of this host that nodes may not use",
    Denial.IPV6: "IPv6 stays within its cluster",
    Denial.INTO_CLUSTER: "nobody outside may open connections to nodes",
    Denial.GATEWAY_FROM_OUTSIDE: "a gateway's address is for its own cluster",
    Denial.FOREIGN_ARP: "ARP is about an address of another network",
    Denial.FALSE_GATEWAY: "a node claims the gateway's address",
    Denial.ROGUE_ROUTER: "a node says that it is a router",
    Denial.HIDDEN_FRAME: "a tag of no VLAN hides what follows",
    Denial.ROGUE_DHCP: "a node answers DHCP",
}

_WAYS = ("-i", "-o")
_NOTHING = "Nothing in the configuration opens that."


@dataclass(frozen=True, slots=True)
class Asked:
    """What the packet is: who sends it to whom. `port` is that of whoever is asked, None of a ping; of an `answer` it
    is the sender's."""

    source: IPv4Address
    target: IPv4Address
    protocol: str = "icmp"
    port: int | None = None
    answer: bool = False


def denial_of(rule: Rule) -> Denial | None:
    """The word of a rule of ours that denies."""
    if rule.table not in OUR_NAMES or rule.comment not in [each.value for each in Denial]:
        return None
    return Denial(rule.comment)


def owner_of(rule: Rule, chains: Collection[str]) -> str:
    """Whose the rule is. `chains` are the names of all chains in its table: they tell who sets the policies there."""
    if rule.table in OUR_NAMES:
        return OURS
    if rule.table == "libvirt_network" or rule.chain.startswith("LIBVIRT_"):
        return LIBVIRT
    if rule.table == "firewalld":
        return FIREWALLD
    if rule.chain.startswith("DOCKER") or rule.table.startswith("docker"):
        return DOCKER
    if rule.chain.startswith("ufw"):
        return UFW
    if rule.table in iptables.TABLES and rule.chain in _BUILT_IN and not rule.text:
        if rule.chain == "FORWARD" and any(each.startswith("DOCKER") for each in chains):
            return DOCKER
        if any(each.startswith("ufw-") for each in chains):
            return UFW
    return SOMEBODY


def words_of(rule: Rule) -> str:
    """What the rule says, for people: in our words where it is ours."""
    denial = denial_of(rule)
    return _WORDS[denial] if denial is not None else (rule.text or "its policy drops what no rule of it accepts")


def remedies(rule: Rule, owner: str, asked: Asked, networks: Collection[VirtualNetwork]) -> tuple[str, ...]:
    """What would let it pass, one thing a line: what to configure of ours, what to run for others."""
    bridges = [each.bridge for each in _concerned(asked, networks)]
    match owner:
        case "ai-how":
            denial = denial_of(rule)
            return (_NOTHING,) if denial is None else tuple(_configure(denial, asked, networks))
        case "libvirt":
            return tuple(_of_libvirt(asked, networks))
        case "Docker" if rule.chain == "FORWARD" and bridges:
            again = "ai-how up, with the cluster's configuration, puts its passage into DOCKER-USER again"
            return (again, *(f"iptables -I DOCKER-USER {way} {each} -j ACCEPT" for each in bridges for way in _WAYS))
        case "ufw" if bridges:
            again = "ai-how up, with the cluster's configuration, puts its passage in again"
            return (again, *_accepts(rule, asked))
        case "firewalld":
            return tuple(f"firewall-cmd --zone=libvirt --change-interface={each}" for each in bridges)
        case _:
            return tuple(_accepts(rule, asked))


def _accepts(rule: Rule, asked: Asked) -> Iterable[str]:
    end = "sport" if asked.answer else "dport"
    if rule.family in ("ip", iptables.LEGACY) and rule.table in iptables.TABLES:
        command = "iptables" if rule.family == "ip" else iptables.LEGACY
        table = "" if rule.table == "filter" else f"-t {rule.table} "
        port = f" -p {asked.protocol} --{end} {asked.port}" if asked.port else ""
        yield f"{command} {table}-I {rule.chain} -s {asked.source} -d {asked.target}{port} -j ACCEPT"
    else:
        where = f"{rule.family} {rule.table} {rule.chain}"
        port = f" {asked.protocol} {end} {asked.port}" if asked.port else ""
        yield f"nft 'insert rule {where} ip saddr {asked.source} ip daddr {asked.target}{port} accept'"
        if rule.handle is not None:
            yield f"nft delete rule {where} handle {rule.handle}  # it, for everybody"


def network_of(address: IPv4Address, networks: Iterable[VirtualNetwork]) -> VirtualNetwork | None:
    """The network that the address is of."""
    return next((each for each in networks if address in each.subnet and each.subnet.prefixlen < 32), None)


def _concerned(asked: Asked, networks: Collection[VirtualNetwork]) -> list[VirtualNetwork]:
    found = [network_of(address, networks) for address in (asked.source, asked.target)]
    return [each for each in found if each is not None and each.cluster]


def _of_libvirt(asked: Asked, networks: Collection[VirtualNetwork]) -> Iterable[str]:
    concerned = _concerned(asked, networks)
    bare = [each for each in concerned if not each.policy.firewall.enabled]
    if not bare:
        yield "The rules of libvirt follow from its network's <forward mode>: virsh net-dumpxml"
    for each in bare:
        yield f"{each.cluster}: network.firewall.enabled: true  # our rules then decide, and libvirt routes"
    target = network_of(asked.target, networks)
    if target in bare and target is not None:
        port = asked.port or "PORT"
        yield f"{target.cluster}: network.firewall.expose: [{port}:NODE], or allow_from: [{asked.source}]"


def _configure(denial: Denial, asked: Asked, networks: Collection[VirtualNetwork]) -> Iterable[str]:
    """In terms of docs/configuration.md, of the cluster that it is for."""
    source, target = network_of(asked.source, networks), network_of(asked.target, networks)
    sender = "the cluster" if source is None else source.cluster
    aim = "the cluster" if target is None else target.cluster
    match denial:
        case Denial.OTHER_CLUSTER:
            modes = ", ".join(f"{each.cluster} has {each.dns_mode}" for each in (source, target) if each is not None)
            yield f"{sender} and {aim}: network.dns_mode: shared_dns, or routed, the same in both ({modes})"
        case Denial.BLOCKED_NETWORK:
            blocked = () if source is None else source.policy.firewall.block_networks
            which = next((str(each) for each in blocked if asked.target in each), str(asked.target))
            yield f"{sender}: network.firewall.block_networks: without {which}"
        case Denial.EGRESS:
            yield f"{sender}: network.firewall.allow_networks: [{asked.target}], or egress: allow"
        case Denial.HOST_SERVICE if asked.port is not None:
            gateway = "the gateway" if source is None else str(source.gateway)
            port = f"{asked.port}/{asked.protocol}"
            yield f"{sender}: network.firewall.allow_host_ports: [{port}]  # opens it at {gateway}"
        case Denial.HOST_SERVICE:
            yield "Of this host nodes may ping their own gateway alone."
        case Denial.HOST_NETWORK:
            yield f"{sender}: network.routes: [{{to: {asked.target}}}]  # in dns_mode routed"
        case Denial.SPOOFED_SOURCE:
            yield "Send from the address that DHCP gave."
            yield f"{sender}: network.routes: [{{to: NETWORK, via: NODE}}]  # in dns_mode routed, of a node that routes"
        case Denial.CLUSTER_AWAY:
            yield f"ai-how up, with the configuration of {aim}"
        case Denial.INTO_CLUSTER:
            if asked.port is not None:
                yield f"{aim}: network.firewall.expose: [{asked.port}:NODE/{asked.protocol}]  # by the host's address"
            yield f"{aim}: network.firewall.allow_from: [{asked.source}]"
        case Denial.GATEWAY_FROM_OUTSIDE:
            yield "Nothing in the configuration opens that. Services of this host have its own address."
            yield f"{aim}: network.firewall.expose: [PORT:NODE]  # leads from that address to a node"
        case (
            Denial.IPV6
            | Denial.FOREIGN_ARP
            | Denial.FALSE_GATEWAY
            | Denial.ROGUE_ROUTER
            | Denial.HIDDEN_FRAME
            | Denial.ROGUE_DHCP
        ):
            yield _NOTHING
        case _:
            assert_never(denial)
