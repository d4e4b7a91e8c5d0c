"""Reading files: what YAML means here, and files that are no configuration."""

from __future__ import annotations

import os
import stat
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ai_how.config import load
from ai_how.config.load import load_file, load_mapping
from ai_how.errors import ConfigurationError, Problem
from ai_how.spec.resolve import resolve, resolve_all, validate

HEAD = """\
clusters:
  hpc:
    name: hpc-cluster
    base_image_path: base.qcow2
    network: {subnet: 192.168.100.0/24, bridge: br-hpc}
"""


def refused(path: Path, content: str | bytes | None = None) -> Problem:
    """The last problem of a file that cannot be read as a configuration."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError) as caught:
        load_file(path)
    problem = caught.value.problems[-1]
    assert problem.file == str(path)
    assert problem.hint
    return problem


# ---- files ------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "cluster.yaml").message


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "a folder" in refused(tmp_path).message


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(HEAD)
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything: the answer of the kernel to anybody else
        monkeypatch.setattr(Path, "open", _denied)
    assert "may not be read" in refused(path).message


def _denied(*_: object, **__: object) -> object:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    assert "empty" in refused(tmp_path / "c.yaml", content).message


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    assert "binary" in refused(tmp_path / "c.yaml", b"QFI\xfb\x00\x00\x00\x03" + bytes(4096)).message


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    problem = refused(tmp_path / "c.yaml", b"clusters:\n  hpc:\n    name: h\xe9\n")
    assert "UTF-8" in problem.message
    assert problem.line == 3


def test_utf16_is_refused(tmp_path: Path) -> None:
    assert "UTF-8" in refused(tmp_path / "c.yaml", HEAD.encode("utf-16")).hint


def test_control_characters_are_refused(tmp_path: Path) -> None:
    assert "not YAML" in refused(tmp_path / "c.yaml", b"clusters: \x01\n").message


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.encode())
    assert resolve(load_file(path)).name == "hpc-cluster"


def test_a_file_of_50_mb_is_refused_without_parsing_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with path.open("wb") as stream:
        stream.write(b"clusters:\n")
        stream.truncate(50_000_000)
    began = time.process_time()
    assert "larger than 16 MiB" in refused(path).message
    assert time.process_time() - began < 1


def test_an_endless_file_is_refused() -> None:
    if not stat.S_ISCHR(Path("/dev/zero").stat().st_mode):
        pytest.fail("/dev/zero is not a device here")
    assert "larger than 16 MiB" in refused(Path("/dev/zero")).message


# ---- YAML -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says", "line"),
    [
        ("clusters:\n\thpc: {}\n", "not YAML", 2),
        ("clusters:\n  hpc: [1, 2\n", "not YAML", 3),
        ("clusters:\n  hpc: {}}\n", "not YAML", 2),
        ("clusters:\n  'hpc: {}\n", "not YAML", 3),
        ("clusters: {}\n---\nclusters: {}\n", "second YAML document", 2),
        ("clusters:\n  hpc: *missing\n", "`*missing` has no anchor before it", 2),
        ("clusters: &all\n  hpc: *all\n", "stands inside the value it names", 2),
        ("clusters:\n  hpc: !!python/object/apply:os.system [id]\n", "the tag tag:yaml.org", 2),
        ("clusters:\n  hpc: !secret word\n", "the tag !secret", 2),
        ("clusters:\n  ? [a, b]\n  : 1\n", "a key must be a plain word", 2),
        ("clusters:\n  <<: word\n", "`<<` merges mappings only", 2),
        ("- clusters\n", "expected a mapping", 1),
        ("clusters\n", "expected a mapping", 1),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_line(tmp_path: Path, content: str, says: str, line: int) -> None:
    problem = refused(tmp_path / "c.yaml", content)
    assert says in problem.message
    assert problem.line == line


def test_a_cluster_without_a_key_of_its_own_is_explained(tmp_path: Path) -> None:
    problem = refused(tmp_path / "c.yaml", HEAD.replace("  hpc:\n", "").replace("    ", "  "))
    assert (problem.dotted, problem.line) == ("clusters", 1)
    assert "under a key of their own" in problem.hint


def test_tabs_are_explained(tmp_path: Path) -> None:
    assert "tabs" in refused(tmp_path / "c.yaml", "clusters:\n\thpc: {}\n").hint


@pytest.mark.parametrize("opening", ["[\n  ", "{a:\n  ", "- "], ids=["brackets", "braces", "dashes"])
def test_deep_nesting_is_refused_quickly(tmp_path: Path, opening: str) -> None:
    began = time.process_time()
    assert "nested deeper" in refused(tmp_path / "c.yaml", "clusters: \n  " + opening * 200_000).message
    assert time.process_time() - began < 2


def test_a_bomb_of_aliases_is_refused_quickly(tmp_path: Path) -> None:
    lines = ["x-0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    lines += [f"x-{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    began = time.process_time()
    assert "aliases are expanded" in refused(tmp_path / "c.yaml", "\n".join(lines)).message
    assert time.process_time() - began < 1


def test_a_bomb_of_merges_is_refused_quickly(tmp_path: Path) -> None:
    keys = ", ".join(f"k{i}: 1" for i in range(5000))
    text = f"x-a: &a {{{keys}}}\nx-b:\n" + "".join("  - {<<: *a}\n" for _ in range(2000))
    began = time.process_time()
    assert "aliases are expanded" in refused(tmp_path / "c.yaml", text).message
    assert time.process_time() - began < 5


def test_duplicate_keys_are_errors_with_both_places(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + "    graphics: false\n    name: again\n  hpc: {}\n")
    found = [p for p in validate(load_file(path)) if "twice" in p.message]
    assert [(p.dotted, p.line, p.column) for p in found] == [("clusters.hpc.name", 7, 5), ("clusters.hpc", 8, 3)]
    assert "first at line 3" in found[0].message
    assert "first at line 2" in found[1].message
    with pytest.raises(ConfigurationError, match="twice"):
        resolve_all(load_file(path))


def test_scalars_mean_what_their_field_says(tmp_path: Path) -> None:
    """YAML 1.1 would read a base-60 number, booleans, an octal number and a float here."""
    path = tmp_path / "c.yaml"
    path.write_text("""\
