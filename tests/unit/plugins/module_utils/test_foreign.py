# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The operator's own files on a host, beside files of Debian's packages and ours."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from pathlib import Path

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils import _foreign
from ansible_collections.selfhost.websocket.plugins.module_utils._foreign import Cluster, Host

# REUSE-IgnoreStart: the header of a file that the test writes
OURS = "# SPDX-License-Identifier: GPL-3.0-or-later\n# Copyright: the selfhost.websocket authors\n# Ansible managed\n"
# REUSE-IgnoreEnd
ROOT = Path(__file__).resolve().parents[4]
POSTGRESQL_CONF = """
data_directory = '/var/lib/postgresql/17/main'		# use data in another directory
hba_file = '/etc/postgresql/17/main/pg_hba.conf'	# host-based authentication file
#listen_addresses = 'localhost'		# what IP address(es) to listen on;
port = 5432				# (change requires restart)
max_connections = 100			# (change requires restart)
shared_buffers = 128MB			# min 128kB
log_line_prefix = '%m [%p] %q%u@%d '		# special values:
include_dir = 'conf.d'			# include files ending in '.conf' from
"""
PG_HBA_CONF = """
# Database administrative login by Unix domain socket
local   all             postgres                                peer
# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             all                                     peer
host    all             all             127.0.0.1/32            scram-sha-256
host    all             all             ::1/128                 scram-sha-256
local   replication     all                                     peer
host    replication     all             127.0.0.1/32            scram-sha-256
host    replication     all             ::1/128                 scram-sha-256
"""


