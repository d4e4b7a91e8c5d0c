"""The table of fields as JSON Schema (for editors) and as the reference page (for readers)."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ai_how.config.fields import as_yaml
from ai_how.config.model import ConfigFile, DefaultText, tables
from ai_how.config.policy_fields import CIDR_PATTERN

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_JSON = dict[str, Any]


def json_schema() -> _JSON:
    """The JSON Schema of a configuration file, draft 2020-12."""
    generated = ConfigFile.model_json_schema()
    definitions: _JSON = generated.pop("$defs")
    for table in (generated, *definitions.values()):
        table.pop("title", None)
        table["properties"] = {name: _property(value) for name, value in table["properties"].items()}
    for _, table in tables():
        for name, info in table.model_fields.items():
            _say_default(definitions[table.__name__]["properties"][name], info)
    properties = generated.pop("properties")
    return {
        "$schema": DIALECT,
        "title": "ai-how configuration",
        **generated,
        "properties": properties,
        "patternProperties": {"^x-": {"description": "Free, for YAML anchors."}},
        "$defs": definitions,
    }


def _property(value: _JSON) -> _JSON:
    """Without what only pydantic needs: titles, and null as the way to leave a field out."""
    options = [option for option in value.get("anyOf", ()) if option != {"type": "null"}]
    flat = {key: part for key, part in value.items() if key not in ("title", "anyOf")}
    if len(options) == 1:
        flat = {**options[0], **flat}
    elif options:
        flat["anyOf"] = options
    if "default" in flat and flat["default"] in (None, [], {}):
        del flat["default"]
    return flat


def _say_default(target: _JSON, info: FieldInfo) -> None:
    text = next((extra.text for extra in info.metadata if isinstance(extra, DefaultText)), None)
    if text is not None:
        target["description"] = f"{target['description']} Default: {text}."


def reference() -> str:
    """The tables of docs/configuration.md, in Markdown."""
    definitions = json_schema()["$defs"]
    parts: list[str] = []
    for path, table in tables():
        summary = (table.__doc__ or "").strip()
        lines = [f"### `{path}`", "", summary, "", "| field | type | default | meaning |", "|---|---|---|---|"]
        for name, info in table.model_fields.items():
            kind = _type(definitions[table.__name__]["properties"][name])
            example = f" Example: `{as_yaml(info.examples[0])}`." if info.examples else ""
            lines.append(f"| `{name}` | {kind} | {_default(info)} | {info.description}{example} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    text = next((extra.text for extra in info.metadata if isinstance(extra, DefaultText)), None)
    if text is not None:
        return text
    value = None if info.default is PydanticUndefined else info.default
    return "none" if value is None else f"`{as_yaml(value)}`"


def _type(schema: _JSON) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(f"`{word}`" for word in schema["enum"])
    if "$ref" in schema:
        return "mapping"
    if "format" in schema:
        return {"ipv4": "IPv4 address", "hostname": "domain"}[schema["format"]]
    options = [option for key in ("anyOf", "oneOf") for option in schema.get(key, ()) if option]
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "$ref" not in schema["items"] else "list"
    if options and schema.get("type") == "string":
        return "IP addresses"
    if options:
        return " or ".join(_type(option) for option in options)
    if schema.get("type") == "object":
        return "mapping"
    if schema.get("pattern", "").startswith("^[Dd]"):
        return "`DHCP`"
    if schema.get("pattern") == CIDR_PATTERN:
        return "network"
    return {"integer": "whole number", "number": "number", "boolean": "true or false"}.get(schema["type"], "text")
