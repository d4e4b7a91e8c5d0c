"""What our firewall looks like right after it was loaded: it is loaded in a network namespace of its own, and listed.

What nft prints of a table is not what it was given: prefixes, order and defaults are its own. So that what the kernel
has now can be compared with what was meant, the same nft and the same kernel say what that looks like.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ai_how.errors import HostError
from ai_how.host.nftables import SEARCH
from ai_how.host.process import output
from ai_how.resources.firewall import TABLE
from ai_how.resources.ruleset import FAMILIES

#: Seconds that all of it may take; it takes about 0.06.
_WITHIN = 10.0

#: What runs in the namespace, which ends with it: loads standard input, and prints each table that is then there. A
#: table for itself: nft 1.0.6 spoils what it prints where another one has flags.
_LOAD_AND_LIST = """
import subprocess, sys
for transaction in sys.stdin:
    loaded = subprocess.run(["nft", "-j", "-f", "-"], input=transaction, text=True)
    if loaded.returncode:
        sys.exit(loaded.returncode)
for family in sys.argv[2:]:
    subprocess.run(["nft", "-j", "list", "table", family, sys.argv[1]], stderr=subprocess.DEVNULL)
"""


def list_as_loaded(text: str) -> str:
    """nft's JSON of our tables as they are right after `text` (transactions, a line each) was loaded, whatever else is
    in it.

    Nothing of it touches our own namespace, or remains. Needs root. Raises CommandFailed, or HostError where `text` is
    not nft's JSON.
    """
    try:
        for transaction in text.splitlines() or [""]:
            found = json.loads(transaction)
            if not isinstance(found, dict) or "nftables" not in found:
                raise ValueError("it is no transaction of nft's")
    except (ValueError, RecursionError) as error:  # nft would take it for nothing at all, without a word
        raise HostError("the remembered firewall rules cannot be read", why=str(error)) from error
    python = [sys.executable or "/usr/bin/python3", "-I", "-S", "-c", _LOAD_AND_LIST]
    path = f"PATH={os.environ.get('PATH', os.defpath)}:{SEARCH}"
    listed = output(["env", path, "unshare", "--net", *python, TABLE, *FAMILIES], text=text, timeout=_WITHIN)
    entries: list[Any] = []
    for line in listed.splitlines():
        if line:
            entries += json.loads(line)["nftables"]
    return json.dumps({"nftables": entries})