clusters:
  0x1F:
    name: on
    base_image_path: 1.10
    graphics: yes
    network:
      subnet: 192.168.100.0/24
      bridge: no
      mtu: 1500
      vm_macs: {on-controller: 52:54:00:12:34:01}
    controller: {cpu_cores: 010, memory_gb: "8", disk_gb: 5e1}
    compute_nodes:
""")
    document = load_file(path)
    assert document.problems == ()
    cluster = resolve(document)
    assert (cluster.key, cluster.name, cluster.network.bridge, cluster.graphics) == ("0x1F", "on", "no", True)
    assert cluster.base_image == tmp_path / "1.10"
    (node,) = cluster.nodes
    assert (node.mac, node.vcpus, node.memory_mib) == ("52:54:00:12:34:01", 10, 8192)
    assert node.disk_bytes == 50 * 1024**3


def test_anchors_and_merge_keys_work_and_keep_their_places(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("""\
x-node: &node {cpu_cores: 1, memory_gb: 1, disk_gb: 1}
x-big: &big
  memory_gb: lots
  cpu_cores: 64
clusters:
  hpc:
    name: hpc
    base_image_path: base.qcow2
    network: {subnet: 192.168.100.0/24, bridge: br-hpc}
    controller: *node
    compute_nodes:
      - <<: *node
        cpu_cores: 2
      - <<: [*big, *node]
""")
    document = load_file(path)
    (problem,) = document.problems
    assert (problem.dotted, problem.line, problem.column) == ("clusters.hpc.compute_nodes[1].memory_gb", 3, 14)
    nodes = document.model.clusters["hpc"].compute_nodes
    assert isinstance(nodes, tuple)
    assert [node.cpu_cores for node in nodes] == [2, 64]


def test_a_mended_value_does_not_reach_others_through_an_alias(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        HEAD.replace("bridge: br-hpc", "bridge: br-hpc, vm_macs: &m {hpc-cluster-controller: zz}")
        + "    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 1}\n"
        + "  two: {name: two, base_image_path: b, network: {subnet: 10.0.0.0/24, bridge: br-two, vm_macs: *m}}\n"
    )
    found = {p.dotted for p in load_file(path).problems}
    assert found == {
        "clusters.hpc.network.vm_macs.hpc-cluster-controller",
        "clusters.two.network.vm_macs.hpc-cluster-controller",
    }


# ---- paths ------------------------------------------------------------------------------------------------------


def test_a_relative_image_starts_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clusters"
    folder.mkdir()
    (folder / "c.yaml").write_text(HEAD.replace("base.qcow2", "../images/base.qcow2"))
    monkeypatch.chdir(tmp_path)
    assert resolve(load_file("clusters/c.yaml")).base_image == tmp_path / "images" / "base.qcow2"


def test_a_relative_image_of_a_dictionary_starts_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {
        "clusters": {
            "hpc": {
                "name": "hpc",
                "base_image_path": Path("base.qcow2"),
                "network": {
                    "subnet": "192.168.100.0/24",
                    "bridge": "br-hpc",
                    "gateway_ip": IPv4Address("192.168.100.1"),
                },
                "controller": {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1},
            }
        }
    }
    cluster = resolve(load_mapping(data))
    assert cluster.base_image == tmp_path / "base.qcow2"
    assert cluster.nodes[0].memory_mib == 128


def test_the_home_folder_is_expanded_and_variables_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("IMAGES", "/images")
    path = tmp_path / "c.yaml"
    path.write_text(HEAD.replace("base.qcow2", "~/base.qcow2"))
    assert resolve(load_file(path)).base_image == Path("/home/someone/base.qcow2")
    path.write_text(HEAD.replace("base.qcow2", "${IMAGES}/base.qcow2"))
    assert resolve(load_file(path)).base_image == tmp_path / "${IMAGES}" / "base.qcow2"


def test_limits_are_far_above_ten_thousand_listed_nodes(tmp_path: Path) -> None:
    node = "      - cpu_cores: 8\n        memory_gb: 16\n        disk_gb: 100\n        ip_address: 10.0.10.10\n"
    text = HEAD + "    compute_nodes:\n" + node * 10_000
    assert len(text) < load.MAX_FILE_BYTES / 10
    path = tmp_path / "c.yaml"
    path.write_text(text)
    nodes = load_file(path).model.clusters["hpc"].compute_nodes
    assert isinstance(nodes, tuple)
    assert len(nodes) == 10_000


@pytest.mark.parametrize("path", ["/a\nb.qcow2", "/a\x07.qcow2", "/a\udc80.qcow2", Path("/a\x7f.qcow2")])
def test_an_image_path_that_xml_cannot_carry_is_a_problem_and_no_bug(path: str | Path) -> None:
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    network = {"subnet": "192.168.100.0/24", "bridge": "br-hpc"}
    cluster = {"name": "hpc", "base_image_path": path, "network": network, "controller": machine}
    found = load_mapping({"clusters": {"hpc": cluster}}).problems
    assert [problem.dotted for problem in found] == ["clusters.hpc.base_image_path"]
    assert "control characters" in found[0].message
