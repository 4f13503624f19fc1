# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The tables of rules in the roles' preflights, applied to the roles' defaults and one change."""

from __future__ import annotations

import hashlib
from typing import Any

import jinja2
import pytest
import yaml
from program import ROOT

from ansible_collections.selfhost.websocket.plugins.module_utils._checks import Settings, find_faults
from ansible_collections.selfhost.websocket.plugins.module_utils._rules import CHECKS

ROLES = sorted(path.parent.parent.name for path in (ROOT / "roles").glob("*/tasks/preflight.yml"))
FILES = {"/keys.asc": b"key", "/loki.deb": b"package"}
# Values instead of computed defaults, and of variables that playbooks or an inventory must set.
GIVEN = {
    "nginx": {"nginx_domain": "ws.example.org"},
    "postgres": {"postgres_private_address": "10.0.0.5"},
    "redis": {"redis_private_address": "10.0.0.5"},
    "vendor_packages": {"vendor_packages_name": "loki"},
    "ws_server": {"ws_server_allowed_origins": ["https://ws.example.org", "capacitor://localhost"]},
}


def rules(role: str) -> list[dict[str, Any]]:
    tasks = yaml.safe_load((ROOT / "roles" / role / "tasks/preflight.yml").read_text())
    checks = [task for task in tasks if "selfhost.websocket.check_variables" in task and "when" not in task]
    return [rule for task in checks for rule in task["selfhost.websocket.check_variables"]["rules"]]


def variables(role: str) -> dict[str, Any]:
    files = [
        path
        for where in ("defaults/main.yml", "vars/main.yml", "vars/main/*.yml")
        for path in (ROOT / "roles" / role).glob(where)
    ]
    values = {name: value for path in files for name, value in yaml.safe_load(path.read_text()).items()}
    return {name: value for name, value in values.items() if "{{" not in str(value)} | GIVEN.get(role, {})


def sha256(path: str) -> str | None:
    return hashlib.sha256(FILES[path]).hexdigest() if path in FILES else None


def told(role: str, **changed: Any) -> list[str]:
    given = variables(role) | changed
    settings = Settings(given.__getitem__, "one", ["10.0.0.5"], ["2001:db8::1"], sha256=sha256)
    written = [
        {
            key: jinja2.Template(text).render(inventory_hostname="one") if "{{" in str(text) else text
            for key, text in rule.items()
        }
        for rule in rules(role)
    ]
    return find_faults(written, settings, CHECKS)


def assert_told(faults: list[str], *words: str) -> None:
    """There is one sentence, with all the words."""
    assert len(faults) == 1, faults
    assert not [word for word in words if word not in faults[0]], faults


@pytest.mark.parametrize("role", ROLES)
def test_the_defaults_pass(role):
    assert rules(role)
    assert told(role) == []


