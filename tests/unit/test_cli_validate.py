"""`ai-how validate` and `ai-how schema`: what they print, where, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ai_how.cli import main
from ai_how.config.schema import json_schema

BASIC = """\
clusters:
  hpc:
    name: hpc-cluster
    base_image_path: /images/base.qcow2
    network:
      subnet: 192.168.100.0/24
      bridge: br-hpc-cluster
      gateway_ip: 192.168.100.1
    controller: {cpu_cores: 4, memory_gb: 8, disk_gb: 50, ip_address: 192.168.100.2}
    compute_nodes: {count: 2, cpu_cores: 8, memory_gb: 16, disk_gb: 100}
"""

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("hpc.yaml")


def test_valid_file_shows_its_addresses(file: Path, capsys: Printed) -> None:
    file.write_text(BASIC)
    assert main.run(["validate", "hpc.yaml"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "hpc.yaml: valid"
    assert "  gateway  192.168.100.1" in lines
    assert "  pool     192.168.100.10 – 192.168.100.254" in lines
    nodes = [line.split()[:3] for line in lines[-3:]]
    assert nodes == [
        ["hpc-cluster-controller", "controller", "192.168.100.2"],
        ["hpc-cluster-compute-01", "compute", "192.168.100.10"],
        ["hpc-cluster-compute-02", "compute", "192.168.100.11"],
    ]
    assert err == ""


def test_a_policy_is_shown_where_it_is_not_the_default_one(file: Path, capsys: Printed) -> None:
    network = """gateway_ip: 192.168.100.1
      dns_mode: service_discovery
      host_resolver: none
      service_discovery: {address: localhost:8500, tags: [gpu, prod], required: false}
      firewall:
        allow_host_ports: [22, 123/udp]
        block_networks: [172.16.0.0/12]
        egress: deny
        allow_networks: [203.0.113.0/24, 198.51.100.80]
        expose: [8080:hpc-cluster-controller:80]
        allow_from: [198.51.100.0/25]"""
    file.write_text(BASIC.replace("gateway_ip: 192.168.100.1", network))
    assert main.run(["validate", "hpc.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("  DNS "))
    assert lines[first + 1 : first + 8] == [
        "  firewall egress deny but for 198.51.100.80, 203.0.113.0/24",
        "  firewall never to 172.16.0.0/12",
        "  firewall open to 198.51.100.0/25",
        "  firewall host ports 22/tcp, 123/udp",
        "  exposed  port 8080/tcp of the host → hpc-cluster-controller (192.168.100.2) port 80",
        "  Consul   http://localhost:8500 (may be away), service hpc-cluster, tags gpu, prod",
        "  resolver none",
    ]


def test_routes_and_a_firewall_that_is_off_are_shown(file: Path, capsys: Printed) -> None:
    routes = "dns_mode: routed\n      nat: false\n      routes: [10.9.0.0/16, {to: 10.8.0.0/16, via: 192.168.100.9}]"
    for network, shown in (
        (routes, "  routes   10.8.0.0/16 via 192.168.100.9, 10.9.0.0/16, no NAT"),
        ("firewall: {enabled: false}", "  firewall off: libvirt's own rules alone"),
    ):
        file.write_text(BASIC.replace("gateway_ip:", f"{network}\n      gateway_ip:"))
        assert main.run(["validate", "hpc.yaml"]) == 0
        assert shown in capsys.readouterr().out.splitlines()


def test_problems_stand_before_the_verdict_with_their_places(file: Path, capsys: Printed) -> None:
    file.write_text(BASIC.replace("subnet:", "subnt:").replace("/24", "/33"))
    assert main.run(["validate", "hpc.yaml"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("hpc.yaml:6:7: error: clusters.hpc.network.subnt: ") for line in lines)
    assert "    did you mean `subnet`?" in lines
    assert lines[-1] == "hpc.yaml: not valid, 2 errors"


def test_json_has_exactly_the_documented_fields(file: Path, capsys: Printed) -> None:
    file.write_text(BASIC.replace("br-hpc-cluster", "br-much-too-long-a-name"))
    assert main.run(["validate", "hpc.yaml", "--json"]) == 2
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert set(answer) == {"valid", "problems"}
    assert answer["valid"] is False
    [problem] = answer["problems"]
    assert set(problem) == {"severity", "path", "file", "line", "column", "message", "hint"}
    assert (problem["severity"], problem["path"]) == ("error", "clusters.hpc.network.bridge")
    assert (problem["file"], problem["line"], problem["column"]) == ("hpc.yaml", 7, 15)
    assert err == ""


def test_json_of_a_valid_file(file: Path, capsys: Printed) -> None:
    file.write_text(BASIC)
    assert main.run(["--json", "validate", "hpc.yaml"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "problems": []}


def test_advice_fails_only_a_strict_run(file: Path, capsys: Printed) -> None:
    file.write_text(BASIC.replace("      gateway_ip: 192.168.100.1\n", ""))
    assert main.run(["validate", "hpc.yaml"]) == 0
    relaxed = capsys.readouterr().out
    assert main.run(["validate", "hpc.yaml", "--strict"]) == 2
    strict = capsys.readouterr().out
    assert "warning: clusters.hpc.network: no gateway_ip" in relaxed
    assert "hpc.yaml: valid, 1 warning\n" in relaxed
    assert "error: clusters.hpc.network: no gateway_ip" in strict
    assert strict.endswith("hpc.yaml: not valid, 1 error\n")


def test_file_that_is_not_there_is_a_problem_like_others(file: Path, capsys: Printed) -> None:
    assert main.run(["validate", "hpc.yaml", "--json"]) == 2
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert problem["message"] == "there is no such file"


def test_large_cluster_is_abbreviated_unless_all_is_asked_for(file: Path, capsys: Printed) -> None:
    file.write_text(BASIC.replace("count: 2", "count: 150"))
    assert main.run(["validate", "hpc.yaml"]) == 0
    short = capsys.readouterr().out
    assert "… 140 more (all with -v)" in short
    assert "hpc-cluster-compute-150" in short
    assert "hpc-cluster-compute-100" not in short
    assert main.run(["validate", "hpc.yaml", "-v"]) == 0
    assert "hpc-cluster-compute-100" in capsys.readouterr().out


def test_cluster_option_chooses_what_is_shown(file: Path, capsys: Printed) -> None:
    second = BASIC.partition("\n")[2].replace("hpc", "ml").replace("192.168.100", "192.168.101")
    file.write_text(BASIC + second)
    assert main.run(["validate", "hpc.yaml"]) == 0
    assert "hpc-cluster-controller" in capsys.readouterr().out
    assert main.run(["validate", "hpc.yaml", "--cluster", "ml"]) == 0
    out = capsys.readouterr().out
    assert "ml-cluster-controller" in out
    assert "hpc-cluster-controller" not in out
    assert main.run(["validate", "hpc.yaml", "--cluster", "mk"]) == 2
    assert "did you mean ml" in capsys.readouterr().err


def test_schema_is_the_one_of_the_configuration(capsys: Printed) -> None:
    assert main.run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_schema_is_written_where_asked(tmp_path: Path, capsys: Printed) -> None:
    assert main.run(["schema", "--output", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == json_schema()
    assert capsys.readouterr().out == ""


def test_schema_that_cannot_be_written_is_an_error_of_the_host(tmp_path: Path, capsys: Printed) -> None:
    assert main.run(["schema", "--output", str(tmp_path / "no" / "schema.json")]) == 3
    assert "cannot be written" in capsys.readouterr().err
