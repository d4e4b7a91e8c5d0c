"""Checks of dnsmasq, which serves DHCP and DNS to a network: that it runs, and that it answers."""

from __future__ import annotations

from collections.abc import Iterator

from ai_how.diagnose.facts import Facts, Network
from ai_how.diagnose.finding import Answer, Finding


def check_servers(facts: Facts) -> Iterator[Finding]:
    """The servers of all active networks; without libvirt's word, the processes that are there."""
    if facts.problem:
        for server in facts.servers:
            summary = f"process {server.pid} is there; whether it should be, only libvirt knows"
            yield Finding("dnsmasq", server.network, Answer.UNKNOWN, summary)
    for network in facts.networks:
        yield from check_server(facts, network)


def check_server_named(facts: Facts, name: str) -> Iterator[Finding]:
    """The server of the one network that was asked for; that it is missing, another check says."""
    if network := facts.network(name):
        yield from check_server(facts, network)


def check_server(facts: Facts, network: Network) -> Iterator[Finding]:
    """The server of one network, where it has one."""
    if not network.active or not (network.dhcp_ranges or network.dns):
        return
    servers = [server for server in facts.servers if server.network == network.name]
    pids = " ".join(str(server.pid) for server in servers)
    if not servers:
        hint = "kill -HUP $(pidof libvirtd)  (starts it again; running machines keep their link)"
        yield Finding("dnsmasq-dead", network.name, Answer.FAIL, "no dnsmasq serves this network", hint=hint)
    elif any(server.stopped for server in servers):
        yield Finding(
            "dnsmasq-unresponsive", network.name, Answer.FAIL, "dnsmasq is stopped", (pids,), f"kill -CONT {pids}"
        )
    elif network.answers_dns is False:
        yield Finding(
            "dnsmasq-unresponsive",
            network.name,
            Answer.FAIL,
            "dnsmasq runs, but does not answer a DNS question",
            (f"processes {pids}", f"asked {network.gateway.ip if network.gateway else '-'}, port 53"),
            "look for what blocks port 53: ss -lunp 'sport = :53'; nft list ruleset",
        )
    else:
        answered = " and answers" if network.answers_dns else ""
        yield Finding("dnsmasq", network.name, Answer.OK, f"dnsmasq runs{answered}", (f"processes {pids}",))