BAD = [
    ({"ws_server_instances": 0}, ["ws_server_instances is 0", "1 to 20"]),
    ({"ws_server_instances": "21"}, ["ws_server_instances is 21", "1 to 20"]),
    ({"nginx_domain": ""}, ["nginx_domain is not set", "nginx_domain: ws.example.org"]),
    ({"nginx_domain": "https://ws.example.org/"}, ["nginx_domain", "'https://ws.example.org/'", "without scheme"]),
    ({"nginx_tls_extra_names": ["größe.example.org", "a b"]}, ["contains 'größe.example.org', 'a b'", "xn--"]),
    ({"nginx_max_clients": 0}, ["nginx_max_clients is 0", "1 to 500000"]),
    (
        {"nginx_allowed_origins": ["https://a/b; }"]},
        ["nginx_allowed_origins", "'https://a/b; }'", "https://chat.example"],
    ),
    ({"nginx_worker_shutdown_timeout": "soon"}, ["nginx_worker_shutdown_timeout is 'soon'", "4h"]),
    ({"nginx_tls_days": 1}, ["nginx_tls_days is 1", "6 to 365"]),
    ({"nginx_tls_days": 366}, ["nginx_tls_days is 366", "6 to 365"]),
    (
        {"nginx_api_clients": ["10.0.0.20", "backend.example.org"]},
        ["nginx_api_clients (in a fleet: ws_server_api_clients) contains 'backend.example.org'", "10.1.0.0/24"],
    ),
    (
        {"nginx_api_listen_address": "203.0.113.9"},
        [
            "nginx_api_listen_address is '203.0.113.9', which is not an address of one: set it to one of 10.0.0.5, 2001:db8::1"
        ],
    ),
    ({"nginx_metrics_listen_address": "127.0.0.1"}, ["nginx_metrics_listen_address is '127.0.0.1', which is not an"]),
    (
        {"ws_server_listen_address": "0.0.0.0"},
        ["ws_server_listen_address is '0.0.0.0'", "one IP address of this host that the edge can reach"],
    ),
    ({"ws_server_listen_address": "::"}, ["ws_server_listen_address is '::'"]),
    ({"ws_server_listen_address": "localhost"}, ["ws_server_listen_address is 'localhost'"]),
    ({"ws_server_allowed_origins": []}, ["ws_server_allowed_origins is []", "'*' alone"]),
    (
        {"ws_server_allowed_origins": ["https://a/b"]},
        ["ws_server_allowed_origins is ['https://a/b']", "without a path"],
    ),
    (
        {"ws_server_allowed_origins": ["https://*.example.org"]},
        ["ws_server_allowed_origins is ['https://*.example.org']", "without a path or wildcard"],
    ),
    (
        {"ws_server_allowed_origins": ["https://bücher.example"]},
        ["ws_server_allowed_origins is ['https://bücher.example']", "xn-- form"],
    ),
    ({"ws_server_allowed_origins": ["*", "https://a"]}, ["ws_server_allowed_origins is ['*', 'https://a']"]),
    ({"ws_server_keep": 0}, ["ws_server_keep is 0", "1 or more"]),
    ({"ws_server_ready_timeout": 0}, ["ws_server_ready_timeout is 0", "a number of seconds from 1 to 3600"]),
    ({"ws_server_drain_timeout_s": 3601}, ["ws_server_drain_timeout_s is 3601", "a number of seconds from 1 to 3600"]),
    (
        {"ws_server_drain_timeout_s": 15, "ws_server_drain_window_s": 20},
        [
            "ws_server_drain_timeout_s is 15, but a worker sends its clients away over 20 s",
            "ws_server_drain_window_s to less",
        ],
    ),
    (
        {"ws_server_drain_timeout_s": 5},
        ["ws_server_drain_timeout_s is 5, but a worker sends its clients away over 5 s"],
    ),
    ({"ws_server_canary_s": -1}, ["ws_server_canary_s is -1", "seconds from 0 to 3600"]),
    ({"ws_server_metrics_hold_s": -1}, ["ws_server_metrics_hold_s is -1", "seconds from 0 to 3600"]),
    (
        {"ws_server_metrics_gates": ["up == 1", " "]},
        ["ws_server_metrics_gates has an empty expression", "like sum(rate(ws_message_drops_total[1m])) < 1"],
    ),
    (
        {"ws_server_metrics_gates": ["up == 1"], "ws_server_prometheus_url": "127.0.0.1:9090"},
        ["ws_server_prometheus_url is '127.0.0.1:9090'", "where one reaches Prometheus", "like http://127.0.0.1:9090"],
    ),
    ({"ws_server_memory_high": "big"}, ["ws_server_memory_high is 'big'", "like 480M"]),
    ({"ws_server_memory_max": "-1"}, ["ws_server_memory_max is '-1'", "like 480M"]),
    (
        {"ws_server_api_listen_address": "10.0.0.5"},
        ["ws_server_api_listen_address is '10.0.0.5'", "addresses of its clients in ws_server_api_clients"],
    ),
    (
        {"ws_server_api_listen_address": "0.0.0.0", "ws_server_api_clients": ["10.0.0.20"]},
        ["ws_server_api_listen_address is '0.0.0.0'", "ws_server_api_clients"],
    ),
    ({"ws_server_user": "root"}, ["ws_server_user is 'root'", "other than root, such as app"]),
    ({"ws_server_user": "Chat"}, ["ws_server_user is 'Chat'", "lower case letters, digits, _ and -"]),
    ({"ws_server_user": "a" * 32}, ["ws_server_user is 'aaa"]),
    ({"redis_maxmemory": "512"}, ["redis_maxmemory is '512'", "as in '512mb'"]),
    ({"redis_maxclients": 65536}, ["redis_maxclients is 65536 and redis_limit_nofile 65536", "lower redis_maxclients"]),
    ({"redis_maxclients": 0}, ["redis_maxclients is 0"]),
    ({"redis_port": 0}, ["redis_port is 0", "between 1 and 65535"]),
    ({"redis_password": "a secret"}, ["redis_password has a character", "leave it empty"]),
    (
        {"redis_clients_local": False, "redis_private_address": "10.0.0.6"},
        [
            "redis_private_address is '10.0.0.6', which is not an address of one: set it to one of 10.0.0.5, 2001:db8::1."
        ],
    ),
    ({"postgres_password": "a secret"}, ["postgres_password contains white space", "leave it empty"]),
    ({"postgres_shared_buffers": "256mb"}, ["postgres_shared_buffers is '256mb'", "as in '256MB'"]),
    ({"postgres_max_connections": 19}, ["postgres_max_connections is 19", "from 20 to 10000"]),
    (
        {
            "postgres_clients_local": "false",
            "postgres_private_address": "10.0.0.6",
            "postgres_client_addresses": ["10.0.0.2"],
        },
        [
            "postgres_private_address is '10.0.0.6', which is not an address of one: set it to one of 10.0.0.5, 2001:db8::1."
        ],
    ),
    ({"postgres_clients_local": False}, ["postgres_client_addresses is []", "as in ['10.0.0.2', '10.0.0.3']"]),
    (
        {"postgres_clients_local": False, "postgres_client_addresses": ["10.0.0.0/8"]},
        ["postgres_client_addresses is ['10.0.0.0/8']"],
    ),
    (
        {"postgres_clients_local": False, "postgres_client_addresses": ["fd00::2", "fd00::/64"]},
        ["postgres_client_addresses is ['fd00::2', 'fd00::/64']"],
    ),
    ({"sysctl_ip_local_port_range": "65535 1024"}, ["sysctl_ip_local_port_range is '65535 1024'", "the lower first"]),
    ({"sysctl_ip_local_port_range": "1024-65535"}, ["sysctl_ip_local_port_range is '1024-65535'"]),
    ({"sysctl_ip_local_port_range": "1024 65536"}, ["sysctl_ip_local_port_range is '1024 65536'"]),
    ({"sysctl_reserved_ports": []}, ["sysctl_reserved_ports is []", "'8080-8083'"]),
    ({"sysctl_reserved_ports": ["8080", "x"]}, ["sysctl_reserved_ports is ['8080', 'x']"]),
    ({"sysctl_reserved_ports": ["8080-65536"]}, ["sysctl_reserved_ports is ['8080-65536']"]),
    ({"exporters_listen_address": "203.0.113.9"}, ["exporters_listen_address is '203.0.113.9'", "127.0.0.1 or one of"]),
    ({"exporters_clients": ["prom"]}, ["exporters_clients has 'prom'", "10.1.0.0/24"]),
    ({"prometheus_scrape_interval_s": 90}, ["prometheus_scrape_interval_s is 90", "5 to 60"]),
    ({"prometheus_retention_days": 2}, ["prometheus_retention_days is 2", "from 3 to 3650"]),
    ({"prometheus_retention_size": "2G"}, ["prometheus_retention_size is '2G'", "like 2GB"]),
    ({"prometheus_memory_max": "big"}, ["prometheus_memory_max is 'big'", "to infinity"]),
    ({"prometheus_certificate_days": 0}, ["prometheus_certificate_days is 0", "from 1 to 365"]),
    ({"prometheus_runbooks_url": "https://wiki/"}, ["prometheus_runbooks_url is 'https://wiki/'", "without a slash"]),
    ({"prometheus_listen_address": "203.0.113.9"}, ["prometheus_listen_address is '203.0.113.9'", "127.0.0.1"]),
    ({"prometheus_webhooks": ["ops"]}, ["prometheus_webhooks contains an entry", "like http://127.0.0.1:8000/alerts"]),
    (
        {"prometheus_mail_to": ["ops@example.org"], "prometheus_mail_from": "ws@example.org"},
        ["prometheus_mail_smarthost ''", "like mail.example.org:587"],
    ),
    ({"prometheus_mail_to": ["ops@example.org"]}, ["prometheus_mail_smarthost ''", "like mail.example.org:587"]),
    ({"prometheus_mail_from": "ops"}, ["prometheus_mail_from 'ops'", "like ops@example.org"]),
    ({"loki_listen_address": "203.0.113.9"}, ["loki_listen_address is '203.0.113.9'"]),
    ({"loki_clients": ["host"]}, ["loki_clients has 'host'", "like 10.0.0.5"]),
    ({"loki_retention_days": 0}, ["loki_retention_days is 0", "1 to 3650"]),
    ({"loki_memory_max": "0"}, ["loki_memory_max is '0'", "like 384M"]),
    ({"tempo_listen_address": "203.0.113.9"}, ["tempo_listen_address is '203.0.113.9'"]),
    ({"tempo_clients": ["host"]}, ["tempo_clients has 'host'"]),
    ({"tempo_retention_days": 3651}, ["tempo_retention_days is 3651", "1 to 3650"]),
    ({"tempo_memory_max": "big"}, ["tempo_memory_max is 'big'", "like 384M"]),
    ({"grafana_admin_password": "short"}, ["grafana_admin_password is too short"]),
    ({"grafana_prometheus_url": "here"}, ["grafana_prometheus_url is 'here'", "like http://127.0.0.1:3000"]),
    ({"grafana_prometheus_url": ""}, ["grafana_prometheus_url is ''"]),
    ({"grafana_loki_url": "here"}, ["grafana_loki_url is 'here'", "or leave it empty"]),
    ({"grafana_scrape_interval_s": 0}, ["grafana_scrape_interval_s is 0", "from 1 to 60"]),
    ({"grafana_memory_max": "big"}, ["grafana_memory_max is 'big'", "like 384M"]),
    ({"alloy_memory_max": "0"}, ["alloy_memory_max is '0'", "like 256M"]),
    ({"alloy_tempo_url": "http://10.0.0.5:3200/"}, ["alloy_tempo_url is 'http://10.0.0.5:3200/'", "without a path"]),
    ({"alloy_loki_url": "", "alloy_tempo_url": ""}, ["nothing to do on one", "leave the role out"]),
    ({"vendor_packages_key_fingerprints": ["b53a"]}, ["vendor_packages_key_fingerprints is ['b53a']", "40 digits"]),
    ({"vendor_packages_key_fingerprints": []}, ["vendor_packages_key_fingerprints is []", "40 digits"]),
    ({"vendor_packages_key": "/no/such/key"}, ["vendor_packages_key is '/no/such/key'", "a URL"]),
    ({"vendor_packages_repository": "mirror"}, ["vendor_packages_repository is 'mirror'", "https://apt.grafana.com"]),
    ({"vendor_packages_versions": {"tempo": "3.0.3"}}, ["vendor_packages_versions has no version of loki"]),
    (
        {"vendor_packages_debs": {"loki": {"file": "/no/such.deb", "sha256": "0" * 64}}},
        ["vendor_packages_debs.loki", "'/no/such.deb'", "no such file"],
    ),
    (
        {"vendor_packages_debs": {"loki": {"file": "/loki.deb", "sha256": "0" * 64}}},
        ["vendor_packages_debs.loki", "with the sha256 '000", f"has one with {sha256('/loki.deb')}"],
    ),
    ({"vendor_packages_debs": {"loki": {}}}, ["vendor_packages_debs.loki names the file ''", "no such file"]),
]


