"""The door to nftables: what loads and lists our tables, nothing of other programs' ones (nft(8))."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ai_how.errors import HostError
from ai_how.host.process import output
from ai_how.resources.firewall import TABLE
from ai_how.resources.ruleset import MARK

#: Where administrators' programs are, which a root shell made by `su` does not search.
SEARCH = "/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Listing:
    """One table as the kernel holds it: whether it carries our mark, and what is in it without what changes by itself
    (counters) or means nothing (handles, the order of a set)."""

    ours: bool
    digest: str


def load(text: str) -> None:
    """Carry out the commands in `text`, all or none. Raises HostError."""
    output([_nft(), "-j", "-f", "-"], text=text, timeout=60)


def list_tables() -> str:
    """`nft -j list tables`. Raises HostError."""
    return output([_nft(), "-j", "list", "tables"])


def list_table(family: str) -> str:
    """The table of our name in `family`, as JSON. Raises HostError."""
    return output([_nft(), "-j", "list", "table", family, TABLE])


def is_installed() -> bool:
    return _find() is not None


def read_families(text: str) -> tuple[str, ...]:
    """The families that have a table of our name, ours or not, of what `list_tables` said."""
    tables = (each["table"] for each in json.loads(text)["nftables"] if "table" in each)
    return tuple(each["family"] for each in tables if each["name"] == TABLE)


def read_table(text: str) -> Listing:
    """What `list_table` said, understood."""
    objects = [each for each in json.loads(text)["nftables"] if "metainfo" not in each]
    chains = (each["chain"]["name"] for each in objects if "chain" in each)
    lasting = json.dumps(_lasting(objects), sort_keys=True)
    return Listing(MARK in chains, hashlib.sha256(lasting.encode()).hexdigest())


def _lasting(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _member(name, value) for name, value in data.items() if name != "handle"}
    return [_lasting(each) for each in data] if isinstance(data, list) else data


def _member(name: str, value: Any) -> Any:
    if name == "counter" and isinstance(value, Mapping):
        return None
    seen = _lasting(value)
    if name in ("elem", "set") and isinstance(seen, list):
        return sorted(seen, key=lambda each: json.dumps(each, sort_keys=True))
    return seen


def _nft() -> str:
    path = _find()
    if path is None:
        raise HostError(
            "the firewall cannot be looked at or changed",
            why="the program nft is not installed",
            remedy="Install it: apt-get install nftables",
        )
    return path


def _find() -> str | None:
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:{SEARCH}")
