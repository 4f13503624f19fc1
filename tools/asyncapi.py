# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Updates docs/asyncapi.yaml: messages and schemas come from the service's types.

asyncapi.py          rewrite the part of the file after the mark
asyncapi.py --check  only check that the file is up to date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "files/wsserver/src"))

from wsserver.protocol import commands, events, types  # noqa: E402

DOCUMENT = ROOT / "docs/asyncapi.yaml"
MARK = "  # Made by tools/asyncapi.py from the service's types: all below this line.\n"


class _Ping(msgspec.Struct, tag="ping"):
    """The service's Ping keeps `t` as raw JSON, whose default msgspec cannot describe."""

    t: Any = None
    id: types.CommandId | None = None


def main() -> None:
    by_hand, mark, made = DOCUMENT.read_text().partition(MARK)
    if not mark:
        sys.exit(f"{DOCUMENT} has lost its mark: {MARK}")
    current = generated()
    if sys.argv[1:] != ["--check"]:
        DOCUMENT.write_text(by_hand + mark + current)
    elif made != current:
        sys.exit("docs/asyncapi.yaml is out of date. Run: .venv/bin/python tools/asyncapi.py")


def generated() -> str:
    kinds = [*get_args(commands.Command), *get_args(events.Event)]
    _, schemas = msgspec.json.schema_components(
        [_Ping if kind is commands.Ping else kind for kind in kinds], ref_template="#/components/schemas/{name}"
    )
    schemas["Ping"] = {**schemas.pop("_Ping"), "title": "Ping"}
    del schemas["Ping"]["description"]
    envelopes = {kind.__name__: _message(kind) for kind in kinds}
    components = {"messages": envelopes, "schemas": {name: _portable(schemas[name]) for name in sorted(schemas)}}
    text = yaml.dump(components, Dumper=_Dumper, sort_keys=False, width=120)
    return re.sub("^(?=.)", "  ", text, flags=re.MULTILINE)


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    name = kind.__name__
    return {"name": kind.__struct_config__.tag, "title": name, "payload": {"$ref": f"#/components/schemas/{name}"}}


def _portable(schema: Any) -> Any:
    """Rewrite Python's regular expressions for JavaScript: literal characters, $ for \\Z."""
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _portable(value) for key, value in schema.items()}
    if isinstance(pattern := schema.get("pattern"), str):
        character = r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})"
        pattern = re.sub(character, lambda match: chr(int(match[match.lastindex or 0], 16)), pattern)
        schema["pattern"] = pattern.replace(r"\Z", "$")
    return schema


class _Dumper(yaml.SafeDumper):
    """Indents lists, and writes no aliases."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


if __name__ == "__main__":
    main()