class Tree:
    """A host's files below a directory, and the answers of its Postgres."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[str] | None = None
        self.commands: list[list[str]] = []

    def write(self, name: str, text: str, packaged: bool = False) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if packaged:
            status = self.root / "var/lib/dpkg/status"
            status.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
            with status.open("a") as file:
                file.write(f"Package: some\nConffiles:\n {name} {digest}\nDescription: some\n\n")

    def link(self, name: str, target: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def run(self, command: list[str]) -> tuple[int, str, str]:
        self.commands.append(command)
        return (2, "", "no server") if self.rows is None else (0, "".join(f"{row}\n" for row in self.rows), "")

    @property
    def host(self) -> Host:
        return Host(self.run, self.root)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def told(found: list[_foreign.Found]) -> list[tuple[str, str, str]]:
    return [(one.kind, one.path, one.what) for one in found]


@pytest.mark.parametrize(
    "template",
    ["nginx/templates/nginx.conf.j2", "redis/templates/redis.conf.j2", "postgres/templates/pg_hba.conf.j2",
     "postgres/templates/pg_ident.conf.j2", "postgres/templates/ws.conf.j2"],
)  # fmt: skip
def test_files_from_our_templates_are_recognized(tree: Tree, template: str) -> None:
    tree.write("/etc/one", (ROOT / "roles" / template).read_text())
    assert tree.host.is_ours("/etc/one")


# nginx


def nginx_as_installed(tree: Tree) -> None:
    tree.write("/etc/nginx/nginx.conf", "user www-data;\n", packaged=True)
    tree.write("/etc/nginx/sites-available/default", "server { listen 80 default_server; }\n", packaged=True)
    tree.link("/etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default")


def test_no_nginx(tree: Tree) -> None:
    assert _foreign.nginx(tree.host) == []


def test_an_nginx_as_installed(tree: Tree) -> None:
    nginx_as_installed(tree)
    assert _foreign.nginx(tree.host) == []


def test_a_site_of_the_operator(tree: Tree) -> None:
    nginx_as_installed(tree)
    tree.write("/etc/nginx/sites-enabled/shop", "server { listen 80; server_name shop.example.org; }\n")
    tree.write("/etc/nginx/conf.d/gzip.conf", "gzip_types text/css;\n")
    assert told(_foreign.nginx(tree.host)) == [
        ("site", "/etc/nginx/conf.d/gzip.conf", "is a site of this nginx"),
        ("site", "/etc/nginx/sites-enabled/shop", "is a site of this nginx"),
    ]


def test_a_default_site_that_the_operator_changed(tree: Tree) -> None:
    nginx_as_installed(tree)
    tree.write("/etc/nginx/sites-available/default", "server { listen 80 default_server; root /srv; }\n")
    kinds = [(one.kind, one.path) for one in _foreign.nginx(tree.host)]
    assert ("site", "/etc/nginx/sites-enabled/default") in kinds


def test_an_nginx_conf_of_the_operator(tree: Tree) -> None:
    nginx_as_installed(tree)
    tree.write("/etc/nginx/nginx.conf", "user www-data; worker_processes 7;\n")
    assert told(_foreign.nginx(tree.host)) == [
        ("settings", "/etc/nginx/nginx.conf", "is neither the package's nor written by this collection")
    ]


def test_sites_beside_an_nginx_conf_of_ours_are_served_only_if_it_includes_them(tree: Tree) -> None:
    """Earlier releases included no sites, so existing files there do not prevent an update."""
    nginx_as_installed(tree)
    tree.write("/etc/nginx/sites-enabled/shop", "server { listen 80; server_name shop.example.org; }\n")
    tree.write("/etc/nginx/nginx.conf", OURS)
    assert _foreign.nginx(tree.host) == []
    tree.write("/etc/nginx/nginx.conf", OURS + "include /etc/nginx/sites-enabled/*;\n")
    assert [(one.kind, one.path) for one in _foreign.nginx(tree.host)] == [("site", "/etc/nginx/sites-enabled/shop")]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("listen 443 ssl default_server;", "has default_server at 'listen 443 ssl default_server;'"),
        ("listen [::]:443 ssl ipv6only=on;", "has ipv6only at 'listen [::]:443 ssl ipv6only=on;'"),
        ("listen 80 reuseport;", "has reuseport at"),
        ("listen 8443 ssl default_server;", None),
        ("listen 10.0.0.1:8080 default_server;", None),
        ("listen 443 ssl http2;", None),
        ("# listen 80 default_server;", None),
    ],
)
def test_a_site_that_nginx_would_refuse_beside_ours(tree: Tree, line: str, what: str | None) -> None:
    nginx_as_installed(tree)
    tree.write("/etc/nginx/nginx.conf", OURS)
    tree.write("/etc/nginx/sites-enabled/shop", f"server {{\n    {line}\n}}\n")
    found = told(_foreign.nginx(tree.host))
    assert [one[:2] for one in found] == ([("clash", "/etc/nginx/sites-enabled/shop")] if what else [])
    assert not what or found[0][2].startswith(what)


@pytest.mark.parametrize("line", ["upstream api {", "upstream ws {", "log_format ws '$uri';"])
def test_a_name_that_the_edge_has_itself(tree: Tree, line: str) -> None:
    nginx_as_installed(tree)
    tree.write("/etc/nginx/conf.d/one.conf", f"{line}\n}}\n")
    assert "clash" in [one.kind for one in _foreign.nginx(tree.host)]
    # The edge itself uses this name.
    head = re.sub(r" '.*", "", line)
    assert head in (ROOT / "roles/nginx/templates/nginx.conf.j2").read_text()


# Redis


class Redis(threading.Thread):
    """Answers one client with one line."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]

    def run(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            connection.recv(100)
            connection.sendall(self.answer.encode())
        self.socket.close()


@pytest.fixture
def closed() -> int:
    """A port without a Redis."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_no_redis_and_one_as_installed(tree: Tree, closed: int) -> None:
    assert _foreign.redis(tree.host, "", closed) == []
    tree.write("/etc/redis/redis.conf", "port 6379\n", packaged=True)
    tree.write("/var/lib/redis/dump.rdb", "R" * 88)
    assert _foreign.redis(tree.host, "", closed) == []


def test_a_redis_of_ours_with_data(tree: Tree, closed: int) -> None:
    tree.write("/etc/redis/redis.conf", OURS)
    tree.write("/var/lib/redis/appendonlydir/one.incr.aof", "data")
    assert _foreign.redis(tree.host, "", closed) == []


def test_a_redis_that_the_operator_configured(tree: Tree, closed: int) -> None:
    tree.write("/etc/redis/redis.conf", "port 6379\nrequirepass secret\n")
    found = _foreign.redis(tree.host, "", closed)
    assert told(found) == [
        ("settings", "/etc/redis/redis.conf", "is neither the package's nor written by this collection")
    ]
    assert _foreign.redis(tree.host, "ws", closed) == []


@pytest.mark.parametrize("line", ["dir /srv/redis", "appenddirname aof", 'appendfilename "shop.aof"'])
def test_data_that_our_redis_would_not_read(tree: Tree, closed: int, line: str) -> None:
    tree.write("/etc/redis/redis.conf", 'dir /var/lib/redis/\nappendfilename "appendonly.aof"\n')
    assert [one.kind for one in _foreign.redis(tree.host, "", closed)] == ["settings"]
    tree.write("/etc/redis/redis.conf", f"port 6379\n{line}\n")
    assert [one.kind for one in _foreign.redis(tree.host, "", closed)] == ["settings", "elsewhere"]
    assert _foreign.redis(tree.host, "ws", closed) == []


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("$40\r\n# Keyspace\r\ndb0:keys=3,expires=0\r\ndb1:keys=4,expires=0\r\n", "holds keys (7)"),
        ("-NOAUTH Authentication required.\r\n", "asks for a password"),
        ("$12\r\n# Keyspace\r\n\r\n", None),
    ],
)
def test_keys_that_are_only_in_memory(tree: Tree, answer: str, what: str | None) -> None:
    tree.write("/etc/redis/redis.conf", "port 6379\n", packaged=True)
    redis = Redis(answer)
    redis.start()
    found = told(_foreign.redis(tree.host, "", redis.port))
    redis.join()
    assert found == ([("data", f"127.0.0.1:{redis.port}", what)] if what else [])


@pytest.mark.parametrize("name", ["dump.rdb", "appendonlydir/appendonly.aof.1.incr.aof"])
def test_data_of_a_redis_as_installed(tree: Tree, closed: int, name: str) -> None:
    tree.write("/etc/redis/redis.conf", "port 6379\n", packaged=True)
    tree.write(f"/var/lib/redis/{name}", "R" * 92)
    (found,) = _foreign.redis(tree.host, "", closed)
    assert (found.kind, found.path) == ("data", f"/var/lib/redis/{name.partition('/')[0]}")


def test_the_data_of_the_fleet_is_not_left_behind(tree: Tree, closed: int) -> None:
    """redis_instance set or unset later would begin with an empty Redis."""
    tree.write("/etc/redis/redis.conf", OURS)
    assert [(one.kind, one.path) for one in _foreign.redis(tree.host, "ws", closed)] == [
        ("moved", "/etc/redis/redis.conf")
    ]
    tree.write("/etc/redis/redis.conf", "port 6379\n", packaged=True)
    tree.write("/etc/redis/redis-ws.conf", OURS)
    assert _foreign.redis(tree.host, "ws", closed) == []
    assert [(one.kind, one.path) for one in _foreign.redis(tree.host, "", closed)] == [
        ("moved", "/etc/redis/redis-ws.conf")
    ]


def test_an_instance_of_the_operator_with_our_name(tree: Tree, closed: int) -> None:
    tree.write("/etc/redis/redis-ws.conf", "port 6380\n")
    assert [one.kind for one in _foreign.redis(tree.host, "ws", closed)] == ["settings"]


FORWARD = "/etc/systemd/system/ws-redis-forward.service"


@pytest.mark.parametrize(("instance", "unit"), [("", "redis-server"), ("ws", "redis-server@ws")])
def test_a_redis_that_has_handed_its_data_over(tree: Tree, instance: str, unit: str) -> None:
    tree.write(f"/etc/redis/redis{'-' + instance if instance else ''}.conf", OURS)
    tree.write(FORWARD, (ROOT / "roles/redis/templates/ws-redis-forward.service.j2").read_text())
    text = tree.host.read(FORWARD).replace("{{ _redis_target_url }}", "fd00::2:6380")
    tree.write(FORWARD, text)
    # The units alone are from a move that was interrupted before the data moved.
    assert _foreign.redis(tree.host, instance) == []
    tree.link(f"/etc/systemd/system/{unit}.service", "/dev/null")
    assert told(_foreign.redis(tree.host, instance)) == [("handed-over", FORWARD, "forwards clients to fd00::2:6380")]


def test_a_redis_that_the_operator_has_masked(tree: Tree) -> None:
    tree.write("/etc/redis/redis.conf", OURS)
    tree.link("/etc/systemd/system/redis-server.service", "/dev/null")
    assert _foreign.redis(tree.host, "") == []


# Postgres

ETC = "/etc/postgresql/17/main"


@pytest.fixture
def cluster(tree: Tree) -> Cluster:
    tree.write(f"{ETC}/postgresql.conf", POSTGRESQL_CONF)
    tree.write(f"{ETC}/pg_hba.conf", PG_HBA_CONF)
    tree.write(f"{ETC}/pg_ident.conf", "# MAPNAME  SYSTEM-USERNAME  PG-USERNAME\n")
    tree.rows = ["postgres"]
    return Cluster(ETC, 5432, "localhost")


def postgres(tree: Tree, cluster: Cluster, shared: bool = False) -> list[tuple[str, str, str]]:
    return told(_foreign.postgres(tree.host, cluster, "ws", "app", shared))


def test_clusters_and_where_they_listen(tree: Tree, cluster: Cluster) -> None:
    assert _foreign.clusters(tree.host) == [cluster]
    tree.write(f"{ETC}/conf.d/a.conf", "listen_addresses = 'localhost, 10.0.0.9'\nport 5433\n")
    tree.write(f"{ETC}/conf.d/ws.conf", OURS + "listen_addresses = '10.0.0.1'\n")
    assert _foreign.clusters(tree.host) == [Cluster(ETC, 5433, "localhost, 10.0.0.9")]
    tree.write(f"{ETC}/postgresql.conf", POSTGRESQL_CONF + "port = 5434 # after include_dir\n")
    assert _foreign.clusters(tree.host)[0].port == 5434
    tree.write("/var/lib/postgresql/17/main/postgresql.auto.conf", "port = '5435'\nlisten_addresses = '*'\n")
    assert _foreign.clusters(tree.host) == [Cluster(ETC, 5435, "*")]


def test_every_cluster_of_a_host_is_found(tree: Tree, cluster: Cluster) -> None:
    tree.write("/etc/postgresql/17/ws/postgresql.conf", POSTGRESQL_CONF.replace("5432", "5433"))
    assert [(one.etc, one.port) for one in _foreign.clusters(tree.host)] == [
        (ETC, 5432),
        ("/etc/postgresql/17/ws", 5433),
    ]


def test_a_cluster_as_created(tree: Tree, cluster: Cluster) -> None:
    assert postgres(tree, cluster) == []
    assert tree.commands[0][:3] == ["runuser", "--user=postgres", "--"]
    assert "--port=5432" in tree.commands[0]


def test_databases_and_settings_of_an_operator(tree: Tree, cluster: Cluster) -> None:
    tree.write(f"{ETC}/postgresql.conf", "listen_addresses = '*'\nmax_connections = 300\n" + POSTGRESQL_CONF)
    tree.write(f"{ETC}/conf.d/tuning.conf", "work_mem = 64MB\n")
    tree.write(f"{ETC}/pg_hba.conf", PG_HBA_CONF + "host shop shop 10.0.0.0/24   md5 # the shop\n")
    tree.rows = ["postgres", "shop"]
    assert postgres(tree, cluster) == [
        ("settings", f"{ETC}/postgresql.conf", "sets listen_addresses"),
        ("settings", f"{ETC}/postgresql.conf", "sets max_connections"),
        ("settings", f"{ETC}/conf.d/tuning.conf", "is not written by this collection"),
        ("access", f"{ETC}/pg_hba.conf", "has the line 'host shop shop 10.0.0.0/24 md5'"),
        ("database", "database shop", "is in this cluster"),
    ]
    assert postgres(tree, cluster, shared=True) == []


def test_settings_that_would_win_over_ours(tree: Tree, cluster: Cluster) -> None:
    """Without this check, values of conf.d/ws.conf would silently not apply."""
    auto = "/var/lib/postgresql/17/main/postgresql.auto.conf"
    tree.write(f"{ETC}/conf.d/zz.conf", "jit = on\n")
    tree.write(f"{ETC}/postgresql.conf", POSTGRESQL_CONF + "listen_addresses = '*'\nport = 5433\nwork_mem = 64MB\n")
    tree.write(auto, "synchronous_commit = 'off'\nfsync = 'off'\n")
    assert postgres(tree, cluster) == [
        ("override", f"{ETC}/conf.d/zz.conf", "sets jit after conf.d/ws.conf, so its value would win"),
        ("override", f"{ETC}/postgresql.conf", "sets listen_addresses after conf.d/ws.conf, so its value would win"),
        ("settings", f"{ETC}/postgresql.conf", "sets work_mem"),
        ("override", auto, "sets synchronous_commit after conf.d/ws.conf, so its value would win"),
        ("settings", auto, "sets fsync"),
    ]
    assert postgres(tree, cluster, shared=True) == []


def test_the_settings_of_ours_are_those_of_the_template() -> None:
    text = (ROOT / "roles/postgres/templates/ws.conf.j2").read_text()
    names = set(re.findall(r"^([a-z_]+) = ", text, re.MULTILINE))
    assert names - {"port"} == _foreign._SETTINGS_OF_OURS  # the port is the cluster's own


def test_a_cluster_that_does_not_run(tree: Tree, cluster: Cluster) -> None:
    tree.rows = None
    tree.write("/var/lib/postgresql/17/main/base/5/PG_VERSION", "17")
    assert postgres(tree, cluster) == []
    tree.write("/var/lib/postgresql/17/main/base/16385/PG_VERSION", "17")
    assert [one[:2] for one in postgres(tree, cluster)] == [("database", "/var/lib/postgresql/17/main/base")]
    assert [one[0] for one in postgres(tree, cluster, shared=True)] == ["taken"]


def test_a_cluster_that_an_earlier_release_deployed(tree: Tree, cluster: Cluster) -> None:
    """The operator has added a database since."""
    tree.write(f"{ETC}/pg_hba.conf", OURS + PG_HBA_CONF + "host ws app 10.0.0.2/32 scram-sha-256\n")
    tree.write(f"{ETC}/conf.d/ws.conf", OURS)
    tree.rows = ["postgres", "shop", "ws"]
    assert postgres(tree, cluster) == []
    assert postgres(tree, cluster, shared=True) == []


def test_a_cluster_that_is_no_longer_shared(tree: Tree, cluster: Cluster) -> None:
    block = "# BEGIN selfhost.websocket\nlocal ws app peer map=ws\n# END selfhost.websocket\n"
    tree.write(f"{ETC}/pg_hba.conf", block + PG_HBA_CONF + "host shop shop 10.0.0.0/24 md5\n")
    tree.write(f"{ETC}/conf.d/ws.conf", OURS)
    tree.rows = ["postgres", "ws"]
    assert postgres(tree, cluster, shared=True) == []
    assert [one[:2] for one in postgres(tree, cluster)] == [
        ("access", f"{ETC}/pg_hba.conf"),
        ("database", "database ws"),
    ]


def test_names_that_already_exist_in_a_shared_cluster(tree: Tree, cluster: Cluster) -> None:
    tree.rows = ["dpostgres", "rpostgres", "dws", "rapp"]
    assert postgres(tree, cluster, shared=True) == [("taken", "database ws", "exists"), ("taken", "role app", "exists")]


def test_a_shared_cluster_where_root_cannot_be_postgres(tree: Tree, cluster: Cluster) -> None:
    tree.write(f"{ETC}/pg_hba.conf", "local all all md5\nlocal all postgres peer\n")
    assert [one[0] for one in postgres(tree, cluster, shared=True)] == ["taken"]
