"""`ai-how schema`: the JSON Schema of the configuration. An editor that reads it completes and checks the YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_how.cli.terminal import print_json
from ai_how.errors import HostError


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it to this file.", show_default=False)
    ] = None,
) -> None:
    """Print the JSON Schema of the configuration, for editors."""
    import json

    from ai_how.config.schema import json_schema

    if output is None:
        print_json(json_schema())
        return
    try:
        output.write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"the schema cannot be written to {output}", why=str(error.strerror), remedy="choose another file"
        ) from error
