"""The other libvirt that tests run beside the system's: its daemon, its library and its firewall backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ai_how.lab import Lab

_NETWORK = "<network><name>n</name><forward mode='{mode}'/><ip address='10.77.0.1' netmask='255.255.255.0'/></network>"


def _tables(lab: Lab, definition: Path) -> str:
    definition.write_text(_NETWORK.format(mode="nat"))
    lab.run(["virsh", "net-create", str(definition)], check=True)
    return lab.run(["nft", "list", "tables"], check=True).stdout


def test_the_new_libvirt_writes_its_rules_by_nftables_and_the_system_s_by_iptables(
    nested_lab: Callable[..., Lab], new_libvirt: Path, tmp_path: Path
) -> None:
    new, system = nested_lab(libvirt_root=new_libvirt), nested_lab()
    version = new.run(["virsh", "version", "--daemon"], check=True).stdout
    assert "Using library: libvirt 11." in version
    assert "Running against daemon: 11." in version
    assert "table ip libvirt_network" in _tables(new, tmp_path / "network.xml")
    assert "libvirt_network" not in _tables(system, tmp_path / "network.xml")
    chains = system.run(["iptables", "-S"], check=True).stdout
    assert "LIBVIRT_FWI" in chains
    assert "LIBVIRT_FWI" not in new.run(["iptables", "-S"], check=True).stdout
