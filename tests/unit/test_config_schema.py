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

from ai_how.config.load import load_file, load_mapping
from ai_how.config.model import tables
from ai_how.config.schema import DIALECT, json_schema, reference
from ai_how.errors import Severity
from ai_how.spec.resolve import resolve_all, validate

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "examples" / "ai-how.schema.json"
PAGE = ROOT / "docs" / "configuration.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
CASES = sorted((ROOT / "tests" / "cases").glob("*/config.yaml"))
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


@pytest.mark.parametrize("path", [*EXAMPLES, *CASES], ids=lambda path: f"{path.parent.name}-{path.stem}")
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


#: Values of fields of the network, each taken or refused by schema and model alike.
TAKEN: dict[str, list[Any]] = {
    "routes": [[], ["10.0.0.0/8", "10.1.1.1"], [{"to": "10.0.0.0/8", "via": "10.1.1.1"}, "10.9.0.0/16"]],
    "firewall": [
        {},
        {"allow_host_ports": [22, "22", "53/udp", "53/UDP"]},
        {"expose": ["80:a", "80:a:81", "80:a/udp", "80:a:81/tcp", {"host_port": 80, "node": "a", "protocol": "udp"}]},
        {"egress": "deny", "allow_networks": ["0.0.0.0/0"], "allow_from": [], "enabled": True},
    ],
    "service_discovery": [
        {},
        *({"address": each} for each in ("http://127.0.0.1:8500", "https://10.0.0.5:8501/", "localhost:8500")),
        {"tls": {}, "check": {}, "tags": ["a-b"], "datacenter": "dc_1"},
    ],
    "host_resolver": ["auto", "systemd-resolved", "networkmanager", "dnsmasq", "none"],
    "nat": [True, False],
}
REFUSED: dict[str, list[Any]] = {
    "routes": ["10.0.0.0/8", ["lan"], [{}], [{"via": "10.1.1.1"}], [{"to": "10.0.0.0/8", "dev": "eth0"}], [["a"]]],
    "firewall": [
        "off",
        {"allow_host_ports": [0]},
        {"allow_host_ports": ["ssh"]},
        {"allow_host_ports": [70000]},
        {"allow_host_ports": ["22/sctp"]},
        {"expose": ["80"]},
        {"expose": ["a:80"]},
        {"expose": ["80:a:b"]},
        {"expose": [{"host_port": 80}]},
        {"expose": [{"host_port": "x", "node": "a"}]},
        {"egress": "drop"},
        {"allow_from": ["::/0"]},
        {"policy": "drop"},
    ],
    "service_discovery": [
        *({"address": each} for each in ("ftp://127.0.0.1:21", "http://u:p@127.0.0.1:8500", "http://127.0.0.1/v1", 5)),
        {"dns_port": 0},
        {"datacenter": "Big One"},
        {"tags": ["A"]},
        {"tls": {"ca": "x"}},
        {"check": {"interval": 0}},
        {"check": {"timeout": "1s"}},
        {"required": "perhaps"},
    ],
    "host_resolver": ["bind", 1, []],
    "nat": ["never", 2],
}


@pytest.mark.parametrize(("name", "fits"), [(name, fits) for name in TAKEN for fits in (True, False)])
def test_schema_and_model_agree_about_policies(name: str, fits: bool) -> None:
    schema = json_schema()
    field = schema["$defs"]["NetworkConfig"]["properties"][name]
    for value in (TAKEN if fits else REFUSED)[name]:
        assert (_violations(value, field, schema, "") == []) is fits, value
        network = {"subnet": "192.168.100.0/24", "bridge": "b", name: value}
        problems = load_mapping(
            {"clusters": {"a": {"name": "a", "base_image_path": "/b", "network": network}}}
        ).problems
        assert (problems == ()) is fits, (value, problems)


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
