# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Finds the operator's own files and data in nginx, Redis and Postgres.

Changes nothing on the host.

A file is ours if its head names this collection's authors, like the templates of every release. A
file is the package's if it is unchanged since dpkg installed it. Every other file is the
operator's.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_OURS = "the selfhost.websocket authors"
_HEAD_BYTES = 400
# An empty Redis snapshot is smaller.
_SNAPSHOT_BYTES = 92
_ANSWER_S = 2
# The first identifier that Postgres gives to an object that a user creates.
_FIRST_USER_OID = 16384

RunCommand = Callable[[list[str]], tuple[int, str, str]]


@dataclass(frozen=True)
class Found:
    """One finding.

    `kind` says what would be lost or clash; `what` is a clause that follows the path.
    """

    path: str
    kind: str
    what: str

    def as_dict(self) -> dict[str, str]:
        return {"path": self.path, "kind": self.kind, "what": self.what}


class Host:
    """The files of a host below `root`, and a way to run programs there."""

    def __init__(self, run: RunCommand, root: Path = Path("/")) -> None:
        self.run = run
        self.root = root
        self._packaged: dict[str, set[str]] | None = None

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def glob(self, pattern: str) -> list[str]:
        """Return the names of the files, without hidden ones."""
        found = sorted(self.root.glob(pattern.lstrip("/")))
        return [f"/{path.relative_to(self.root)}" for path in found if not path.name.startswith(".")]

    def read(self, name: str) -> str:
        """Return the text of a file, or an empty string if the file does not exist."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def is_link(self, name: str, target: str) -> bool:
        """Whether the name is a link to the target, and the target exists."""
        return self.path(name).is_symlink() and str(self.path(name).readlink()) == target and self.exists(target)

    def is_ours(self, name: str) -> bool:
        return _OURS in self.read(name)[:_HEAD_BYTES]

    def is_packaged(self, name: str) -> bool:
        """Whether a configuration file is unchanged since its package was installed."""
        if self._packaged is None:
            self._packaged = _conffiles(self.read("/var/lib/dpkg/status"))
        digest = hashlib.md5(self.path(name).read_bytes(), usedforsecurity=False).hexdigest()
        return digest in self._packaged.get(name, set())

    def is_foreign(self, name: str) -> bool:
        return self.exists(name) and not self.is_ours(name) and not self.is_packaged(name)


def _conffiles(status: str) -> dict[str, set[str]]:
    """The digests of configuration files in dpkg's records.

    A file that changed packages has two.
    """
    found: dict[str, set[str]] = {}
    for name, digest in re.findall(r"^ (/\S+) ([0-9a-f]{32})\b", status, re.MULTILINE):
        found.setdefault(name, set()).add(digest)
    return found


# nginx

_NGINX = "/etc/nginx/nginx.conf"
_SITES = ("/etc/nginx/conf.d/*.conf", "/etc/nginx/sites-enabled/*")
_LISTEN = re.compile(r"^\s*listen\s+(?P<address>[^\s;]+)(?P<options>[^;]*);", re.MULTILINE)
# nginx accepts each of these options only once per address and port. Our servers set the first two.
_SOCKET_OPTION = re.compile(
    r"\b(default_server|default|backlog|rcvbuf|sndbuf|accept_filter|deferred|bind|ipv6only|reuseport|so_keepalive|fastopen|setfib)\b"
)
_NAMES = re.compile(r"^\s*(?:upstream\s+(?P<upstream>ws|api)\s*\{|log_format\s+(?P<log_format>ws)\s)", re.MULTILINE)


def nginx(host: Host) -> list[Found]:
    """Find `settings` (nginx.conf), `site` (a site that ours would replace) and `clash`.

    A `clash` is a site that nginx refuses beside ours.
    """
    found = []
    sites = list(_nginx_sites(host))
    if host.is_foreign(_NGINX):
        found.append(Found(_NGINX, "settings", "is neither the package's nor written by this collection"))
    served = host.exists(_NGINX) and (
        not host.is_ours(_NGINX) or "include /etc/nginx/sites-enabled/" in host.read(_NGINX)
    )
    for site in sites:
        if served:
            found.append(Found(site, "site", "is a site of this nginx"))
        found += _nginx_clashes(host, site)
    return found


def _nginx_sites(host: Host) -> Iterator[str]:
    default = "/etc/nginx/sites-available/default"
    for pattern in _SITES:
        for site in host.glob(pattern):
            if site == "/etc/nginx/sites-enabled/default" and host.is_link(site, default) and host.is_packaged(default):
                continue
            yield site


def _nginx_clashes(host: Host, site: str) -> Iterator[Found]:
    text = re.sub(r"#.*", "", host.read(site))
    for listen in _LISTEN.finditer(text):
        port = re.sub(r"^(.*:|.*\D)(?=\d+$)", "", listen["address"])
        option = _SOCKET_OPTION.search(listen["options"])
        if option and port in ("80", "443"):
            yield Found(
                site, "clash", f"has {option[1]} at '{' '.join(listen[0].split())}', which the edge's own server sets"
            )
    for name in _NAMES.finditer(text):
        yield Found(site, "clash", f"has the {name.lastgroup} {name[str(name.lastgroup)]}, as the edge itself")


# Redis

# The place of the append only file, in Debian's settings and in ours.
_REDIS_DATA = {"dir": "/var/lib/redis", "appenddirname": "appendonlydir", "appendfilename": "appendonly.aof"}


def redis(host: Host, instance: str, port: int = 6379) -> list[Found]:
    """Find `settings` and `data` of Debian's own Redis, `elsewhere`, data that ours would not read,
    and `moved`: another unit has the fleet's data. `handed-over`: another host has the fleet's data,
    and this host forwards its clients there.

    `instance` is the name of our Redis, or empty for Debian's own Redis. `port` is the port of
    Debian's own Redis after installation.
    """
    own = f"/etc/redis/redis-{instance}.conf" if instance else "/etc/redis/redis.conf"
    found = [
        Found(name, "moved", f"is the Redis with the fleet's data, unlike {own}")
        for name in host.glob("/etc/redis/redis*.conf")
        if name != own and host.is_ours(name)
    ]
    found += _redis_handed_over(host, f"redis-server@{instance}" if instance else "redis-server")
    if host.is_ours(own):
        return found
    if instance:
        return found + ([Found(own, "settings", "is another Redis instance of this name")] if host.exists(own) else [])
    if host.is_foreign(own):
        settings = Found(own, "settings", "is neither the package's nor written by this collection")
        return [*found, settings, *_redis_elsewhere(host, own)]
    return found + list(_redis_data(host, port)) if host.exists(own) else found


def _redis_handed_over(host: Host, unit: str) -> Iterator[Found]:
    """Until move_store.yml masks the unit, the new Redis has no data that the old one lacks."""
    forward = "/etc/systemd/system/ws-redis-forward.service"
    masked = host.path(f"/etc/systemd/system/{unit}.service")
    if host.is_ours(forward) and masked.is_symlink() and str(masked.readlink()) == "/dev/null":
        target = re.findall(r"^ExecStart=.* (\S+)$", host.read(forward), re.MULTILINE)
        yield Found(forward, "handed-over", f"forwards clients to {target[-1] if target else 'another host'}")


def _redis_elsewhere(host: Host, conf: str) -> Iterator[Found]:
    named = dict(re.findall(r"^\s*(\w+)\s+\"?([^\s\"]+)", host.read(conf), re.MULTILINE))
    for name, value in _REDIS_DATA.items():
        if named.get(name, value).rstrip("/") != value:
            yield Found(conf, "elsewhere", f"has its data in another place ({name} {named[name]})")


def _redis_data(host: Host, port: int) -> Iterator[Found]:
    snapshot = "/var/lib/redis/dump.rdb"
    if host.exists(snapshot) and host.path(snapshot).stat().st_size >= _SNAPSHOT_BYTES:
        yield Found(snapshot, "data", "holds data")
    directory = "/var/lib/redis/appendonlydir"
    if any(host.path(name).stat().st_size for name in host.glob(f"{directory}/*.aof")):
        yield Found(directory, "data", "holds data")
    if keys := _redis_keys(port):
        yield Found(f"127.0.0.1:{port}", "data", keys)


def _redis_keys(port: int) -> str:
    """A clause about a Redis that holds keys or wants a password. Empty if no Redis answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as connection:
            connection.sendall(b"INFO keyspace\r\n")
            answer = connection.recv(4096).decode(errors="replace")
    except OSError:
        return ""
    if answer.startswith(("-NOAUTH", "-NOPERM")):
        return "asks for a password"
    databases = re.findall(r"^(db\d+):keys=(\d+)", answer, re.MULTILINE)
    return f"holds keys ({sum(int(keys) for _database, keys in databases)})" if databases else ""


