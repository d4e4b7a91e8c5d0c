"""`ai-how rehearse`: a verdict and a plan for a host that has seen nothing yet. The lab of these tests is that host."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.host_view import left
from tests.lab.clusters.conftest import Ran
from tests.lab.clusters.test_programs import ADVANCED_PROGRAM

Look = Callable[[], dict[str, list[str]]]


@pytest.fixture
def documented(folder: Path, blank_image: Path) -> Path:
    """The configuration of the documented advanced program, in a file."""
    program = ADVANCED_PROGRAM.replace("/path/to/base-image.qcow2", str(blank_image))
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - it builds a dictionary
    path = folder / "advanced.yaml"
    path.write_text(yaml.safe_dump(names["config"]))
    return path


def test_documented_advanced_configuration_has_its_verdict_and_its_plan_and_the_host_is_untouched(
    documented: Path, ai_how: Callable[..., Ran], look_at_host: Look
) -> None:
    before = look_at_host()
    ran = ai_how("rehearse", documented)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = ran.stdout.splitlines()
    verdict, plan = (
        said.index(next(each for each in said if " passed, 0 skipped in " in each)),
        "the plan for this host:",
    )
    assert said[verdict].split()[0] == said[verdict].split()[2]
    assert said[verdict + 1] == plan
    assert any("+ domain hpc-cluster-controller" in each for each in said)
    assert left(before) == []


def test_every_mode_beside_every_other_as_json(folder: Path, ai_how: Callable[..., Ran]) -> None:
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    modes: dict[str, dict[str, Any]] = {
        "isolated": {"firewall": {"egress": "deny", "allow_networks": ["1.1.1.0/24"]}, "mtu": 1400},
        "shared_dns": {"firewall": {"expose": ["8001:shared-dns-controller:80"]}},
        "routed": {"routes": [{"to": "192.168.7.0/24", "via": "192.168.1.254"}]},
        "service_discovery": {"dns_servers": ["1.1.1.1"]},
    }
    clusters = {
        mode: {
            "name": mode.replace("_", "-"),
            "base_image_path": "/nowhere/at/all.qcow2",
            "network": {"subnet": f"10.{44 + number}.0.0/24", "bridge": f"br-{number}", "dns_mode": mode, **more},
            "controller": machine,
        }
        for number, (mode, more) in enumerate(modes.items())
    }
    path = folder / "modes.yaml"
    path.write_text(yaml.safe_dump({"clusters": clusters}))
    ran = ai_how("rehearse", path, "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert found["failed"] == 0, [each for each in found["scenarios"] if each["result"] == "failed"]
    assert found["passed"] > 300
    untested = {each["detail"] for each in found["scenarios"] if each["result"] == "skipped"}
    assert untested <= {"nothing resolves names for the host here", "there is no Consul here"}
    assert len(found["not_rehearsed"]) == 2
    # Their image is not there, so there is no plan; that is said, and the verdict stands.
    assert found["plans"] == []
    assert "/nowhere/at/all.qcow2 does not exist" in ran.stderr


def test_configuration_that_is_wrong_is_refused_before_anything_is_opened(
    documented: Path, refused: Callable[..., str]
) -> None:
    documented.write_text(documented.read_text().replace("192.168.100.0/24", "192.168.100.0/99"))
    assert "192.168.100.0/99" in refused(2, "rehearse", documented)


def test_configuration_where_a_lab_has_a_directory_of_its_own_is_refused_by_its_name(
    documented: Path, refused: Callable[..., str]
) -> None:
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        hidden = shutil.copy(documented, folder)
        assert f"{hidden} is not in a lab" in refused(2, "rehearse", hidden)
