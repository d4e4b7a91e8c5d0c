"""Both of libvirt's firewall backends: what is seen with the system's iptables also holds with nftables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ai_how.lab import Lab

_HERE = Path(__file__).parent
_PACKETS = [str(_HERE / f"test_firewall_{part}.py") for part in ("policy", "holes", "updates")]


def test_every_packet_fares_the_same_with_libvirt_s_nftables_backend(
    nested_lab: Callable[..., Lab], new_libvirt: Path
) -> None:
    new = nested_lab(internet=True, libvirt_root=new_libvirt)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_PACKETS]
    ran = new.run(argv, cwd=_HERE.parents[1], timeout=1800)
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout
    # It was that backend, and nothing of the other.
    assert "chain LIBVIRT_FWI" not in new.run(["nft", "list", "ruleset"], check=True).stdout
    assert "libvirt_network" in new.run(["nft", "list", "tables"], check=True).stdout