# Postgres

# The settings that pg_createcluster writes. Any other setting or value is the operator's.
_POSTGRES_AS_CREATED = {
    "data_directory", "hba_file", "ident_file", "external_pid_file", "port", "unix_socket_directories", "ssl", "ssl_cert_file",
    "ssl_key_file", "dynamic_shared_memory_type", "max_wal_size", "min_wal_size", "log_line_prefix", "log_timezone",
    "cluster_name", "datestyle", "timezone", "lc_messages", "lc_monetary", "lc_numeric", "lc_time", "default_text_search_config",
    "include_dir", "stats_temp_directory",
}  # fmt: skip
_POSTGRES_VALUES = {"max_connections": {"100"}, "shared_buffers": {"128MB"}}
_OUR_SETTINGS = "conf.d/ws.conf"
_SETTINGS_OF_OURS = {
    "listen_addresses", "max_connections", "shared_buffers", "effective_cache_size", "maintenance_work_mem", "synchronous_commit",
    "wal_compression", "random_page_cost", "jit", "idle_in_transaction_session_timeout", "tcp_keepalives_idle",
}  # fmt: skip
_HBA_AS_CREATED = {
    "local all postgres peer",
    "local all all peer",
    "host all all 127.0.0.1/32 scram-sha-256",
    "host all all ::1/128 scram-sha-256",
    "local replication all peer",
    "host replication all 127.0.0.1/32 scram-sha-256",
    "host replication all ::1/128 scram-sha-256",
}
_BLOCK = re.compile(r"^# BEGIN selfhost\.websocket$.*?^# END selfhost\.websocket$", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"^\s*(?P<name>[a-z_.]+)\s*=?\s*(?P<value>'(?:[^']|'')*'|[^\s#]+)", re.MULTILINE)
_DATABASES_AS_CREATED = ("postgres", "template0", "template1")


