"""Kernel settings that clusters need: set, remembered, restored."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.host import memory, sysctl
from ai_how.host.libvirt import Libvirt
from ai_how.providers import sysctl as provider
from ai_how.resources.sysctl import Sysctl

FORWARDING = Sysctl("net.ipv4.ip_forward", "1")
KERNEL = Path("/proc/sys/net/ipv4/ip_forward")

OTHERS = """
<network><name>others</name><forward mode='{mode}'/><bridge name='others' stp='off' delay='0'/>
  <ip address='10.250.0.1' netmask='255.255.255.0'/></network>
"""


@pytest.fixture
def libvirt(libvirt_uri: str) -> Iterator[Libvirt]:
    """The lab's, on a host that forwards nothing; afterwards as it was."""
    before = KERNEL.read_text()
    KERNEL.write_text("0")
    with Libvirt(libvirt_uri) as opened:
        yield opened
        for left in provider.observe(opened, ""):
            provider.remove(opened, left)
    KERNEL.write_text(before)


@pytest.mark.usefixtures("clean_host")
def test_setting_goes_back_to_what_it_was(libvirt: Libvirt) -> None:
    assert provider.observe(libvirt, "") == []
    provider.create(libvirt, FORWARDING)
    assert (KERNEL.read_text(), provider.observe(libvirt, "")) == ("1\n", [FORWARDING])
    provider.remove(libvirt, FORWARDING)
    assert (KERNEL.read_text(), provider.observe(libvirt, "")) == ("0\n", [])
    provider.remove(libvirt, FORWARDING)
    assert KERNEL.read_text() == "0\n"


def test_setting_that_was_so_before_stays(libvirt: Libvirt) -> None:
    KERNEL.write_text("1")
    provider.create(libvirt, FORWARDING)
    provider.remove(libvirt, FORWARDING)
    assert KERNEL.read_text() == "1\n"


def test_what_was_before_the_first_create_is_what_counts(libvirt: Libvirt) -> None:
    for _ in range(2):
        provider.create(libvirt, FORWARDING)
    provider.remove(libvirt, FORWARDING)
    assert KERNEL.read_text() == "0\n"


def test_killed_between_remembering_and_writing_is_made_good(libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(name: str, value: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sysctl, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            provider.create(libvirt, FORWARDING)
    assert provider.observe(libvirt, "") == [Sysctl(FORWARDING.name, "0")]
    provider.change(libvirt, Sysctl(FORWARDING.name, "0"), FORWARDING)
    assert KERNEL.read_text() == "1\n"
    provider.remove(libvirt, FORWARDING)
    assert KERNEL.read_text() == "0\n"


@pytest.mark.parametrize("text", [None, "", "/proc/sys/net/ipv4/ip_forward 0\n"])
def test_setting_that_the_hook_would_not_set_again_differs(libvirt: Libvirt, text: str | None) -> None:
    provider.create(libvirt, FORWARDING)
    read_by_the_hook = memory.DIRECTORY / "sysctl.settings"
    before = read_by_the_hook.read_text()
    read_by_the_hook.unlink()
    if text is not None:
        read_by_the_hook.write_text(text)
    lost = replace(FORWARDING, lasting=False)
    assert provider.observe(libvirt, "") == [lost]
    provider.change(libvirt, lost, FORWARDING)
    assert (provider.observe(libvirt, ""), read_by_the_hook.read_text()) == ([FORWARDING], before)
    provider.remove(libvirt, FORWARDING)
    assert KERNEL.read_text() == "0\n"


@pytest.mark.usefixtures("clean_host")
@pytest.mark.parametrize(
    "text", ["", "[1, 2]", '{"net.ipv4.ip_forward": 1}', '{"net.ipv4.ip_forward": {"before": "0"}}']
)
def test_memory_that_makes_no_sense_is_made_anew(libvirt: Libvirt, text: str) -> None:
    provider.create(libvirt, FORWARDING)
    (memory.DIRECTORY / "sysctl.json").write_text(text)
    assert provider.observe(libvirt, "") == []
    provider.create(libvirt, FORWARDING)
    assert provider.observe(libvirt, "") == [FORWARDING]
    provider.remove(libvirt, FORWARDING)


@pytest.mark.usefixtures("clean_host")
def test_without_room_for_what_is_remembered_nothing_is_set_and_the_remedy_is_about_room(libvirt: Libvirt) -> None:
    memory.DIRECTORY.mkdir(exist_ok=True)
    subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(memory.DIRECTORY)], check=True)
    try:
        (memory.DIRECTORY / "theirs").write_text("x" * 4096)
        with pytest.raises(HostError, match="No space left") as caught:
            provider.create(libvirt, FORWARDING)
        assert caught.value.remedy == f"Make room there: df -h {memory.DIRECTORY}"
        assert KERNEL.read_text() == "0\n"
    finally:
        subprocess.run(["umount", "-n", str(memory.DIRECTORY)], check=True)


@pytest.mark.parametrize("mode", ["nat", "route", "open"])
def test_forwarding_stays_while_somebody_elses_network_needs_it(libvirt: Libvirt, mode: str) -> None:
    provider.create(libvirt, FORWARDING)
    others = libvirt.connection.networkCreateXML(OTHERS.format(mode=mode))
    try:
        provider.remove(libvirt, FORWARDING)
        assert (KERNEL.read_text(), provider.observe(libvirt, "")) == ("1\n", [])
    finally:
        others.destroy()


def test_isolated_network_of_somebody_else_does_not_keep_forwarding(libvirt: Libvirt) -> None:
    provider.create(libvirt, FORWARDING)
    others = libvirt.connection.networkCreateXML(OTHERS.replace("<forward mode='{mode}'/>", ""))
    try:
        provider.remove(libvirt, FORWARDING)
        assert KERNEL.read_text() == "0\n"
    finally:
        others.destroy()


def test_libvirt_switches_forwarding_on_and_leaves_it_so(libvirt: Libvirt) -> None:
    """The reason for all of this: without us the host would forward for ever."""
    libvirt.connection.networkCreateXML(OTHERS.format(mode="nat")).destroy()
    assert KERNEL.read_text() == "1\n"


def test_setting_that_the_kernel_does_not_have_is_named(libvirt: Libvirt) -> None:
    with pytest.raises(HostError, match=r"net\.ipv4\.no_such cannot be set to 1"):
        provider.create(libvirt, Sysctl("net.ipv4.no_such", "1"))
    provider.remove(libvirt, Sysctl("net.ipv4.no_such", ""))
    assert provider.observe(libvirt, "") == []
