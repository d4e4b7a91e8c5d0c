"""The door to nftables: what loads and lists our tables (nft(8))."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence

from ai_how.errors import HostError
from ai_how.host.process import output
from ai_how.resources.firewall import OUR_NAMES, TABLE
from ai_how.resources.ruleset import MARK

#: Where administrators' programs are, which a root shell made by `su` does not search.
SEARCH = "/usr/sbin:/sbin"

#: What of our memory (host/memory.py) holds our tables, for `load`.
RULES = "firewall.json"

_PASSING = re.compile(r', "handle": \d+|"counter": \{[^}]*\}|\{"metainfo": [^}]*\}')


def load(text: str) -> None:
    """Carry out the transactions in `text`, a line each, up to the first that is refused, which does nothing. Raises
    HostError."""
    for transaction in text.splitlines():
        output([_nft(), "-j", "-f", "-"], text=transaction, timeout=60, changes_host=True)


def run(words: Sequence[str], *, changes_host: bool = False) -> str:
    """What one command of nft's says. Raises HostError."""
    return output([_nft(), *words], changes_host=changes_host)


def list_chains() -> str:
    """`nft list chains`: every table with its chains, without their rules. Raises HostError.

    Not as JSON: what nft 1.0.6 prints there is spoilt by any table that has flags, whoever's it is.
    """
    return run(["list", "chains"])


def list_table(family: str) -> str:
    """The table of our name in `family`, as JSON; empty where that is no text, as nft 1.0.6 may print a table's flags.
    Raises HostError."""
    try:
        return run(["-j", "list", "table", family, TABLE])
    except UnicodeDecodeError:
        return ""


def is_installed() -> bool:
    return _find() is not None


def read_owners(text: str) -> dict[tuple[str, str], bool]:
    """The families that have a table of our names, with that name, and whether it carries our mark, of what
    `list_chains` said."""
    found: dict[tuple[str, str], bool] = {}
    within = ("", "")
    for words in map(str.split, text.splitlines()):
        match words:
            case ["table", family, name, "{"]:
                within = (family, name)
                if name in OUR_NAMES:
                    found[within] = False
            case ["chain", name, "{"] if within in found and name == MARK:
                found[within] = True
    return found


def read_digest(text: str) -> str:
    """What tells one table from another, of what `list_table` said: all but what changes by itself (counters) or means
    nothing (handles). The same rules, loaded again, are listed in the same order."""
    return hashlib.sha256(_PASSING.sub("", text).encode()).hexdigest()


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
