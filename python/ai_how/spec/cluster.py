"""A cluster: one network and its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ai_how.config.terms import Accelerator
from ai_how.spec.network import Network
from ai_how.spec.node import Node

__all__ = ["Accelerator", "Cluster"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster with nothing left open. `key` is its key under `clusters`; the controller is the first node, if any."""

    key: str
    name: str
    base_image: Path
    network: Network
    nodes: tuple[Node, ...]
    accelerator: Accelerator
    graphics: bool
    cloud_init: bool
