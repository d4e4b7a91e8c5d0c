"""`ai-how validate CONFIG`: every problem of a configuration with its place, and the addresses it leads to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.terminal import counted, paint, print_json, problem_json, say, show_problem, table
from ai_how.errors import ConfigurationError, Problem, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Network

    from ai_how.spec.cluster import Cluster
    from ai_how.spec.policy import Policy, Port

#: Nodes shown of a larger cluster: the first ones and the last. All are shown with -v.
MANY = 20


def validate(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file.", show_default=False)],
    strict: Annotated[bool, typer.Option("--strict", help="Advice counts, too: a warning makes it invalid.")] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="NAME", help="Show only this cluster's addresses.")
    ] = None,
) -> int:
    """Check a configuration and say everything that is wrong with it.

    The host is not looked at. Exit code: 0 valid, 2 not.
    """
    options: Options = ctx.obj
    clusters, problems = _examine(config)
    if strict:
        problems = [replace(problem, severity=Severity.ERROR) for problem in problems]
    valid = not any(problem.severity is Severity.ERROR for problem in problems)
    if valid and cluster is not None:
        from ai_how.spec.resolve import choose

        key = choose([(found.key, found.name) for found in clusters], cluster)
        clusters = [found for found in clusters if found.key == key]
    if options.json:
        print_json({"valid": valid, "problems": [problem_json(problem) for problem in problems]})
    else:
        _show(config, clusters if valid else [], problems, everything=options.verbose > 0)
    return 0 if valid else 2


def _examine(config: Path) -> tuple[list[Cluster], list[Problem]]:
    from ai_how.config.load import load_file
    from ai_how.spec.resolve import examine

    try:
        examined = examine(load_file(config))
    except ConfigurationError as error:
        return [], list(error.problems)
    return list(examined.clusters), list(examined.problems)


def _show(config: Path, clusters: list[Cluster], problems: list[Problem], *, everything: bool) -> None:
    import sys

    for problem in problems:
        show_problem(problem, sys.stdout)
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    weights = ((errors, "error"), (len(problems) - errors, "warning"))
    remarks = ", ".join(counted(number, what) for number, what in weights if number)
    if errors:
        say(f"{config}: {paint('not valid', 'red')}, {remarks}")
        return
    say(f"{config}: {paint('valid', 'green')}" + (f", {remarks}" if remarks else ""))
    for cluster in clusters:
        _show_cluster(cluster, everything=everything)


def _show_cluster(cluster: Cluster, *, everything: bool) -> None:
    network, nodes = cluster.network, cluster.nodes
    say()
    size = counted(len(nodes), "node") if nodes else "no nodes"
    say(paint(f"{cluster.name} (clusters.{cluster.key}), {size}", "bold"))
    say(f"  network  {network.name} on {network.bridge}: {network.subnet}, {network.dns_mode}, {network.domain}")
    say(f"  gateway  {network.gateway}")
    say(f"  pool     {network.dhcp_start} – {network.dhcp_end}")
    say(f"  DNS      {', '.join(str(server) for server in network.dns_servers)}")
    for what, text in _policy(network.policy):
        say(f"  {what:8} {text}")
    if not nodes:
        return
    say()
    shown = nodes if everything or len(nodes) <= MANY else (*nodes[: MANY // 2], None, nodes[-1])
    left_out = f"… {len(nodes) - MANY // 2 - 1:,} more (all with -v)"
    rows = [
        (left_out, "", "", "") if node is None else (node.name, node.role, node.ip or "by DHCP", node.mac)
        for node in shown
    ]
    table(["node", "role", "ip", "mac"], rows, indent="  ")


def _policy(policy: Policy) -> Iterator[tuple[str, str]]:
    """What a cluster allows beside its mode's defaults, in words."""
    ways = [_network(each.to) + (f" via {each.via}" if each.via else "") for each in policy.routes]
    if not policy.nat:
        ways.append("no NAT")
    if ways:
        yield "routes", ", ".join(ways)
    firewall = policy.firewall
    if not firewall.enabled:
        yield "firewall", "off: libvirt's own rules alone"
    if firewall.egress == "deny":
        yield "firewall", "egress deny" + _listed(" but for ", map(_network, firewall.allow_networks))
    for text in (
        _listed("never to ", map(_network, firewall.block_networks)),
        _listed("open to ", map(_network, firewall.allow_from)),
        _listed("host ports ", map(_port, firewall.allow_host_ports)),
    ):
        if text:
            yield "firewall", text
    for each in firewall.expose:
        yield "exposed", f"port {_port(each.host)} of the host → {each.node} ({each.ip}) port {each.node_port}"
    discovery = policy.discovery
    if discovery is not None:
        remark = "" if discovery.required else " (may be away)"
        tags = _listed(", tags ", discovery.tags)
        yield "Consul", f"{discovery.address}{remark}, service {discovery.service_name}{tags}"
    if policy.host_resolver != "auto":
        yield "resolver", policy.host_resolver


def _listed(begin: str, words: Iterable[str]) -> str:
    text = ", ".join(words)
    return begin + text if text else ""


def _network(network: IPv4Network) -> str:
    return str(network.network_address) if network.prefixlen == 32 else str(network)


def _port(port: Port) -> str:
    return f"{port.number}/{port.protocol}"