def role_of(changed: dict[str, Any]) -> str:
    return max((role for role in ROLES if next(iter(changed)).startswith(f"{role}_")), key=len)


@pytest.mark.parametrize(
    ("changed", "words"), BAD, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_a_bad_value(changed, words):
    assert_told(told(role_of(changed), **changed), *words)


GOOD = [
    {"nginx_domain": "192.0.2.7", "nginx_tls_extra_names": ["2001:db8::1", "*.example.org"][:1]},
    {"nginx_api_clients": ["10.0.0.20", "10.1.0.0/24", "2001:db8::/64"], "nginx_api_listen_address": "10.0.0.5"},
    {"nginx_allowed_origins": ["*", "https://[2001:db8::1]:8443", "capacitor://localhost"]},
    {"nginx_max_clients": "500000", "nginx_tls_days": "6"},
    {"redis_port": "65535", "redis_maxclients": "65504", "redis_password": "a!#(]~"},
    {"postgres_clients_local": "false", "postgres_client_addresses": ["10.0.0.2", "10.0.0.3/32"]},
    {
        "postgres_clients_local": False,
        "postgres_private_address": "2001:db8::1",
        "postgres_client_addresses": ["fd00::2", "fd00::3/128"],
    },
    {"redis_clients_local": False, "redis_private_address": "2001:db8::1"},
    {"sysctl_reserved_ports": [8080, "8081-8083"]},
    {"exporters_listen_address": "2001:db8::1", "exporters_clients": ["10.0.0.20", "10.1.0.0/24"]},
    {
        "prometheus_mail_to": ["ops@example.org"],
        "prometheus_mail_from": "ws@example.org",
        "prometheus_mail_smarthost": "mail.example.org:587",
        "prometheus_memory_max": "infinity",
    },
    {"grafana_public_url": "", "grafana_loki_url": "", "grafana_admin_password": "eight***"},
    {"alloy_loki_url": ""},
    {"vendor_packages_key": "/keys.asc"},
    {
        "vendor_packages_debs": {"loki": {"file": "/loki.deb", "sha256": sha256("/loki.deb")}},
        "vendor_packages_key": "/no",
    },
    {"ws_server_instances": "20", "ws_server_allowed_origins": ["*"], "ws_server_listen_address": "2001:db8::1"},
    {"ws_server_api_listen_address": "10.0.0.5", "ws_server_api_clients": ["10.0.0.20"]},
    {"ws_server_drain_timeout_s": "5.5", "ws_server_canary_s": 0, "ws_server_keep": "1"},
    {"ws_server_prometheus_url": "unused"},
    {"ws_server_user": "rooty"},
    {"ws_server_user": "_" + "a" * 30},
    {
        "ws_server_messages_per_s": 100000,
        "ws_server_archive_retention_days": 0,
        "ws_server_trace_ratio": 0.5,
        "ws_server_jwt_jwks": "/keys.json",
        "ws_server_jwt_issuer": "https://id.example.org",
        "ws_server_auth_cookie": "session",
        "ws_server_otlp_endpoint": "http://[::1]:4318/v1/traces",
        "ws_server_default_join": ["lobby", "user:{sub}:*", "größe"],
        "ws_server_default_publish": [],
        "ws_server_api_key": "k" * 32,
        "ws_server_metrics_gates": ["sum(rate(ws_message_drops_total[1m])) < 1"],
        "ws_server_metrics_hold_s": 0,
        "ws_server_prometheus_url": "https://[2001:db8::1]:9090/prometheus",
    },
]


@pytest.mark.parametrize("changed", GOOD, ids=lambda changed: next(iter(changed)))
def test_good_values(changed):
    assert told(role_of(changed), **changed) == []


def test_bad_settings_of_the_service_are_reported_at_once():
    faults = told(
        "ws_server",
        ws_server_messages_per_s=0,
        ws_server_trace_ratio=1.5,
        ws_server_drain_window_s=-1,
        ws_server_jwt_jwks="jwks.json",
        ws_server_jwt_audience='a "chat"',
        ws_server_auth_cookie="a cookie",
        ws_server_otlp_endpoint="127.0.0.1:4318",
        ws_server_default_join=["lobby", "a,b"],
        ws_server_durable_rooms=["", "r"],
        ws_server_api_clients=["10.0.0.20", "10.0.0.1/24"],
        ws_server_room_log_length=10.5,
        ws_server_log_level="loud",
        ws_server_api_key="secret",
        ws_server_jwt_secret="s" * 31 + "'",
    )
    begins = [
        "ws_server_messages_per_s is 0: set it to a number from 1 to 100000, or leave it out",
        "ws_server_trace_ratio is 1.5: set it to a number from 0 to 1",
        "ws_server_drain_window_s is -1: set it to a number from 0 to 600",
        "ws_server_jwt_jwks is 'jwks.json': set it to the path of a JWKS file on the host, or its https URL",
        "ws_server_jwt_audience is 'a \"chat\"': set it to the aud",
        "ws_server_auth_cookie is 'a cookie': set it to the name of the cookie that may hold a token, of letters, digits, _ and -",
        "ws_server_otlp_endpoint is '127.0.0.1:4318': set it to the URL of the OTLP collector (over HTTP)",
        "ws_server_default_join has 'a,b': list rooms, or patterns of rooms, that a token without a join claim may join, like lobby",
        "ws_server_durable_rooms has '': list rooms, or patterns of rooms",
        "ws_server_api_clients has '10.0.0.1/24': list IP addresses and networks",
        "ws_server_room_log_length is 10.5: set it to a whole number from 10 to 1000000",
        "ws_server_log_level is 'loud': set it to the least severe level that is logged: debug, info, warning or error, or",
        "ws_server_api_key has 6 characters: use at least 32",
        "ws_server_jwt_secret has a character that a settings file cannot hold",
    ]
    assert len(faults) == len(begins)
    assert not [begin for begin in begins if not any(fault.startswith(begin) for fault in faults)], faults
    assert "sss" not in str(faults)
    assert "'secret'" not in str(faults)


@pytest.mark.parametrize("value", ["8", "3600", 8, 8.5, "8.5"])
def test_a_number_of_the_service_may_be_text(value):
    assert told("ws_server", ws_server_heartbeat_s=value, ws_server_ready_timeout=value) == []


@pytest.mark.parametrize("value", [True, "eight", "-1", "1e3", " 8", "0.5", 3601])
def test_invalid_numbers_of_the_service(value):
    """For Python, a drain_window_s of True would be 1."""
    assert_told(told("ws_server", ws_server_heartbeat_s=value), f"ws_server_heartbeat_s is {value}: set it to a number")


@pytest.mark.parametrize("role", ROLES)
def test_no_rule_shows_a_secret(role):
    """No message about a fault of a secret contains its value."""
    options = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"][
        "options"
    ]
    secret = [name for name, option in options.items() if option.get("no_log")]
    secret += ["prometheus_webhooks"] if role == "prometheus" else []
    for name in secret:
        for value in ("hush '\"\\ \u20ac hush", "hush"):
            given = [value] if name == "prometheus_webhooks" else value
            assert "hush" not in str(told(role, **{name: given}))
