"""The repository's own tools: the check of documents, the lock file, the lists of packages and layers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from ai_how.images import packages
from ai_how.lab import needs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "scripts" / "check_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults(check_docs: ModuleType, document: Path, text: str) -> list[tuple[int, str]]:
    document.write_text(text)
    return [(fault.line, fault.message) for fault in check_docs.check(document)]


def test_all_documents_are_read(check_docs: ModuleType) -> None:
    documents = {document.relative_to(ROOT).as_posix() for document in check_docs.documents()}
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md"} <= documents


def test_links_into_the_void_are_found(check_docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, with `code`\n")
    text = (
        "[a](there.md) [b](gone.md)\n"
        "[c](there.md#a-heading-with-code) [d](there.md#nothing) [e](#own)\n"
        "# Own\n"
        "`[f](gone.md)` [g](https://example.org/gone.md)\n"
        "```\n[h](gone.md)\n```\n"
    )
    assert faults(check_docs, tmp_path / "page.md", text) == [
        (1, "the link leads nowhere: gone.md"),
        (2, "no such heading: there.md#nothing"),
    ]


@pytest.mark.parametrize(
    "command",
    [
        "ai-how validate hpc.yaml --strict",
        "sudo ai-how --json validate hpc.yaml | jq .valid",
        "AI_HOW_STATE=x ai-how version -v",
        "ai-how lab run --internet -- ai-how version --anything",
        "virsh --no-such-option",
    ],
)
def test_commands_that_work_are_accepted(check_docs: ModuleType, tmp_path: Path, command: str) -> None:
    assert faults(check_docs, tmp_path / "page.md", f"```bash\n{command}\n```\n") == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("ai-how valdate hpc.yaml", "No such command 'valdate'"),
        ("ai-how validate --stric hpc.yaml", "No such option: --stric"),
        ("true && ai-how lab walk", "No such command 'walk'"),
        ("ai-how validate \\\n  --nope x", "No such option: --nope"),
        ("scripts/nothing", "no such file"),
        ("python python/ai_how/examples/nothing.py vm x", "no such file"),
    ],
)
def test_commands_that_do_not_exist_are_found(check_docs: ModuleType, tmp_path: Path, command: str, fault: str) -> None:
    [(line, message)] = faults(check_docs, tmp_path / "page.md", f"text\n```bash\n{command}\n```\n")
    assert line == 3
    assert fault in message


def test_only_what_is_typed_is_read_from_a_session(check_docs: ModuleType, tmp_path: Path) -> None:
    text = "```console\n$ ai-how version\nai-how nonsense 1\n# ai-how nonsense 2\n```\n"
    assert [line for line, _ in faults(check_docs, tmp_path / "page.md", text)] == [4]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_lock_names_no_index_and_has_a_hash_for_everything(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, flags=re.MULTILINE)
    pinned = re.findall(r"^[a-z0-9.-]+==.*(?:\\\n.*)+", text, flags=re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^\w", text, flags=re.MULTILINE))
    assert all("--hash=sha256:" in entry for entry in pinned)


def test_locks_hold_every_dependency_that_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    runs = [
        *project["project"]["dependencies"],
        *(name for names in project["project"]["optional-dependencies"].values() for name in names),
        *groups["build"],
        *project["build-system"]["requires"],
    ]
    develops = [*runs, *(entry for entry in groups["dev"] if isinstance(entry, str))]
    assert _names(runs) <= _locked("requirements.lock").keys()
    assert _names(develops) <= _locked("requirements-dev.lock").keys()


def test_both_locks_have_the_same_versions() -> None:
    runs, develops = _locked("requirements.lock"), _locked("requirements-dev.lock")
    assert runs.items() <= develops.items()


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in requirements}


def _locked(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / lock).read_text(), flags=re.MULTILINE))


def test_every_package_of_the_house_has_its_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract for contract in contracts if contract["type"] == "layers"]
    declared = {name.strip() for layer in layers["layers"] for name in layer.split(":") if "(" not in name}
    packages = {path.parent.name for path in (ROOT / "python" / "ai_how").glob("*/__init__.py")}
    optional = {name.strip(" ()") for layer in layers["layers"] for name in layer.split(":") if "(" in name}
    assert layers["exhaustive"]
    assert packages <= declared | optional
    assert declared - packages == {"__main__", "errors"}


def listed_packages() -> list[str]:
    listed = subprocess.run(
        ["bash", "-c", ". scripts/environment; package_names"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def test_packages_are_listed_once_and_nothing_else_is() -> None:
    listed = listed_packages()
    assert len(listed) == len(set(listed)) > 10
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in listed)


def test_packages_of_every_tool_that_the_image_and_the_lab_need_are_listed() -> None:
    needed = {*packages.TOOLS.values(), *needs._PACKAGES.values()}
    essential = {"apt", "dpkg", "util-linux"}
    assert needed - essential <= set(listed_packages())


def test_scripts_can_be_started_and_stop_at_their_first_error() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.read_bytes().startswith(b"#!")]
    assert {"check", "test", "lock"} <= {path.name for path in scripts}
    for path in [*scripts, ROOT / ".ci" / "run"]:
        assert os.access(path, os.X_OK), path
        if path.read_text().startswith("#!/usr/bin/env bash"):
            assert "\nset -euo pipefail\n" in path.read_text(), path
