"""libvirt makes its rules anew for every update of a network's DHCP: what that costs, and that it costs us nothing.

tests/lab/test_firewall_backends.py runs this with libvirt's other backend, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from tests.lab.pings import Meter
from tests.waiting import COMES_WITHIN, until

from ai_how.errors import LibvirtError
from ai_how.host.libvirt import Libvirt
from ai_how.host.libvirt_chains import keeping_chains
from ai_how.host.libvirt_rules import let_through, read_handles
from ai_how.probe.endpoint import Endpoint, endpoint

_NETWORK = """<network><name>{name}</name><forward mode='route'/><bridge name='br-{name}' stp='off' delay='0'/>
<ip address='10.{third}.0.1' netmask='255.255.255.0'>
<dhcp><range start='10.{third}.0.10' end='10.{third}.0.50'/></dhcp></ip>
<options xmlns='http://libvirt.org/schemas/network/dnsmasq/1.0'><option value='no-ping'/></options></network>"""


def virsh(*words: str) -> str:
    return subprocess.run(["virsh", "-q", *words], check=True, capture_output=True, text=True).stdout


def rules() -> list[str]:
    """libvirt's rules and ours, without counters and handles, sorted: libvirt puts its new ones first."""
    listed = [["iptables", "-S"], ["nft", "-s", "list", "ruleset"]]
    texts = (subprocess.run(words, check=False, capture_output=True, text=True).stdout for words in listed)
    return sorted(line for text in texts for line in text.splitlines())


@pytest.fixture
def nodes(libvirt_uri: str, tmp_path: Path) -> Iterator[tuple[Endpoint, Endpoint]]:
    """An endpoint in each of two networks that libvirt routes to each other."""
    for name, third in (("here", 94), ("there", 95)):
        (tmp_path / name).write_text(_NETWORK.format(name=name, third=third))
        virsh("net-create", str(tmp_path / name))
    with (
        endpoint("br-here", "52:54:00:94:00:01", within=COMES_WITHIN) as one,
        endpoint("br-there", "52:54:00:95:00:01", within=COMES_WITHIN) as other,
    ):
        yield one, other
    for name in ("here", "there"):
        virsh("net-destroy", name)


def test_what_libvirt_s_update_of_a_range_cuts_is_let_through(nodes: tuple[Endpoint, Endpoint]) -> None:
    one, other = nodes
    before = rules()
    with Meter() as meter:
        meter.ping(one.place, other.ip, "here → there")
        meter.ping(other.place, one.ip, "there → here")
        until(lambda: lost_by_updates(meter, nullcontext()), "a loss")  # the control, by chance not at once
        assert lost_by_updates(meter, let_through("br-here")) == []
    assert rules() == before


def lost_by_updates(meter: Meter, held: AbstractContextManager[object]) -> list[str]:
    with meter.watching() as watched, held:
        for command in ("add-last", "delete"):
            extra = "<range start='10.94.0.60' end='10.94.0.70'/>"
            virsh("net-update", "here", command, "ip-dhcp-range", extra, "--live")
    return watched.losses


def test_of_a_kill_in_between_the_next_call_leaves_nothing(nodes: tuple[Endpoint, Endpoint]) -> None:
    before = rules()
    killed = let_through("br-here")
    killed.__enter__()
    if any("libvirt_network" in line for line in before):
        # The rules of nftables are known by their comment alone; those of iptables are a passage's (test_passage.py).
        with let_through("br-here"):
            pass
    else:
        killed.__exit__(None, None, None)
    assert rules() == before


@pytest.fixture
def off(libvirt_uri: str, tmp_path: Path) -> Iterator[Libvirt]:
    """A network that is defined and does not run, after one that did: libvirt has made its chains."""
    (tmp_path / "off").write_text(_NETWORK.format(name="off", third=96))
    for words in (("net-define", str(tmp_path / "off")), ("net-start", "off"), ("net-destroy", "off")):
        virsh(*words)
    with Libvirt(libvirt_uri) as libvirt:
        yield libvirt
    virsh("net-undefine", "off")


def start(libvirt: Libvirt) -> None:
    with libvirt.doing("cannot start network off"):
        libvirt.connection.networkLookupByName("off").create()


def test_after_a_flush_of_everything_networks_start_and_libvirt_s_rules_are_in_their_order(off: Libvirt) -> None:
    start(off)
    before = subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    virsh("net-destroy", "off")
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    with pytest.raises(LibvirtError) as refused:
        start(off)
    assert "systemctl restart libvirtd" in refused.value.remedy
    keeping_chains(lambda: start(off))
    after = subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    assert sections(after) == sections(before)
    virsh("net-destroy", "off")


def sections(ruleset: str) -> dict[str, list[str]]:
    """The rules of each chain, in order. Who made a table first is history."""
    found: dict[str, list[str]] = {}
    table = chain = ""
    for line in map(str.strip, ruleset.splitlines()):
        if line.startswith("table "):
            table = line
        elif line.startswith("chain "):
            chain = f"{table} {line}"
            found[chain] = []
        elif line not in ("", "}") and not line.startswith("#"):
            found[chain].append(line)
    return found


def test_other_errors_of_libvirt_are_not_asked_about_twice(off: Libvirt) -> None:
    asked = []

    def twice() -> None:
        asked.append(0)
        start(off)

    start(off)
    with pytest.raises(LibvirtError, match="already active"):
        keeping_chains(twice)
    assert len(asked) == 1
    virsh("net-destroy", "off")


def test_only_rules_with_our_comment_are_ours() -> None:
    listed = """table ip libvirt_network {
	chain forward { # handle 1
		iifname "virbr0" accept comment "ai-how" # handle 14
		iifname "virbr0" accept comment "not ai-how" # handle 15
		iifname "virbr0" accept comment "ai-how-other" # handle 16
		counter packets 0 bytes 0 jump guest_cross # handle 7
	}
}"""
    assert read_handles(listed) == ["14"]
