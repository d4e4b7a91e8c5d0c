"""`ai-how leases`: what DHCP gave out."""

from __future__ import annotations

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, Target, choose
from ai_how.cli.terminal import print_json, say, table


def leases(ctx: typer.Context, target: Target = None, cluster: ClusterOption = None) -> None:
    """List the DHCP leases of clusters, also those of strangers on their networks."""
    from ai_how.engine.observe import observe
    from ai_how.engine.wait import leases as read_leases
    from ai_how.host.libvirt import Libvirt

    options: Options = ctx.obj
    rows = []
    with Libvirt(options.connect) as libvirt:
        for each in choose(libvirt, target, cluster):
            observed = observe(libvirt, each.name)
            if observed.network is None:
                continue
            nodes = {domain.mac: domain.name for domain in observed.domains}
            reserved = {entry.mac: entry.ip for entry in observed.network.reservations}
            rows += [
                {
                    "cluster": each.name,
                    "node": nodes.get(lease.mac),
                    "name": lease.name or None,
                    "mac": lease.mac,
                    "ip": str(lease.ip),
                    "reserved": None if lease.mac not in reserved else str(reserved[lease.mac]),
                    "expires": lease.expires_at.isoformat(timespec="seconds"),
                }
                for lease in read_leases(libvirt, observed.network.name)
            ]
    if options.json:
        print_json(rows)
    elif rows:
        table(tuple(rows[0]), (tuple(row.values()) for row in rows))
    else:
        say("no leases")
