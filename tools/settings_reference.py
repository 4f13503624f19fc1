# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Makes docs/settings.md from the service's settings and from the role's templates and tables, which set them.

settings_reference.py          write the file
settings_reference.py --check  only say whether that would change it
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "files/wsserver/src"))

from wsserver.settings import Settings, variable  # noqa: E402

DOCUMENT = ROOT / "docs/settings.md"
ROLE = ROOT / "roles/ws_server"

INTRODUCTION = """\
# Settings

<!-- Made by tools/settings_reference.py from the service's code: change it there. -->

The settings of a worker, from its environment. On a host that the role `ws_server` deploys they are in `/etc/ws-server/env`,
made from the role's variables ("set by"); where one is not set, the default holds. What the unit sets differs for each worker.

All are checked at start: a value that is not allowed, or a variable `WS_…` that is none of these, ends the worker with status 2
and a sentence for each. `ws-server check-settings` does the same without starting. It and `ws-server token` read the environment,
then `/etc/ws-server/env`; with `--env-file` only that file. `WS_JWT_SECRET` or `WS_JWT_JWKS` is needed,
and nothing else.

A secret is never logged, nor shown when it is wrong.
"""

GROUPS = {
    "Where it listens": "port listen_address instance control_socket",
    "Redis": "broker redis_url redis_username redis_password",
    "Postgres": "postgres_dsn durable_rooms archive_retention_days",
    "Who may connect, and what they may do": "jwt_secret jwt_jwks jwt_issuer jwt_audience auth_cookie allowed_origins "
    "default_join default_publish",
    "Rooms": "room_log_length room_ttl_s",
    "Connections": "heartbeat_s handshake_s slow_client_s send_buffer_bytes max_connection_age_s drain_window_s",
    "Limits": "max_message_bytes messages_per_s bytes_per_s user_messages_per_s max_connections max_connections_per_user "
    "max_connections_per_ip max_rooms_per_connection",
    "The server API": "api_listen_address api_port api_key api_clients",
    "What an operator sees": "log_level otlp_endpoint trace_ratio",
}

NOTES = {
    "What an operator sees": """
A trace is a publish and its delivery by each worker whose clients got it. Its spans name the room, and neither users nor what was
published. The metric `ws_trace_spans_total` counts spans sent, and those lost because the collector failed or was too slow; a
collector that wants to know who sends gets the headers in OpenTelemetry's own `OTEL_EXPORTER_OTLP_HEADERS`.
""",
}


def main() -> None:
    document = reference()
    if sys.argv[1:] != ["--check"]:
        DOCUMENT.write_text(document)
    elif DOCUMENT.read_text() != document:
        sys.exit("docs/settings.md is not what the code says. Run: .venv/bin/python tools/settings_reference.py")


def reference() -> str:
    grouped = [field for fields in GROUPS.values() for field in fields.split()]
    if sorted(grouped) != sorted(Settings.model_fields):
        sys.exit(f"{__file__}: in no group, or in none of the settings: {set(grouped) ^ set(Settings.model_fields)}")
    set_by = role_variables()
    parts = [INTRODUCTION]
    for title, fields in GROUPS.items():
        parts += [
            f"\n## {title}\n\n",
            "| variable | default | what it is, and what it may be | set by |\n|---|---|---|---|\n",
        ]
        parts += [row(field, set_by.get(variable(field), "")) for field in fields.split()]
        parts.append(NOTES.get(title, ""))
    return "".join(parts)


def row(field: str, set_by: str) -> str:
    info = Settings.model_fields[field]
    meaning = re.sub(r"([*|<])", r"\\\1", info.description or "")
    if "Secret" in str(info.annotation):
        meaning = f"**secret**; {meaning}"
    return f"| `{variable(field)}` | {shown(info.default)} | {meaning} | {set_by} |\n"


def shown(default: Any) -> str:
    text = ",".join(map(str, default)) if isinstance(default, tuple | frozenset) else str(default)
    return "" if default is None or not text else f"`{text}`"


def role_variables() -> dict[str, str]:
    """Environment variable -> the variables of the role that make it up, or the unit."""
    made: dict[str, list[str]] = {}
    for line in (ROLE / "templates/env.j2").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and re.fullmatch("[A-Z_]+", name):
            made.setdefault(name, []).extend(re.findall(r"(?<![\w.])ws_server_\w+", value))
    of_the_role = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    for kind in ("_ws_server_numbers", "_ws_server_texts", "_ws_server_lists"):
        made |= {variable(field): [f"ws_server_{field}"] for field in of_the_role[kind]}
    columns = {name: ", ".join(f"`{variable}`" for variable in dict.fromkeys(found)) for name, found in made.items()}
    for line in (ROLE / "templates/ws-server@.service.j2").read_text().splitlines():
        if line.startswith("Environment="):
            columns |= dict.fromkeys(re.findall(r"([A-Z_]+)=", line.removeprefix("Environment=")), "the unit")
    return columns


if __name__ == "__main__":
    main()
