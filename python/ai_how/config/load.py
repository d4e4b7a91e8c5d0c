"""A file or a mapping → a Document: the validated model, where everything stands, and all that is wrong with it.

Reading goes on after a mistake, so that the rules of spec/ can report theirs in the same run: a wrong value is replaced
by the example of its field, and where that would say something false the whole cluster is left to its own problems.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ai_how.config import yamltree
from ai_how.config.fields import as_yaml, bridge_from, label_from, show
from ai_how.config.model import FORM_TAGS, ConfigFile, fields_at
from ai_how.errors import ConfigurationError, Path, Problem, Severity

#: 10,000 nodes as a list are about 1 MiB.
MAX_FILE_BYTES = 16 * 1024 * 1024

#: What a plan file has and no configuration (engine/planfile.py).
PLAN_KEY = "ai_how_plan"

#: Fields whose example can stand in for a wrong value without hiding or inventing another problem.
_STAND_INS: Mapping[str, object] = {
    "base_image_path": "/",
    "cpu_cores": 1,
    "memory_gb": 1,
    "disk_gb": 1,
    "count": 1,
}
_MACHINE: Mapping[str, object] = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}

#: Fields of the design that this version does not have.
_LATER = frozenset({"ipv6"})


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration that was read. `problems` are those of its form; spec/resolve.py adds those of its meaning.

    `model` holds the clusters that can be reasoned about, `folder` is where relative paths start, `text` what was read,
    empty where it came from no file. `broken` are the paths whose values are stand-ins.
    """

    model: ConfigFile
    folder: FilePath
    file: str | None = None
    data: Any = None
    problems: tuple[Problem, ...] = ()
    broken: frozenset[Path] = frozenset()
    text: str = ""

    def locate(self, path: Path, *, at_key: bool = False) -> tuple[int, int] | None:
        """Line and column (from 1) of the value (or its key) at `path`; None where there is no file."""
        return yamltree.locate(self.data, path, at_key=at_key)

    def problem(
        self,
        path: Path,
        message: str,
        hint: str = "",
        severity: Severity = Severity.ERROR,
        *,
        at_key: bool = False,
    ) -> Problem:
        """A problem of the value at `path`, with its place."""
        line, column = self.locate(path, at_key=at_key) or (None, None)
        return Problem(path, message, hint, severity, self.file, line, column)


def load_file(path: FilePath | str) -> Document:
    """Read a YAML file. Problems of single values are in the result.

    Raises ConfigurationError where there is no data to speak of: no such file, not text, not YAML, empty.
    """
    path = FilePath(path)
    return load_text(_read(path), path.absolute().parent, str(path))


def load_text(text: str, folder: FilePath, file: str) -> Document:
    """Take the text of the YAML file `file`; else as load_file. Relative paths start at `folder`."""
    data, duplicates = yamltree.parse(text, file=file)
    if data is None:
        raise _unreadable(
            FilePath(file), "the file is empty", "begin with `clusters:`; the folder examples/ has whole files"
        )
    return replace(_document(data, folder, file, duplicates), text=text)


def load_mapping(data: Mapping[str, Any]) -> Document:
    """Take a configuration that is already data, such as the documented dictionaries. Relative paths start at the
    current folder. Raises ConfigurationError where it is no mapping at all."""
    return _document(_plain(data), FilePath.cwd(), None, [])


# ---- files ------------------------------------------------------------------------------------------------------


def _unreadable(path: FilePath, message: str, hint: str, line: int | None = None) -> ConfigurationError:
    return ConfigurationError([Problem((), message, hint, file=str(path), line=line)])


def _read(path: FilePath) -> str:
    try:
        if path.is_dir():
            raise _unreadable(path, "this is a folder", "name the YAML file in it")
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file", "check the name, or start from a file in examples/") from None
    except PermissionError:
        raise _unreadable(path, "the file may not be read", f"check its owner and mode: ls -l {path}") from None
    except OSError as error:
        raise _unreadable(path, f"the file cannot be read: {error.strerror}", "check the path and its disk") from error
    except ValueError as error:
        raise _unreadable(path, f"this is not a file name: {error}", "check the name") from error
    if len(raw) > MAX_FILE_BYTES:
        raise _unreadable(
            path,
            f"the file is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB",
            "is it the right file? Many nodes alike are written as a group: compute_nodes: {count: N, …}",
        )
    if b"\0" in raw[:65536] or b"\0" in raw:
        raise _unreadable(
            path, "the file is binary, not text", "is it the right file? A configuration is YAML in UTF-8"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, "the file is not UTF-8 text", "save it as UTF-8", line) from error


