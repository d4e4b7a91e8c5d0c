"""Configurations of any size, as people write them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

#: The guests of all parts. The network has room for 65,000 nodes.
CLUSTER = "bench"
SUBNET = "10.66.0.0/16"
MEMORY_MIB = 128

_NODE = f"cpu_cores: 1, memory_gb: {MEMORY_MIB / 1024}, disk_gb: 1"


class Form(StrEnum):
    """How the compute nodes are written."""

    GROUP = "group"
    LIST = "list"


def write(path: Path, nodes: int, *, form: Form = Form.GROUP, image: Path = Path("/images/base.qcow2")) -> Path:
    """A configuration of a controller and `nodes` compute nodes at `path`."""
    if form is Form.GROUP:
        compute = f" {{count: {nodes}, {_NODE}}}\n"
    else:
        block = "        - " + _NODE.replace(", ", "\n          ") + "\n"
        compute = "\n" + block * nodes
    path.write_text(
        "clusters:\n"
        "  hpc:\n"
        f"    name: {CLUSTER}\n"
        f"    base_image_path: {image}\n"
        f"    network: {{subnet: {SUBNET}, bridge: br-{CLUSTER}}}\n"
        f"    controller: {{{_NODE}}}\n"
        f"    compute_nodes:{compute}"
    )
    return path
