"""The guest agent: commands inside a node, its addresses, and what is said where there is none."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.waiting import until

from ai_how.errors import CommandFailed, LibvirtError
from ai_how.host import agent
from ai_how.host.libvirt import Libvirt

Ran = subprocess.CompletedProcess[str]

NODE, EMPTY = "asked-controller", "empty-controller"

#: Seconds that a guest which was given up on may cost, on a busy machine.
GIVEN_UP = 60.0


@pytest.fixture(scope="module")
def libvirt(
    ai_how: Callable[..., Ran],
    configuration: Callable[..., dict[str, Any]],
    micro_image: Path,
    blank_image: Path,
    machine_room: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Libvirt]:
    """A guest with an agent, and one with nothing on its disk."""
    folder = tmp_path_factory.mktemp("asked")
    path, state = folder / "cluster.yaml", folder / "state.json"
    asked = configuration(nodes=1, name="asked", base_image_path=str(micro_image))
    network = {"subnet": "10.45.0.0/24", "bridge": "br-empty"}
    empty = configuration(nodes=1, name="empty", base_image_path=str(blank_image), network=network)
    path.write_text(yaml.safe_dump({"clusters": asked["clusters"] | {"empty": empty["clusters"]["hpc"]}}))
    ran = ai_how("up", path, "--no-wait", "--state", state)
    assert ran.returncode == 0, ran.stderr
    with Libvirt() as found:
        until(lambda: agent.answers(found, NODE), "the agent")
        yield found
    assert ai_how("destroy", path, "--yes", "--state", state).returncode == 0


def test_a_command_s_end_and_both_of_its_outputs_come_back(libvirt: Libvirt) -> None:
    script = "echo out; echo err >&2; exit 3"
    assert agent.run(libvirt, NODE, ["/bin/sh", "-c", script]) == agent.Ran(3, "out\n", "err\n")
    assert agent.run(libvirt, NODE, ["hostname"]) == agent.Ran(0, f"{NODE}\n", "")


def test_an_argument_stays_one_word(libvirt: Libvirt) -> None:
    assert agent.run(libvirt, NODE, ["echo", "a  b", "$HOME; ls"]).stdout == "a  b $HOME; ls\n"


def test_a_signal_is_told_as_shells_tell_it(libvirt: Libvirt) -> None:
    assert agent.run(libvirt, NODE, ["/bin/sh", "-c", "kill -15 $$"]).code == 128 + 15


def test_what_cannot_be_started_is_named(libvirt: Libvirt) -> None:
    with pytest.raises(CommandFailed, match=r"no-such-program .*No such file"):
        agent.run(libvirt, NODE, ["no-such-program"])


def test_what_does_not_end_is_killed(libvirt: Libvirt) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match=r"no end after 0\.5 s"):
        agent.run(libvirt, NODE, ["sleep", "4321"], within=0.5)
    assert time.monotonic() - begin < GIVEN_UP
    # The control: ps shows them all. What kills it was started before it, and may not have come to that yet.
    agent.run(libvirt, NODE, ["/bin/sh", "-c", "sleep 5678 >/dev/null 2>&1 &"])

    def listed() -> list[str]:
        return re.findall(r"sleep (4321|5678)", agent.run(libvirt, NODE, ["ps"]).stdout)

    until(lambda: listed() == ["5678"], "the end of the other")


def test_the_addresses_inside_are_those_that_dhcp_gave(libvirt: Libvirt, settled: Callable[[str], None]) -> None:
    settled(NODE)  # its agent waits for the lease, but not for ever
    found = {each.name: each for each in agent.links(libvirt, NODE)}
    mac = agent.run(libvirt, NODE, ["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    assert found["eth0"].mac == mac
    assert ip_interface("10.44.0.2/24") in found["eth0"].addresses
    assert found["lo"].mac == ""


def test_a_machine_without_an_agent_is_told_apart_from_one_that_is_not_there(libvirt: Libvirt) -> None:
    assert agent.answers(libvirt, NODE)
    assert not agent.answers(libvirt, EMPTY)
    with pytest.raises(agent.NoAgent, match=f"no guest agent in {EMPTY}: .*not (connected|responding)"):
        agent.run(libvirt, EMPTY, ["true"])
    with pytest.raises(agent.NoAgent):
        agent.links(libvirt, EMPTY)
    with pytest.raises(LibvirtError, match="asked-compute-99"):
        agent.answers(libvirt, "asked-compute-99")


#: Stops the agent when the guest's link goes, and lets it go on when the link comes back.
HANG = """
flaps=/sys/class/net/eth0/carrier_changes; before=$(cat $flaps); pid=$(pidof qemu-ga)
(
    until [ "$(cat $flaps)" -gt $before ]; do sleep 0.1; done
    kill -STOP $pid
    until [ "$(cat $flaps)" -gt $((before + 1)) ]; do sleep 0.1; done
    kill -CONT $pid
) >/dev/null 2>&1 &
"""


def test_an_agent_that_hangs_is_given_up(libvirt: Libvirt, virsh: Callable[..., str]) -> None:
    tap = virsh("domiflist", NODE).split()[0]
    assert agent.run(libvirt, NODE, ["/bin/sh", "-c", HANG]).code == 0
    try:
        virsh("domif-setlink", NODE, tap, "down")
        until(lambda: not agent.answers(libvirt, NODE), "the agent hangs")
        begin = time.monotonic()
        with pytest.raises(agent.NoAgent, match=r"not responding"):
            agent.links(libvirt, NODE)
        assert time.monotonic() - begin < GIVEN_UP
    finally:
        virsh("domif-setlink", NODE, tap, "up")
        until(lambda: agent.answers(libvirt, NODE), "the agent goes on")
    assert agent.run(libvirt, NODE, ["true"]).code == 0


def test_a_machine_that_is_paused_has_no_agent(libvirt: Libvirt, virsh: Callable[..., str]) -> None:
    virsh("suspend", NODE)
    try:
        assert not agent.answers(libvirt, NODE)
    finally:
        virsh("resume", NODE)
        until(lambda: agent.answers(libvirt, NODE), "the agent goes on")


def test_a_machine_that_is_off_has_no_agent(libvirt: Libvirt, virsh: Callable[..., str]) -> None:
    virsh("destroy", EMPTY)
    assert not agent.answers(libvirt, EMPTY)
    with pytest.raises(agent.NoAgent, match="not running"):
        agent.run(libvirt, EMPTY, ["true"])
