"""The door to nftables: what loads and lists our tables, nothing of other programs' ones (nft(8))."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from ai_how.errors import HostError
from ai_how.host.process import output
from ai_how.resources.firewall import TABLE
from ai_how.resources.ruleset import MARK

#: Where administrators' programs are, which a root shell made by `su` does not search.
SEARCH = "/usr/sbin:/sbin"


def load(text: str) -> None:
    """Carry out the commands in `text`, all or none. Raises HostError."""
    output([_nft(), "-j", "-f", "-"], text=text, timeout=60)


def list_chains() -> str:
    """`nft list chains`: every table with its chains, without their rules. Raises HostError.

    Not as JSON: what nft 1.0.6 prints there is spoilt by any table that has flags, whoever's it is.
    """
    return output([_nft(), "list", "chains"])


def list_table(family: str) -> str:
    """The table of our name in `family`, as JSON. Raises HostError."""
    return output([_nft(), "-j", "list", "table", family, TABLE])


def is_installed() -> bool:
    return _find() is not None


def read_owners(text: str) -> dict[str, bool]:
    """The families that have a table of our name, and whether it carries our mark, of what `list_chains` said."""
    found: dict[str, bool] = {}
    within = ""
    for words in map(str.split, text.splitlines()):
        match words:
            case ["table", family, name, "{"]:
                within = family if name == TABLE else ""
                if within:
                    found[within] = False
            case ["chain", name, "{"] if within and name == MARK:
                found[within] = True
    return found


def read_digest(text: str) -> str:
    """What tells one table from another, of what `list_table` said: without what changes by itself (counters) or means
    nothing (handles, the order of a set). Empty where the text is not JSON, which no table of ours causes."""
    try:
        objects = [each for each in json.loads(text)["nftables"] if "metainfo" not in each]
    except ValueError:
        return ""
    return hashlib.sha256(json.dumps(_lasting(objects), sort_keys=True).encode()).hexdigest()


def _lasting(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _member(name, value) for name, value in data.items() if name != "handle"}
    return [_lasting(each) for each in data] if isinstance(data, list) else data


def _member(name: str, value: Any) -> Any:
    if name == "counter" and isinstance(value, Mapping):
        return None
    seen = _lasting(value)
    if name in ("elem", "set") and isinstance(seen, list):
        return sorted(seen, key=repr)
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
