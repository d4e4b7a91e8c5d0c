"""Part (h), `doctor`: the whole of it, and one network, on a host with three clusters whose machines run."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import yaml

from ai_how.host.libvirt import Libvirt
from bench.floor import read_all
from bench.measure import AI_HOW, in_turns, process, timed
from bench.report import Report, Row, Target

CLUSTERS, NODES = 3, 10

_WHOLE, _NETWORK = "ai-how doctor", "ai-how doctor network NAME"
TARGETS = {_WHOLE: Target(seconds=2.0), _NETWORK: Target(seconds=1.0)}

#: Seconds in which all machines have their leases.
_WITHIN = "1200"


def measure(report: Report, image: Path, *, nodes: int = NODES, rounds: int) -> None:
    """The whole process. The floor lists machines and networks, and reads their XML.

    Runs in a lab with the pretend internet, on a host that has nothing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "doctor.yaml"
        config.write_text(yaml.safe_dump(_clusters(image, nodes)))
        state = ["--state", str(folder / "state.json")]
        try:
            process([AI_HOW, "up", "--yes", "--no-test", "--timeout", _WITHIN, *state, str(config)])
            taken = in_turns(
                {
                    "floor: their XML": partial(timed, _read),
                    _WHOLE: partial(process, [AI_HOW, "doctor"]),
                    _NETWORK: partial(process, [AI_HOW, "doctor", "network", "bench-0-network"]),
                },
                rounds,
            )
        finally:
            process([AI_HOW, "destroy", "--yes", *state, str(config)])
    work = f"{CLUSTERS} clusters of {nodes} nodes, all well"
    rows = [Row("doctor", work, by, each) for by, each in taken.items()]
    for row in rows[1:]:
        target = TARGETS[row.by] if nodes == NODES else None
        rows[rows.index(row)] = Row(row.part, row.work, row.by, row.taken, rows[0].wall, target)
    report.rows += rows


def _read() -> None:
    read_all(threads=1)
    with Libvirt() as libvirt:
        for each in libvirt.connection.listAllNetworks():
            each.XMLDesc()


def _clusters(image: Path, nodes: int) -> dict[str, object]:
    machine = {"cpu_cores": 1, "memory_gb": 0.09375, "disk_gb": 1}
    return {
        "clusters": {
            f"bench-{number}": {
                "name": f"bench-{number}",
                "base_image_path": str(image),
                "network": {"subnet": f"10.50.{number}.0/24", "bridge": f"br-bench-{number}", "dns_mode": mode},
                "controller": machine,
                "compute_nodes": [machine] * (nodes - 1),
            }
            for number, mode in enumerate(("isolated", "routed", "isolated")[:CLUSTERS])
        }
    }
