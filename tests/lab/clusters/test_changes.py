"""Clusters that change: nodes come and go, machines stop and start again, and nothing stays when all is destroyed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pycdlib import PyCdlib
from tests.waiting import COMES_WITHIN, until

from ai_how.probe.dhcp import take_lease
from ai_how.probe.endpoint import LINK, attached

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]
InGuest = Callable[..., Ran]

BASIC = Path(__file__).resolve().parents[3] / "examples" / "basic.yaml"

#: Machines as small as the micro guest can be.
SMALL = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}


def numbers(virsh: Virsh) -> dict[str, str]:
    """Machine → its number, which is new with every start."""
    rows = (line.split() for line in virsh("list").splitlines())
    return {row[1]: row[0] for row in rows}


def test_nodes_come_and_go_without_touching_the_others_and_destroy_leaves_nothing(
    ai_how: AiHow,
    virsh: Virsh,
    in_guest: InGuest,
    settled: Callable[[str], None],
    micro_image: Path,
    folder: Path,
    clean_host: None,
) -> None:
    """The documented basic cluster, but for the image and the size of its machines."""
    path = folder / "cluster.yaml"
    document = yaml.safe_load(BASIC.read_text())
    cluster = document["clusters"]["hpc"]
    cluster |= {"base_image_path": str(micro_image), "controller": SMALL}

    def up(nodes: list[dict[str, Any]], *words: str) -> tuple[str, dict[str, str], dict[str, str]]:
        cluster["compute_nodes"] = nodes
        path.write_text(yaml.safe_dump(document))
        ran = ai_how("up", path, *words)
        assert ran.returncode == 0, ran.stderr
        held = {each["node"]: each["ip"] for each in json.loads(ai_how("leases", path, "--json").stdout)}
        return ran.stderr, held, numbers(virsh)

    # By default: the controller first after the gateway, compute nodes from subnet + 10 on.
    _, held, started = up([SMALL])
    assert held == {"hpc-cluster-controller": "192.168.100.2", "hpc-cluster-compute-01": "192.168.100.10"}

    said, held, grown = up([SMALL, SMALL])
    assert held["hpc-cluster-compute-02"] == "192.168.100.11"
    assert {name: grown[name] for name in started} == started
    taken = re.findall(r"^  (\w+ \w+) \S+ \(", said, re.MULTILINE)
    assert sorted(taken) == ["change firewall", "change network", "create domain", "create volume"]

    # A node never goes, with its disk, only because it is no longer in the file.
    cluster["compute_nodes"] = [{"name": "hpc-cluster-compute-02", **SMALL}]
    path.write_text(yaml.safe_dump(document))
    refused = ai_how("up", path)
    assert refused.returncode == 3
    assert "to be removed with their disks: hpc-cluster-compute-01" in refused.stderr
    assert "up --yes" in refused.stderr
    assert numbers(virsh) == grown

    said, held, shrunk = up([{"name": "hpc-cluster-compute-02", **SMALL}], "--yes")
    assert shrunk == {name: grown[name] for name in ("hpc-cluster-controller", "hpc-cluster-compute-02")}
    assert held["hpc-cluster-compute-02"] == "192.168.100.11"
    taken = re.findall(r"^  (\w+ \w+) \S+ \(", said, re.MULTILINE)
    assert sorted(taken) == ["change firewall", "change network", "remove domain", "remove volume"]
    assert virsh("vol-list", "ai-how-hpc-cluster", "--details").count(".qcow2") == 2 * 2  # name and path of two
    definition = virsh("net-dumpxml", "hpc-cluster-network")
    assert "hpc-cluster-compute-01" not in definition
    settled("hpc-cluster-controller")
    assert in_guest("hpc-cluster-controller", "nslookup", "hpc-cluster-compute-01.hpc-cluster.internal").returncode != 0
    assert (
        "192.168.100.11"
        in in_guest("hpc-cluster-controller", "nslookup", "hpc-cluster-compute-02.hpc-cluster.internal").stdout
    )

    # The address is free at once: no lease of the old node keeps it from the next one.
    login = {"name": "hpc-cluster-login", "ip": "192.168.100.10", **SMALL}
    _, held, _ = up([{"name": "hpc-cluster-compute-02", **SMALL}, login])
    assert held["hpc-cluster-login"] == "192.168.100.10"

    # One that runs keeps its address for now, and nobody waits for what cannot come yet.
    cluster["controller"] = {"ip_address": "192.168.100.50", **SMALL}
    said, held, _ = up([{"name": "hpc-cluster-compute-02", **SMALL}, login])
    assert "hpc-cluster-controller keeps 192.168.100.2 until it is restarted" in said
    assert held["hpc-cluster-controller"] == "192.168.100.2"

    assert ai_how("destroy", path, "--yes").returncode == 0
    assert [each.name for each in folder.iterdir()] == ["cluster.yaml"]


def test_guest_shuts_itself_down_and_gets_a_fresh_lease_afterwards(
    ai_how: AiHow, virsh: Virsh, in_guest: InGuest, write: Write, micro_image: Path, clean_host: None
) -> None:
    path = write(nodes=1, base_image_path=str(micro_image), cloud_init=True)

    def lease() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(ai_how("status", path, "--json").stdout)["nodes"][0]["lease"]
        return found

    assert ai_how("up", path).returncode == 0
    first = lease()
    seed = next(Path("/var/lib/libvirt/images/ai-how-tried").glob("*.iso"))
    assert_seed(seed, in_guest("tried-controller", "sha256sum", "/dev/vdb").stdout.split()[0])

    down = ai_how("down", path, "--timeout", COMES_WITHIN)
    assert down.returncode == 0
    assert "powered off" not in down.stderr
    assert virsh("domstate", "tried-controller", "--reason") == "shut off (shutdown)"
    assert ai_how("status", path).returncode == 1
    assert "nothing to do" in ai_how("down", path).stdout

    assert ai_how("up", path).returncode == 0
    second = lease()
    assert second["ip"] == first["ip"]
    assert second["expires"] > first["expires"]
    assert ai_how("destroy", path, "--yes").returncode == 0


def assert_seed(path: Path, digest_in_guest: str) -> None:
    """The seed is what cloud-init's NoCloud looks for, and the guest reads the same bytes."""
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest_in_guest
    blkid = subprocess.run(["blkid", "-p", str(path)], check=True, capture_output=True, text=True).stdout
    assert 'LABEL="cidata"' in blkid
    assert 'TYPE="iso9660"' in blkid
    image = PyCdlib()
    image.open(str(path))
    files = {}
    for name in ("meta-data", "user-data"):
        content = io.BytesIO()
        image.get_file_from_iso_fp(content, rr_path=f"/{name}")
        files[name] = content.getvalue().decode()
    image.close()
    assert yaml.safe_load(files["meta-data"]) == {
        "instance-id": "tried-controller",
        "local-hostname": "tried-controller.tried.internal",
    }
    assert files["user-data"].startswith("#cloud-config\n")


