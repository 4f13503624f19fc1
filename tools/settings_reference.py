# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""docs/settings.md: the service's settings, and the variables of the role that set them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from settings_role import settings_of_role
from wsserver.settings import Settings, requirement, variable

ROLE = Path(__file__).resolve().parents[1] / "roles/ws_server"

INTRODUCTION = """\
# Settings

<!-- Made by tools/settings_files.py from the service's settings: change them there. -->

A worker reads its settings from its environment. On a host of the role `ws_server`, the file `/etc/ws-server/env` has
them, generated from the role's variables ("set by"). A variable that is not set leaves the default in force. The unit
sets values that differ for each worker.

The worker checks all settings at start. A value that is not allowed, or an unknown variable `WS_…`, ends the worker
with status 2 and one sentence for each fault. `ws-server check-settings` does the same without starting a worker. This
command and `ws-server token` read the environment, then `/etc/ws-server/env`; with `--env-file`, only that file. Only
`WS_JWT_SECRET` or `WS_JWT_JWKS` is required.

A secret is never logged or shown, even if it is invalid.

[settings.schema.json](settings.schema.json) is the same as JSON Schema, for programs; its patterns are Python's.
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
Without `WS_OTLP_ENDPOINT` there are no traces. A trace is a publish and its delivery by each worker. Its spans name the room, but neither users nor the published data. The
metric `ws_trace_spans_total` counts spans that were sent, and spans that were lost because the collector failed or was too
slow. For a collector with authentication, set OpenTelemetry's own `OTEL_EXPORTER_OTLP_HEADERS`.
""",
}


def page(properties: dict[str, Any]) -> str:
    """The text of docs/settings.md."""
    grouped = [field for fields in GROUPS.values() for field in fields.split()]
    if sorted(grouped) != sorted(Settings.model_fields):
        raise SystemExit(f"{__file__}: GROUPS and the settings differ in {set(grouped) ^ set(Settings.model_fields)}")
    set_by = _role_variables(properties)
    parts = [INTRODUCTION]
    for title, fields in GROUPS.items():
        parts += [
            f"\n## {title}\n\n",
            "| variable | default | meaning and allowed values | set by |\n|---|---|---|---|\n",
        ]
        names = [variable(field) for field in fields.split()]
        parts += [_row(name, properties[name], set_by.get(name, "")) for name in names]
        parts.append(NOTES.get(title, ""))
    return "".join(parts)


def _row(name: str, setting: dict[str, Any], set_by: str) -> str:
    meaning = re.sub(r"([*|<])", r"\\\1", requirement(setting))
    if setting.get("writeOnly"):
        meaning = f"**secret**; {meaning}"
    return f"| `{name}` | {_shown(setting.get('default'))} | {meaning} | {set_by} |\n"


def _shown(default: Any) -> str:
    text = ",".join(default) if isinstance(default, list) else str(default)
    return "" if default is None or not text else f"`{text}`"


def _role_variables(properties: dict[str, Any]) -> dict[str, str]:
    """Map each environment variable to the role's variables that set it, or to the unit."""
    made: dict[str, list[str]] = {}
    parts = ""  # of the value of the next line
    for line in (ROLE / "templates/env.j2").read_text().splitlines():
        name, equals, value = line.partition("=")
        if line.startswith("{% set "):
            parts += line
        elif equals and re.fullmatch("[A-Z_]+", name):
            made.setdefault(name, []).extend(re.findall(r"(?<![\w.])ws_server_\w+", parts + value))
            parts = ""
    made |= {name: [f"ws_server_{name.removeprefix('WS_').lower()}"] for name in settings_of_role(properties)}
    columns = {name: ", ".join(f"`{variable}`" for variable in dict.fromkeys(found)) for name, found in made.items()}
    for line in (ROLE / "templates/ws-server@.service.j2").read_text().splitlines():
        if line.startswith("Environment="):
            columns |= dict.fromkeys(re.findall(r"([A-Z_]+)=", line.removeprefix("Environment=")), "the unit")
    return columns