@dataclass(frozen=True)
class Cluster:
    """A Postgres cluster of Debian; `etc` is /etc/postgresql/VERSION/NAME.

    `listen_addresses` is the setting in files other than ours.
    """

    etc: str
    port: int
    listen_addresses: str


def clusters(host: Host) -> list[Cluster]:
    """The clusters of a host, from their files."""
    found = []
    for main in host.glob("/etc/postgresql/*/*/postgresql.conf"):
        etc = main.rpartition("/")[0]
        assigned = list(_assignments(host, etc))
        port = {one.name: one.value for one in assigned}.get("port", "5432")
        others = {one.name: one.value for one in assigned if not host.is_ours(one.file)}
        found.append(Cluster(etc, int(port), others.get("listen_addresses", "localhost")))
    return found


@dataclass(frozen=True)
class _Assignment:
    """A setting in a file.

    `is_last` says that the file comes after our conf.d/ws.conf, so this value wins.
    """

    file: str
    name: str
    value: str
    is_last: bool


def _assignments(host: Host, etc: str) -> Iterator[_Assignment]:
    """The settings of a cluster in the order of Postgres, where the last value wins.

    Included files count at the place of their line. The settings of ALTER SYSTEM come last.
    """
    main, is_last, data = f"{etc}/postgresql.conf", False, ""
    for name, value in _settings(host, main):
        if name == "include_dir":
            directory = value if value.startswith("/") else f"{etc}/{value}"
            for file in host.glob(f"{directory}/*.conf"):
                is_last = file > f"{etc}/{_OUR_SETTINGS}"
                yield from (_Assignment(file, *setting, is_last) for setting in _settings(host, file))
            is_last = True
        yield _Assignment(main, name, value, is_last)
        data = value if name == "data_directory" else data
    if data:
        auto = f"{data}/postgresql.auto.conf"
        yield from (_Assignment(auto, *setting, True) for setting in _settings(host, auto))


