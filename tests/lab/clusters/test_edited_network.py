"""A network of ours that another user of libvirt has edited: root believes nothing of it, and it can be mended."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Ran = subprocess.CompletedProcess[str]


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("domain", "name='a.internal'", "name='a.internal&#10;dhcp-script=/tmp/a'"),
        ("bridge", "name='br-a'", "name='br-a -j ACCEPT'"),
    ],
)
def test_what_root_would_make_of_an_edited_network_is_refused_until_it_is_brought_up_again_or_destroyed(
    field: str,
    right: str,
    wrong: str,
    write: Callable[..., Path],
    ai_how: Callable[..., Ran],
    virsh: Callable[..., str],
    tmp_path: Path,
) -> None:
    shared = {"dns_mode": "shared_dns", "host_resolver": "none"}
    a = write("a.yaml", name="a", network={"subnet": "10.45.0.0/24", "bridge": "br-a", **shared})
    b = write("b.yaml", name="b", network={"subnet": "10.46.0.0/24", **shared})
    definition = tmp_path / "network.xml"

    def edit() -> None:
        made = virsh("net-dumpxml", "--inactive", "a-network")
        assert right in made
        definition.write_text(made.replace(right, wrong))
        virsh("net-define", str(definition))

    def up(path: Path) -> Ran:
        return ai_how("up", path, "--no-start")

    assert up(a).returncode == 0
    virsh("net-destroy", "a-network")
    edit()
    ran = up(b)
    assert ran.returncode == 3, ran.stderr
    assert f"network 'a-network' is not as ai-how makes it: its {field} is " in ran.stderr
    assert not Path("/var/lib/libvirt/dnsmasq/ai-how-b-network.servers").exists()
    # What is there outside libvirt is nobody's leftover, since it is not known who needs it.
    ran = ai_how("gc", "--yes")
    assert (ran.returncode, ran.stdout) == (0, "no leftovers removed\n"), ran.stderr
    assert "not looked at: what this host needs outside libvirt: network 'a-network' is not as" in ran.stderr

    for path in (a, b):
        ran = up(path)
        assert ran.returncode == 0, ran.stderr
    # While it runs as we made it, that is what counts.
    edit()
    ran = up(b)
    assert ran.returncode == 0, ran.stderr
    for name in ("a", "b"):
        ran = ai_how("destroy", name, "--yes")
        assert ran.returncode == 0, ran.stderr