def test_a_node_that_leaves_takes_an_address_of_dhcps_choice_along(
    ai_how: AiHow, virsh: Virsh, configuration: Callable[..., dict[str, Any]], folder: Path
) -> None:
    document = configuration(nodes=3)
    nodes = document["clusters"]["hpc"]["compute_nodes"]
    nodes[1]["ip"] = "DHCP"
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    assert ai_how("up", path, "--no-start").returncode == 0
    macs = re.findall(
        r"52:54:[0-9a-f:]+", virsh("domiflist", "tried-compute-02") + virsh("domiflist", "tried-controller")
    )
    with contextlib.ExitStack() as stack:
        for mac in macs:
            place, _ = stack.enter_context(attached("br-tried", mac, name=mac))
            client = stack.enter_context(place.socket(socket.AF_INET, socket.SOCK_DGRAM))
            take_lease(client, LINK, mac, within=COMES_WITHIN)

    def held() -> set[str]:
        return {each["node"] for each in json.loads(ai_how("leases", path, "--json").stdout)}

    # dnsmasq's helper writes them down a moment later.
    until(lambda: held() == {"tried-controller", "tried-compute-02"}, "the leases of two nodes")
    del nodes[1]
    path.write_text(yaml.safe_dump(document))
    assert ai_how("up", path, "--no-start", "--yes").returncode == 0
    until(lambda: held() == {"tried-controller"}, "the lease of one node")
