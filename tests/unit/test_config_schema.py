"""The committed JSON Schema and reference page are the ones that the table of fields gives.

`AI_HOW_REGENERATE=1 pytest tests/unit/test_config_schema.py` writes both anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_how.config.load import load_file
from ai_how.config.model import tables
from ai_how.config.schema import DIALECT, json_schema, reference
from ai_how.errors import Severity
from ai_how.spec.resolve import resolve_all, validate

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "examples" / "ai-how.schema.json"
PAGE = ROOT / "docs" / "configuration.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
BEGIN, END = "<!-- fields: generated from config/model.py -->\n", "<!-- end of fields -->\n"
REGENERATE = bool(os.environ.get("AI_HOW_REGENERATE"))


def test_the_committed_schema_is_the_generated_one() -> None:
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if REGENERATE:
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text


def test_the_reference_page_is_the_generated_one() -> None:
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    text = f"{before}{BEGIN}\n{reference()}\n{END}{after}"
    if REGENERATE:
        PAGE.write_text(text)
    assert text == page


def test_every_field_has_a_description_and_an_example_or_is_a_mapping() -> None:
    for _, table in tables():
        for name, info in table.model_fields.items():
            assert info.description, name
            assert info.examples or name in ("network", "controller", "compute_nodes"), name


def test_every_example_of_a_field_is_accepted_by_that_field() -> None:
    for _, table in tables():
        values = {name: info.examples[0] for name, info in table.model_fields.items() if info.examples}
        if "network" not in table.model_fields:
            table.model_validate(values)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_names_the_schema_and_resolves(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    reference_ = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert reference_ is not None
    assert (path.parent / reference_[1]).resolve() == SCHEMA
    document = load_file(path)
    assert resolve_all(document)
    advised = {p.dotted for p in validate(document) if p.severity is Severity.WARNING}
    # The basic form leaves out what the best practices ask for; the others follow them. Fixed addresses of controllers
    # stand in static_leases or the controller itself.
    assert advised == ({"clusters.hpc.network", "clusters.hpc.controller"} if path.stem == "basic" else set())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_conforms_to_the_schema(path: Path) -> None:
    schema = json_schema()
    assert schema["$schema"] == DIALECT
    data = yaml.load(path.read_text(), Loader=_Json)  # noqa: S506 (a safe loader)
    assert list(_violations(data, schema, schema, "")) == []


def test_the_schema_refuses_what_the_model_refuses() -> None:
    schema = json_schema()
    data = yaml.load(EXAMPLES[0].read_text(), Loader=_Json)  # noqa: S506 (a safe loader)
    cluster = data["clusters"]["hpc"]
    cluster["network"]["bridge"] = "br-hpc-cluster-too-long"
    cluster["network"]["gatway_ip"] = "192.168.100.1"
    cluster["controller"]["cpu_cores"] = "four"
    cluster["accelerator"] = "xen"
    del cluster["name"]
    assert sorted(_violations(data, schema, schema, "")) == [
        "/clusters/hpc/accelerator: enum",
        "/clusters/hpc/controller/cpu_cores: type",
        "/clusters/hpc/network/bridge: pattern",
        "/clusters/hpc/network/gatway_ip: additionalProperties",
        "/clusters/hpc: required name",
    ]


class _Json(yaml.SafeLoader):
    """YAML as editors read it (1.2): no base-60 numbers."""


_Json.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:int"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Json.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?[0-9]+$"), list("-0123456789"))

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _violations(data: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    """The part of JSON Schema that ours uses; a keyword unknown here fails the test."""
    known = {"$schema", "$defs", "$ref", "title", "description", "examples", "default", "type", "enum", "pattern"}
    known |= {"minimum", "maximum", "exclusiveMinimum", "minLength", "format", "properties", "patternProperties"}
    known |= {"additionalProperties", "required", "items", "minItems", "minProperties", "anyOf", "oneOf"}
    assert set(schema) <= known, set(schema) - known
    found: list[str] = []
    if "$ref" in schema:
        found += _violations(data, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "type" in schema:
        kinds = _TYPES[schema["type"]]
        if not isinstance(data, kinds) or (isinstance(data, bool) and bool not in kinds):
            return [*found, f"{at}: type"]
    if "enum" in schema and data not in schema["enum"]:
        found.append(f"{at}: enum")
    if "pattern" in schema and not re.search(schema["pattern"], data):
        found.append(f"{at}: pattern")
    if ("minimum" in schema and data < schema["minimum"]) or ("maximum" in schema and data > schema["maximum"]):
        found.append(f"{at}: range")
    for keyword, most in (("anyOf", None), ("oneOf", 1)):
        fitting = [option for option in schema.get(keyword, ()) if not _violations(data, option, root, at)]
        if keyword in schema and not 1 <= len(fitting) <= (most or len(fitting)):
            found.append(f"{at}: {keyword}")
    if isinstance(data, list) and "items" in schema:
        for i, item in enumerate(data):
            found += _violations(item, schema["items"], root, f"{at}/{i}")
    if isinstance(data, dict):
        found += [f"{at}: required {name}" for name in schema.get("required", ()) if name not in data]
        for key, value in data.items():
            further = schema.get("additionalProperties")
            if key in schema.get("properties", {}):
                found += _violations(value, schema["properties"][key], root, f"{at}/{key}")
            elif any(re.search(pattern, key) for pattern in schema.get("patternProperties", {})):
                continue
            elif further is False:
                found.append(f"{at}/{key}: additionalProperties")
            elif isinstance(further, dict):
                found += _violations(value, further, root, f"{at}/{key}")
    return found
