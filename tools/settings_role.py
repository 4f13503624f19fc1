# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Generates the parts of the role ws_server that repeat the service's settings: bounds and options.

A setting that the role's templates do not name has a variable of its own: WS_HEARTBEAT_S is
ws_server_heartbeat_s.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from wsserver.settings import requirement

ROLE = Path(__file__).resolve().parents[1] / "roles/ws_server"
# The keys of a setting's schema that the check needs.
CHECKED = ("type", "default", "minimum", "maximum", "enum", "pattern", "items")
TYPES = {"integer": "int", "number": "float", "string": "str", "array": "list"}
# The role allows less than the service: systemd kills a worker TimeoutStopSec after its stop.
NARROWER = {"WS_DRAIN_WINDOW_S": {"maximum": 20}}
# Sentences that the role adds to a setting's description.
NOTES = {
    "WS_API_CLIENTS": [
        "C(site.yml) opens the API at the edges' private addresses to them, and adds what the workers need to serve the edges."
    ],
    "WS_AUTH_COOKIE": ["For pages of O(main:ws_server_allowed_origins)."],
    "WS_DEFAULT_JOIN": ["None when empty."],
    "WS_DEFAULT_PUBLISH": ["None when empty."],
    "WS_DRAIN_WINDOW_S": ["The service allows more, but systemd kills a worker 30 seconds after its stop."],
    "WS_JWT_JWKS": [
        "Tokens may be signed with these keys beside O(main:ws_server_jwt_secret). Set O(main:ws_server_jwt_issuer) and "
        "O(main:ws_server_jwt_audience) as well.",
        "The file is on the worker hosts. The user O(main:ws_server_user) must be able to read it.",
    ],
    "WS_MAX_CONNECTION_AGE_S": ["Less than the C(nginx_worker_shutdown_timeout) of the edge."],
    "WS_OTLP_ENDPOINT": ["Without it there are no traces."],
}

HEAD = """\
---
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# Made by tools/settings_files.py from the service's settings: change them there.

# The settings that have a variable each, ws_server_heartbeat_s for WS_HEARTBEAT_S. Where a variable is not set, the service's
# default holds. What the service allows stands here, since preflight runs before there is a release that could be asked.
"""
BEGIN = "      # Made by tools/settings_files.py from the service's settings: from here on.\n"
END = "      # End of what is made.\n"


def settings_of_role(properties: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that have a variable of their own, with the bounds of the role."""
    named = {
        name
        for file in ("env.j2", "ws-server@.service.j2")
        for line in (ROLE / "templates" / file).read_text().splitlines()
        for name in re.findall(r"\b(WS_[A-Z_]+|PORT)=", line)
    }
    return {name: {**made, **NARROWER.get(name, {})} for name, made in properties.items() if name not in named}


def variables(properties: dict[str, Any]) -> str:
    """The text of vars/main/settings.yml."""
    table = {
        name.removeprefix("WS_").lower(): {key: setting[key] for key in CHECKED if key in setting}
        | {"wanted": requirement(setting, ", ")}
        for name, setting in settings_of_role(properties).items()
    }
    return HEAD + _yaml(
        {"_ws_server_settings": table, "_ws_server_secret_length": properties["WS_JWT_SECRET"]["minLength"]}
    )


def with_options(specs: str, properties: dict[str, Any]) -> str:
    """The text of argument_specs.yml, with the options of these settings between the marks."""
    before, begin, rest = specs.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{ROLE}/meta/argument_specs.yml has lost a mark: {BEGIN}or {END}")
    options = {
        f"ws_server_{name.removeprefix('WS_').lower()}": _option(name, setting)
        for name, setting in settings_of_role(properties).items()
    }
    made = "".join(f"      {line}\n" for line in _yaml(options).splitlines())
    return before + begin + made + end + after


def _option(name: str, setting: dict[str, Any]) -> dict[str, Any]:
    text = requirement(setting, ", ")
    default = setting.get("default")
    return {
        "type": TYPES[setting["type"]],
        **({"elements": "str"} if setting["type"] == "array" else {}),
        **({"choices": setting["enum"]} if "enum" in setting else {}),
        "description": [
            f"{text[0].upper()}{text[1:]}.",
            *NOTES.get(name, []),
            *([f"V({default}) by default."] if default and setting["type"] != "array" else []),
        ],
    }


def _yaml(content: dict[str, Any]) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, width=110, sort_keys=False, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    """Indents lists as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)
