"""`ai-how status`: what clusters are like now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, Target, choose
from ai_how.cli.terminal import note, paint, print_json, say, table

if TYPE_CHECKING:
    from ai_how.engine.status import ClusterStatus

_COLOURS = {
    "active": "green",
    "running": "green",
    "inactive": "yellow",
    "paused": "yellow",
    "stopped": "yellow",
    "missing": "red",
}


def status(ctx: typer.Context, target: Target = None, cluster: ClusterOption = None) -> int:
    """Show the network and the nodes of clusters, with their leases.

    Exit code 1 where a cluster asked for is not there, not wholly at work, or not as it was made.
    """
    from ai_how.engine.pending import all_pending
    from ai_how.engine.status import survey
    from ai_how.host.libvirt import Libvirt

    options: Options = ctx.obj
    with Libvirt(options.connect) as libvirt:
        found = survey(libvirt, choose(libvirt, target, cluster))
    waiting = {each.cluster: each for each in all_pending(options.connect)}
    if options.json:
        left = {name: {"undone_in": round(each.left, 1)} for name, each in waiting.items()}
        answers = [each.to_json() | left.get(each.cluster, {}) for each in found]
        print_json(answers[0] if len(answers) == 1 else answers)
    else:
        for each in found:
            show(each)
            if each.cluster in waiting:
                say(f"  {paint('not confirmed:', 'yellow')} {waiting[each.cluster]}: ai-how confirm {each.cluster}")
        if not found:
            say("no clusters on this host")
    return 0 if all(each.at_work and not each.drift for each in found) else 1


def show(found: ClusterStatus) -> None:
    """A cluster for people."""
    network = found.network
    say(f"{paint(found.cluster, 'bold')}  {network.name} {_state(network.state)}  dns_mode {network.dns_mode or '-'}")
    if network.subnet is not None:
        say(f"  {network.subnet} on {network.bridge}, gateway {network.gateway}")
    if found.nodes:
        rows = [
            (
                node.name,
                node.role,
                node.state,
                node.mac,
                node.ip,
                None if node.lease is None else f"{node.lease.ip} until {node.lease.expires_at:%H:%M:%S}Z",
            )
            for node in found.nodes
        ]
        table(("node", "role", "state", "mac", "ip", "lease"), rows, indent="  ")
    for each in found.drift:
        say(f"  {paint('drift:', 'yellow')} {each}")
    for why in found.unseen:
        note(f"not looked at: {why}")


def _state(state: str) -> str:
    return paint(state, _COLOURS.get(state, "dim"))