def _plain(data: Any, depth: int = 0, budget: Iterator[int] | None = None) -> Any:
    """A copy of plain dicts and lists, with a bound on depth and size (a Python mapping may contain itself)."""
    budget = budget if budget is not None else itertools.count()
    if depth > yamltree.MAX_DEPTH or next(budget) > yamltree.MAX_VALUES:
        raise ConfigurationError(
            [Problem((), "the configuration is nested too deep or too large", "does it contain itself?")]
        )
    if isinstance(data, Mapping):
        return {str(key): _plain(value, depth + 1, budget) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return [_plain(value, depth + 1, budget) for value in data]
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return str(data)  # a network, as text; or a set or generator, which no field takes
    return data


# ---- validation -------------------------------------------------------------------------------------------------


def _document(data: Any, folder: FilePath, file: str | None, found: list[Problem]) -> Document:
    if not isinstance(data, dict):
        line, column = yamltree.locate(data, ()) or ((1, 1) if file else (None, None))
        message = f"expected a mapping with the key `clusters`, got {show(data)}"
        problem = Problem((), message, "begin with `clusters:`", file=file, line=line, column=column)
        raise ConfigurationError([*found, problem])
    empty = Document(ConfigFile.model_construct(clusters={}), folder, file, data)
    problems = list(found)
    broken: set[Path] = set()
    if _is_one_cluster(data.get("clusters")):
        message = "the fields of a cluster stand where the clusters should"
        hint = "put them under a key of their own: clusters: {hpc: {name: …, network: …}}"
        raise ConfigurationError([*found, empty.problem(("clusters",), message, hint, at_key=True)])
    if PLAN_KEY in data:
        a_file = file is not None and FilePath(file).is_file()
        hint = f"carry it out: ai-how up {file}" if a_file else "write it to a file, and carry out that: ai-how up FILE"
        raise ConfigurationError([empty.problem((), "this is a plan, not a configuration", hint)])
    wanted: Any = {key: value for key, value in data.items() if not key.startswith("x-")}
    owned = False
    seen: set[Path] = set()
    while True:
        try:
            model = ConfigFile.model_validate(wanted)
        except ValidationError as error:
            if not owned:  # aliases share values: what is mended must be a copy
                wanted, owned = _plain(wanted), True
            for detail in error.errors(include_url=False):
                path = tuple(part for part in detail["loc"] if part not in FORM_TAGS)
                optional = _is_null_of_optional(path, detail)
                if detail["type"] == "too_short" and detail["input"]:
                    continue  # pydantic counts the right items only, and the wrong ones are reported
                if path not in broken and not optional:
                    problems.append(_translate(empty, path, detail))
                if not optional:
                    broken.add(path)
                _mend(wanted, path if path not in seen else path[:2], detail["type"])
                seen.add(path)  # what a first mend did not help costs the cluster: this ends
            if not wanted.get("clusters"):
                model = empty.model
                break
        else:
            break
    return Document(model, folder, file, data, tuple(problems), frozenset(broken))


def _is_one_cluster(clusters: Any) -> bool:
    return isinstance(clusters, dict) and len({"name", "base_image_path", "network"} & clusters.keys()) > 1


def _is_null_of_optional(path: Path, detail: ErrorDetails) -> bool:
    """`compute_nodes:` with nothing behind it says the same as leaving it out."""
    if detail["input"] is not None or detail["type"] in ("missing", "extra_forbidden") or not path:
        return False
    fields = fields_at(path[:-1])
    info = fields.get(str(path[-1])) if fields else None
    return info is not None and not info.is_required()


def _mend(data: Any, path: Path, kind: str) -> None:
    """Make the wrong value harmless: drop it if optional, else put a stand-in, else leave the cluster out."""
    if path[:1] != ("clusters",) or len(path) < 2:
        if kind == "extra_forbidden":
            data.pop(path[-1], None)
        else:
            data["clusters"] = {}
        return
    parent = data
    for part in path[:-1]:
        try:
            parent = parent[part]
        except (LookupError, TypeError):
            return  # an earlier mend took it away
    name = path[-1]
    fields = fields_at(path[:-1])
    info = fields.get(str(name)) if fields else None
    if isinstance(parent, list) and isinstance(name, int) and path[-2] == "compute_nodes":
        parent[name] = dict(_MACHINE)
    elif isinstance(parent, list) and isinstance(name, int):
        # A list of scalars (DNS servers): without all of them rather than with a false one.
        _mend(data, path[:-1], kind)
    elif not isinstance(parent, dict):
        return
    elif kind == "extra_forbidden" or fields is None or (info and not info.is_required()):
        parent.pop(name, None)
    elif name in _STAND_INS:
        parent[name] = _STAND_INS[str(name)]
    elif name == "bridge":
        parent[name] = f"standin{abs(hash(path)) % 10**8}"
    elif path[2:3] == ("network",) and len(path) > 4:
        _mend(data, path[:-1], kind)  # without the route or exposed port that it belongs to
    else:
        data["clusters"].pop(path[1], None)


def _translate(document: Document, path: Path, detail: ErrorDetails) -> Problem:
    """A message of ours for an error of pydantic's."""
    kind, value = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "value":
        return document.problem(path, context["message"], context["hint"])
    if kind == "missing":
        return _missing(document, path)
    if kind == "extra_forbidden":
        return _unknown(document, path)
    if kind == "too_short":
        name = str(path[-1])
        return document.problem(path, f"`{name}` is empty", "write at least one, or leave the field out", at_key=True)
    if kind in ("tuple_type", "list_type"):
        return document.problem(path, f"expected a list, got {show(value)}", _list_hint(path))
    if kind in ("dict_type", "model_type", "model_attributes_type", "mapping_type"):
        names = ", ".join(name for name, info in (fields_at(path) or {}).items() if info.is_required())
        hint = f"write a mapping with {names}" if names else "write `key: value` pairs"
        return document.problem(path, f"expected a mapping, got {show(value)}", hint)
    return document.problem(path, f"{detail['msg']}, got {show(value)}", "see docs/configuration.md")


def _list_hint(path: Path) -> str:
    if path[-1] == "compute_nodes":
        return "write a list of nodes, or a group: {count: 4, cpu_cores: 8, memory_gb: 16, disk_gb: 100}"
    fields = fields_at(path[:-1]) or {}
    info = fields.get(str(path[-1]))
    return f"write for example {as_yaml(info.examples[0])}" if info and info.examples else "write a list"


def _missing(document: Document, path: Path) -> Problem:
    name = str(path[-1])
    info = (fields_at(path[:-1]) or {})[name]
    hint = f"{info.description}"
    if name == "bridge" and path[0] == "clusters":
        cluster = _value_at(document.data, (*path[:2], "name"))
        label = label_from(cluster) if isinstance(cluster, str) else "hpc"
        hint = f"write for example bridge: {bridge_from('br-' + label)}"
    elif name == "clusters":
        hint = "begin with `clusters:`"
    elif info.examples:
        hint = f"write for example {name}: {as_yaml(info.examples[0])}"
    elif name == "network":
        hint = "write network: {subnet: 192.168.100.0/24, bridge: br-hpc-cluster}"
    return document.problem(path, f"`{name}` is missing", hint)


def _unknown(document: Document, path: Path) -> Problem:
    name = str(path[-1])
    allowed = list(fields_at(path[:-1]) or {})
    near = difflib.get_close_matches(name.lower().replace("-", "_"), allowed, n=1, cutoff=0.6)
    if name in _LATER:
        hint = "this version does not have it: leave it out"
    elif near:
        hint = f"did you mean `{near[0]}`?"
    else:
        hint = f"the fields here are {', '.join(allowed)}"
    return document.problem(path, f"there is no field `{name}` here", hint, at_key=True)


def _value_at(data: Any, path: Path) -> Any:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return None
        data = data[part]
    return data