def postgres(host: Host, cluster: Cluster, database: str, user: str, shared: bool) -> list[Found]:
    """Find `settings`, `access` and `database` that ours would change in a cluster, and
    `override`, a setting that would win over ours.

    With `shared`, find names and rules that prevent sharing the cluster: `taken`.
    """
    hba = f"{cluster.etc}/pg_hba.conf"
    if host.is_ours(hba):
        return []
    if not shared:
        return [*_postgres_files(host, cluster), *_postgres_databases(host, cluster)]
    return [] if _BLOCK.search(host.read(hba)) else list(_postgres_taken(host, cluster, database, user))


def _postgres_files(host: Host, cluster: Cluster) -> Iterator[Found]:
    told = set()
    for one in _assignments(host, cluster.etc):
        if host.is_ours(one.file):
            continue
        in_directory = one.file.startswith(f"{cluster.etc}/conf.d/")
        if one.is_last and one.name in _SETTINGS_OF_OURS and one.value not in _POSTGRES_VALUES.get(one.name, set()):
            yield Found(one.file, "override", f"sets {one.name} after {_OUR_SETTINGS}, so its value would win")
        elif in_directory and one.file not in told:
            told.add(one.file)
            yield Found(one.file, "settings", "is not written by this collection")
        elif not in_directory and not _is_as_created(one):
            yield Found(one.file, "settings", f"sets {one.name}")
    hba, ident = f"{cluster.etc}/pg_hba.conf", f"{cluster.etc}/pg_ident.conf"
    for name, known in ((hba, _HBA_AS_CREATED), (ident, set())):
        if not host.is_ours(name):
            for line in _lines(_BLOCK.sub("", host.read(name))):
                if line not in known:
                    yield Found(name, "access", f"has the line '{line}'")


def _is_as_created(one: _Assignment) -> bool:
    return one.name in _POSTGRES_AS_CREATED or one.value in _POSTGRES_VALUES.get(one.name, set())


def _postgres_databases(host: Host, cluster: Cluster) -> Iterator[Found]:
    names = _ask(host, cluster, "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY datname")
    if names is not None:
        for name in names:
            if name not in _DATABASES_AS_CREATED:
                yield Found(f"database {name}", "database", "is in this cluster")
        return
    # The cluster does not run. Each database has a directory that is named after its number.
    data = dict(_settings(host, f"{cluster.etc}/postgresql.conf")).get("data_directory", "")
    numbers = [name.rpartition("/")[2] for name in host.glob(f"{data}/base/*")] if data else []
    if any(number.isdigit() and int(number) >= _FIRST_USER_OID for number in numbers):
        yield Found(f"{data}/base", "database", "holds databases, and the cluster does not run")


def _postgres_taken(host: Host, cluster: Cluster, database: str, user: str) -> Iterator[Found]:
    names = _ask(host, cluster, "SELECT 'd' || datname FROM pg_database UNION SELECT 'r' || rolname FROM pg_roles")
    if names is None:
        yield Found(cluster.etc, "taken", f"is the cluster to share, and does not answer at port {cluster.port}")
    for line in _lines(host.read(f"{cluster.etc}/pg_hba.conf")):
        kind, databases, users, method = ([*line.split(), "", "", "", ""])[:4]
        if kind == "local" and databases in ("all", "postgres") and users in ("all", "postgres"):
            if method != "peer":
                yield Found(
                    f"{cluster.etc}/pg_hba.conf", "taken", f"has the line '{line}', so root cannot log in as postgres"
                )
            break
    if f"d{database}" in (names or []):
        yield Found(f"database {database}", "taken", "exists")
    if f"r{user}" in (names or []):
        yield Found(f"role {user}", "taken", "exists")


def _ask(host: Host, cluster: Cluster, query: str) -> list[str] | None:
    """The rows of a query of one column, or None if the cluster does not answer."""
    psql = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", f"--port={cluster.port}", f"--command={query}"]
    code, output, _error = host.run(["runuser", "--user=postgres", "--", *psql])
    return output.split() if code == 0 else None


def _settings(host: Host, name: str) -> list[tuple[str, str]]:
    """The names and values of a settings file of Postgres, in their order."""
    return [(match["name"].lower(), match["value"].strip("'")) for match in _SETTING.finditer(host.read(name))]


def _lines(text: str) -> list[str]:
    bare = (" ".join(line.partition("#")[0].split()) for line in text.splitlines())
    return [line for line in bare if line]
