# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The checks that compare variables.

Tables of rules use their names; each yields one sentence per fault.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.selfhost.websocket.plugins.module_utils import _stores
from ansible_collections.selfhost.websocket.plugins.module_utils._addresses import host_network
from ansible_collections.selfhost.websocket.plugins.module_utils._checks import Check, Settings, number, whole

_NUMBER = re.compile(r"^\d+(\.\d+)?$")
_WHOLE = re.compile(r"^\d+$")
_IN_A_SETTINGS_FILE = re.compile(r'^[^\s"\\]*$')
_ADDRESS = re.compile(r"^(\d{1,3}(\.\d{1,3}){3}|[0-9a-fA-F]*:[0-9a-fA-F:]+)$")
_ORIGIN = re.compile(r"^[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d+)?$")
_SETTINGS_FILE = re.compile(r"^[!#-&(-\[\]-~]*$")
_MAIL = re.compile(r'^[^@\s,"]+@[^@\s,"]+$')
_BATCH = re.compile(r"^([1-9][0-9]*|([1-9][0-9]?|100)%)$")
_PARTS = ("grafana", "loki", "tempo")
_PYTHON = (3, 11)
# The kernel reserves a part of the memory: a machine with 1 GB has some 960 MB.
_MEMORY_MB = 900
_DISK_MB = 1024
_MIB = 2**20


# The inventory.


def groups(settings: Settings) -> Iterator[str]:
    """Every group has a host, and groups that keep data have exactly one."""
    hosts = settings.get("groups")
    fleet = settings.get("_fleet_groups")
    empty = {variable: group for variable, group in fleet.items() if not hosts.get(group)}
    if empty:
        yield (
            f"The inventory has no host in {', '.join(empty.values())}: put a host there, which may be the same in all groups, "
            f"or set the name of the right group with -e {'=…, -e '.join(empty)}=…."
        )
    single = [fleet["ws_redis_group"], fleet["ws_postgres_group"], settings.get("ws_observability_group")]
    crowded = [group for group in single if len(hosts.get(group, [])) > 1]
    if crowded:
        yield (
            f"The inventory has several hosts in {' and '.join(crowded)}: leave only the host whose data the fleet uses."
        )


def limit(settings: Settings) -> Iterator[str]:
    """The run knows what it writes on other hosts about the hosts that --limit leaves out."""
    left_out, addresses = settings.get("_left_out"), settings.get("_addresses")
    stores = {settings.get("ws_server_redis_host"), settings.get("ws_server_postgres_host")}
    unseen = [host for host in left_out if host in stores]
    if unseen:
        yield (
            f"--limit leaves out {', '.join(unseen)}, and the run has to look there for the ports of Redis and Postgres: "
            "add that host to --limit, or run the playbook without --limit."
        )
    asked = settings.text("ws_host")
    if asked in left_out:
        yield f"--limit leaves out {asked}, which ws_host names: run the playbook without --limit."
    unknown = [host for host in left_out if not addresses[host]]
    if unknown:
        yield (
            f"--limit leaves out {', '.join(unknown)}, whose address the other hosts need: set ws_server_private_address there in the "
            "inventory, let Ansible keep facts between runs (fact_caching), or run the playbook without --limit and for a part of it "
            "with --tags, for example --tags nginx."
        )


def roll_serial(settings: Settings) -> Iterator[str]:
    """The batches of hosts are numbers or percentages."""
    given = settings.get("ws_roll_serial", 1)
    batches = given if isinstance(given, list) else [given]
    if not batches or not all(_BATCH.match(str(batch)) for batch in batches):
        yield (
            f"ws_roll_serial is {given}: set it to how many hosts are rolled at the same time, as a number or a percentage, "
            'or to a list of these, like -e \'{"ws_roll_serial": [1, "25%"]}\'.'
        )


def lock_break(settings: Settings) -> Iterator[str]:
    """The request to break the lock is true or false."""
    given = settings.text("ws_lock_break", "false")
    if given.lower() not in ("true", "false", "yes", "no"):
        yield f"ws_lock_break is {given}: set it to true to take the lock from a run that is over, or leave it out."


def maintenance(settings: Settings) -> Iterator[str]:
    """The host and action of host_maintenance.yml are known, and the fleet can spare the host."""
    hosts = settings.get("groups")
    workers = hosts[settings.get("ws_workers_group")]
    host, action = settings.text("ws_host"), settings.text("ws_action")
    if host not in workers:
        given = f"'{host}', which is not a worker host" if host else "not set"
        yield f"ws_host is {given}: set it with -e ws_host=NAME to one of {', '.join(workers)}."
    if action not in ("out", "reboot", "in"):
        given = f"'{action}'" if action else "not set"
        yield f"ws_action is {given}: set -e ws_action=out, -e ws_action=reboot or -e ws_action=in."
    if host not in workers or action not in ("out", "reboot"):
        return
    if len(workers) == 1:
        yield (
            f"{host} is the only worker host, so its clients have no other worker. Reboot it yourself: they wait until it is back, "
            "and miss nothing. Or add a worker host first."
        )
    needed = [
        *(["Redis"] if host in hosts.get(settings.get("ws_redis_group"), []) else []),
        *(["Postgres"] if host in hosts.get(settings.get("ws_postgres_group"), []) else []),
        *(["the only edge"] if hosts.get(settings.get("ws_edge_group")) == [host] else []),
    ]
    if action == "reboot" and needed and not settings.is_true("ws_even_so"):
        yield (
            f"{host} is more than a worker host: it has {' and '.join(needed)}, and without these the whole fleet is "
            "down. Clients reconnect by themselves and miss nothing. To reboot it anyway, run this playbook with "
            "-e ws_even_so=true."
        )


def host_system(settings: Settings) -> Iterator[str]:
    """The host meets the requirements of the roles.

    A distribution is refused for what it lacks, not for its name.
    """
    facts = settings.get("ansible_facts")
    python = (int(facts["python"]["version"]["major"]), int(facts["python"]["version"]["minor"]))
    lacking = [
        *([] if facts["pkg_mgr"] == "apt" else ["Debian's packages (apt)"]),
        *([] if python >= _PYTHON else ["Python {}.{} (it has {}.{})".format(*_PYTHON, *python)]),
        *([] if facts["userspace_bits"] == "64" else ["a system of 64 bits"]),
    ]
    if lacking:
        fleet = settings.get("_fleet_pattern").split(":")
        groups_of_host = [group for group in settings.get("group_names") if group in fleet]
        yield (
            f"{settings.host} runs {facts['distribution']} {facts['distribution_version']} on {facts['architecture']}, which lacks "
            f"{', '.join(lacking)}. Debian 12 and 13 are tested: install one of them there, or put another host into "
            f"{', '.join(groups_of_host)}."
        )


def address(settings: Settings) -> Iterator[str]:
    """The fleet's own traffic, which is not encrypted, stays off the Internet.

    In a fleet of one host only the server API leaves the host. A move from another host is traffic, too.
    """
    source = settings.text("ws_from")
    hosts = {*settings.get("_fleet_hosts"), *([source] if source else [])}
    serving = {*settings.get("_serving"), source} if len(hosts) > 1 else set()
    if settings.host not in serving | {*settings.get("_api_served")}:
        return
    if settings.get("ws_server_private_address", None) is None and not settings.get("_is_private"):
        yield (
            f"{settings.host} would serve the other hosts at {settings.text('_fleet_address') or 'no address'}, which is "
            "not private: give it ws_server_private_address, its address in a network that only the fleet's hosts are in."
        )


def host_room(settings: Settings) -> Iterator[str]:
    """The host has enough memory and disk space."""
    facts = settings.get("ansible_facts")
    memory_mb = facts["memtotal_mb"]
    mounts = facts.get("mounts", [])
    free = [mount["size_available"] for mount in mounts if mount["mount"] == "/" and "size_available" in mount]
    free_mb = int(free[0]) // _MIB if free else _DISK_MB
    small = [
        *([] if memory_mb >= _MEMORY_MB else [f"{memory_mb} MB of memory and needs {_MEMORY_MB}"]),
        *([] if free_mb >= _DISK_MB else [f"{free_mb} MB free on / and needs {_DISK_MB}"]),
    ]
    if small:
        yield (
            f"{settings.host} has {', and '.join(small)}. The defaults are for a host of 4 GB that runs everything; lower "
            "ws_server_instances and redis_maxmemory on smaller ones."
        )


def ports(settings: Settings) -> Iterator[str]:
    """No two services of a host use the same port."""
    twice = [port for port, count in Counter(settings.get("_ports")).items() if count > 1]
    if not twice:
        return
    # Worker 11 has port 8090 and its API 9090, which is Prometheus' port.
    if settings.get("_prometheus") and len(settings.get("_workers")) > 20:
        group = settings.get("ws_observability_group")
        remedy = f"put a host without workers into {group}, or set ws_server_instances to 10 or less there"
    else:
        remedy = "choose another redis_port, or move the Postgres cluster to another port"
    yield f"On {settings.host} two services would use the port {', '.join(twice)}: {remedy}."


def move(settings: Settings) -> Iterator[str]:
    """The host that move_store.yml empties is known, and the inventory names another host for one of its stores."""
    hosts, host = settings.get("groups"), settings.text("ws_from")
    if settings.get("ansible_check_mode"):
        yield (
            "move_store has no check mode: most of its steps need the result of the step before. Run it without --check. It makes all "
            "checks of the hosts before it touches anything."
        )
    if settings.text("ansible_limit"):
        yield "--limit leaves out hosts whose workers would keep the old addresses: run the playbook without --limit."
    if host not in hosts["all"]:
        given = f"'{host}', which is no host of the inventory" if host else "not set"
        yield f"ws_from is {given}: set -e ws_from=NAME to the host that has Redis or Postgres now."
    store_groups = [settings.get("ws_redis_group"), settings.get("ws_postgres_group")]
    if all(hosts.get(group) == [host] for group in store_groups):
        yield (
            f"{' and '.join(store_groups)} of the inventory name {host}, so there is nothing to move from there: "
            "write the new host into one of these groups first."
        )


def movable(settings: Settings) -> Iterator[str]:
    """The stores that move_store.yml moves are in a state in which no data can be lost."""
    host, moves = settings.text("ws_from"), settings.get("_moves")
    if "redis" in moves:
        yield from _movable_redis(host, settings.get("_redis_old"), settings.text("_redis_target"))
    if "postgres" in moves:
        new_host, name = settings.text("_new_host"), settings.text("postgres_database", "ws")
        yield from _movable_postgres(
            host, new_host, name, settings.get("_postgres_located"), settings.get("_postgres_new")
        )


def _movable_redis(host: str, old: Mapping[str, str], target: str) -> Iterator[str]:
    if old["state"] in ("absent", "stopped"):
        yield (
            f"The Redis of {host} is {old['state']}, and its data cannot be moved: start that Redis, then run this playbook again."
        )
    if old["state"] in ("handed-over", "slave") and old["forwards"] != target:
        yield (
            f"The data of the Redis of {host} is at {old['forwards']} since an earlier run, and the inventory names {target}: write that "
            "host into the inventory again, finish this move, and move Redis from there."
        )


def _movable_postgres(
    host: str, new_host: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[str]:
    if len(old["clusters"]) > 1:
        yield (
            f"{host} has the Postgres clusters {' and '.join(old['clusters'])}, and the run cannot know which of them has the database: "
            "keep one (pg_dropcluster removes another)."
        )
    elif old["state"] == "absent":
        yield (
            f"{host} has no database {name} that answers, so it cannot be moved: start Postgres there, or set postgres_database for {host} "
            "if the database has another name, then run this playbook again."
        )
    elif _stores.is_copy(new, old) and new["state"] == "fenced":
        yield (
            f"{new_host} is the old host of a move of Postgres to {host} that is not complete: write {host} into the inventory again, and "
            f"run this playbook with -e ws_from={new_host}. After that, move the database back in the same way."
        )
    elif new["tables"] and not (old["state"] == "fenced" and _stores.is_copy(new, old)):
        yield (
            f"The database {name} on {new_host} has {new['tables']} tables, and it is no copy of the database on {host} as that is now: an "
            "earlier move that you did not complete may have left it there. Rename or drop it if you do not need it, then run this "
            "playbook again. The workers use the old Postgres as before."
        )


def stores(settings: Settings) -> Iterator[str]:
    """The running workers use the stores that the inventory names, or the run moves the stores."""
    wanted = settings.get("_wanted")
    if settings.get("_from") and not any(settings.get("_used").values()):
        yield "No worker runs, so the run does not know which stores to move: start the workers, then run this playbook again."
    for found in settings.get("_fleet_elsewhere"):
        if found["host"] and found["host"] == settings.get("_from"):
            continue
        title, new = _stores.TITLES[found["name"]], wanted[found["name"]]
        group = settings.get(f"ws_{found['name']}_group")
        place, remedy = _store_place(found, group)
        yield (
            f"The workers of {', '.join(found['users'])} use the {title} on {place}, and {group} of the inventory names {new}. "
            f"Old and new workers would use different stores, and the data would stay behind. To move {title}, {remedy}."
        )


def _store_place(found: Mapping[str, Any], group: str) -> tuple[str, str]:
    """Names the host of a store, and what the operator can do."""
    if found["host"]:
        remedy = (
            f"run the playbook move_store with -e ws_from={found['host']}, or write {found['host']} into {group} again"
        )
        return found["host"], remedy
    place = f"a host at {found['address']}"
    remedy = f"run the playbook move_store with -e ws_from=NAME, or correct {group}"
    if not found["candidates"]:
        return f"{place}, which the inventory does not have", f"add that host to the inventory, and {remedy}"
    hosts = " or ".join(found["candidates"])
    return (
        f"{place}, which may be {hosts} (this run knows no address there)",
        f"set ws_server_private_address: {found['address']} for that host in the inventory, and {remedy}",
    )


def earlier_stores(settings: Settings) -> Iterator[str]:
    """A rollback returns no worker to settings with another Redis or Postgres than now."""
    found = settings.get("_stores")
    now = {worker["instance"]: worker for worker in found["workers"]}
    for turn in settings.get("_turns"):
        for name in _stores.changed(now.get(turn["instance"], {}), found["generations"].get(turn["generation"], {})):
            yield (
                f"Worker {turn['instance']} of {settings.host} cannot go back to {turn['generation']}, whose settings name another "
                f"{_stores.TITLES[name]}: the data has moved since. No worker was touched. To move it back, write its host into the "
                "inventory and run the playbook move_store."
            )


def observability_parts(settings: Settings) -> Iterator[str]:
    """The observability parts are known."""
    parts = settings.get("_fleet_parts")
    if isinstance(parts, str) or not set(parts) <= set(_PARTS):
        yield f"ws_observability_parts is {parts}: list any of grafana, loki and tempo."


# The roles.


def alloy_purpose(settings: Settings) -> Iterator[str]:
    """Alloy has a destination."""
    if not settings.text("alloy_loki_url") + settings.text("alloy_tempo_url"):
        yield (
            f"alloy_loki_url and alloy_tempo_url are empty, so Alloy would have nothing to do on {settings.host}: "
            "set one, or leave the role out."
        )


def nginx_names(settings: Settings) -> Iterator[str]:
    """The domain is known, and the names can stand in a certificate."""
    domain = settings.get("nginx_domain")
    if not domain:
        yield (
            "nginx_domain is not set: give it the name or IP address that clients connect to, for example "
            "nginx_domain: ws.example.org under all.vars of the inventory."
        )
    forms = "|".join(settings.get(form) for form in ("_nginx_ipv4", "_nginx_ipv6", "_nginx_dns"))
    names = [*([domain] if domain else []), *settings.get("nginx_tls_extra_names")]
    bad = [str(name) for name in names if not re.match(f"^({forms})$", str(name))]
    if bad:
        yield (
            f"""nginx_domain or nginx_tls_extra_names contains '{"', '".join(bad)}', which is neither a DNS name nor an IP address: """
            "write it without scheme, port and path, and an international name in its xn-- form."
        )


def nginx_api_clients(settings: Settings) -> Iterator[str]:
    """The clients of the server API are addresses."""
    form = rf"^({settings.get('_nginx_ipv4')}(/[0-9]{{1,2}})?|{settings.get('_nginx_ipv6')}(/[0-9]{{1,3}})?)$"
    bad = [str(client) for client in settings.get("nginx_api_clients") if not re.match(form, str(client))]
    if bad:
        yield (
            f"""nginx_api_clients (in a fleet: ws_server_api_clients) contains '{"', '".join(bad)}': write IP addresses and networks, """
            "like 10.0.0.20 and 10.1.0.0/24."
        )


def nginx_certificate(settings: Settings) -> Iterator[str]:
    """Mode files: the certificate and its key exist, are valid and match the domain."""
    certificate, key = settings.get("nginx_tls_certificate"), settings.get("nginx_tls_certificate_key")
    has_certificate = "-----BEGIN CERTIFICATE-----" in settings.get("_nginx_certificate")
    if not has_certificate or "PRIVATE KEY-----" not in settings.get("_nginx_certificate_key"):
        missing = "nginx_tls_certificate_key" if has_certificate else "nginx_tls_certificate"
        yield (
            f"{missing} is not a readable PEM file on the control machine: nginx_tls_mode 'files' needs the paths of a "
            "certificate and of its private key."
        )
        return
    info = settings.get("_nginx_certificate_info")
    if info["public_key"] != settings.get("_nginx_certificate_key_info")["public_key"]:
        yield (
            f"nginx_tls_certificate_key ({key}) is not the key of nginx_tls_certificate ({certificate}): "
            "set both to files that were issued together."
        )
    if info["expired"]:
        yield f"nginx_tls_certificate ({certificate}) expired at {info['not_after']}: renew it first."
    domain = settings.get("nginx_domain")
    wildcard = re.sub(r"^[^.]*\.", "", domain)
    names = info.get("subject_alt_name") or []
    if domain and not {f"DNS:{domain}", f"DNS:*.{wildcard}", f"IP:{domain}"} & set(names):
        yield (
            f"nginx_tls_certificate ({certificate}) is not for nginx_domain ({domain}), but for "
            f"{', '.join(names) or 'nothing'}: have one issued for the domain, or correct nginx_domain."
        )


def nginx_authority(settings: Settings) -> Iterator[str]:
    """Mode files: a private CA, if set, has issued the certificate or its intermediate."""
    path = settings.text("nginx_tls_ca")
    if not path:
        return
    remedy = "set it to the certificate of the authority that clients trust"
    if "-----BEGIN CERTIFICATE-----" not in settings.get("_nginx_ca"):
        yield f"nginx_tls_ca ({path}) is not a readable PEM file on the control machine: {remedy}."
        return
    info = settings.get("_nginx_ca_info")
    if info["expired"]:
        yield f"nginx_tls_ca ({path}) expired at {info['not_after']}: {remedy}."
    if "-----BEGIN CERTIFICATE-----" not in settings.get("_nginx_certificate"):
        return
    if info["subject"] not in settings.get("_nginx_certificate_issuers"):
        certificate = settings.get("nginx_tls_certificate")
        yield f"nginx_tls_ca ({path}) has not issued nginx_tls_certificate ({certificate}), nor an intermediate in it: {remedy}."


def postgres_clients(settings: Settings) -> Iterator[str]:
    """The clients on other hosts have addresses."""
    clients = settings.get("postgres_client_addresses")
    if not clients or not all(_is_one_address(str(client)) for client in clients):
        yield (
            f"postgres_client_addresses is {clients}: list the addresses of the hosts whose workers use this Postgres, "
            "as in ['10.0.0.2', '10.0.0.3'], or set postgres_clients_local to true."
        )


def _is_one_address(client: str) -> bool:
    try:
        return bool(host_network(client))
    except ValueError:
        return False


def prometheus_mail(settings: Settings) -> Iterator[str]:
    """Mail has a sender, a server and addresses."""
    to, sender = settings.get("prometheus_mail_to"), settings.text("prometheus_mail_from")
    if not all(_MAIL.match(str(address)) for address in [*to, sender] if address != ""):
        yield (
            f"prometheus_mail_to is {to} and prometheus_mail_from '{sender}': write one mail address for each, like ops@example.org."
        )
    server = settings.text("prometheus_mail_smarthost")
    if to and not (sender and re.match(r"^\S+:[0-9]+$", server)):
        yield (
            f"prometheus_mail_to is set, prometheus_mail_from is '{sender}' and prometheus_mail_smarthost '{server}': mail needs "
            "a sender and a server with its port, like mail.example.org:587."
        )


def redis_files(settings: Settings) -> Iterator[str]:
    """Redis may open a file for each client, and 32 for itself."""
    clients, files = settings.get("redis_maxclients"), settings.get("redis_limit_nofile")
    if not 0 < whole(clients) <= whole(files) - 32:
        yield (
            f"redis_maxclients is {clients} and redis_limit_nofile {files}: Redis needs a file for each client and 32 for itself, "
            "so lower redis_maxclients or raise redis_limit_nofile."
        )


def sysctl_port_range(settings: Settings) -> Iterator[str]:
    """The range of ports is valid."""
    given = settings.text("sysctl_ip_local_port_range")
    if not re.match(r"^\d+ \d+$", given) or not 1 <= int(given.split()[0]) < int(given.split()[1]) <= 65535:
        yield f"sysctl_ip_local_port_range is '{given}': set it to two ports, the lower first, as in '1024 65535'."


def sysctl_reserved_ports(settings: Settings) -> Iterator[str]:
    """The reserved ports are ports, or ranges of ports."""
    given = settings.get("sysctl_reserved_ports")
    form = r"^[1-9]\d{0,4}(-[1-9]\d{0,4})?$"
    if (
        not given
        or not all(re.match(form, str(port)) for port in given)
        or max(int(port) for entry in given for port in str(entry).split("-")) > 65535
    ):
        yield (
            f"sysctl_reserved_ports is {given}: list the ports the services listen on, each a number up to 65535 or a range "
            "as in '8080-8083'."
        )


def vendor_package(settings: Settings) -> Iterator[str]:
    """The package has a version, and a repository with a key or a file with a checksum."""
    name = settings.get("vendor_packages_name")
    if not re.match(r"^[0-9][0-9A-Za-z.+:~-]*$", str(settings.get("vendor_packages_versions").get(name, ""))):
        yield f"vendor_packages_versions has no version of {name}: add the full version to install, like 1.2.3 or 1.2.3-1."
    debs = settings.get("vendor_packages_debs")
    yield from _vendor_file(settings, name, debs[name]) if name in debs else _vendor_repository(settings)


def _vendor_file(settings: Settings, name: str, deb: dict[str, str]) -> Iterator[str]:
    path, wanted = deb.get("file", ""), deb.get("sha256", "")
    found = settings.sha256(path)
    if not wanted or found != wanted:
        has = f"one with {found}" if found else "no such file"
        yield (
            f"vendor_packages_debs.{name} names the file '{path}' with the sha256 '{wanted}', and the control machine has {has}: "
            "get the right file, or correct the checksum."
        )


def _vendor_repository(settings: Settings) -> Iterator[str]:
    repository = settings.text("vendor_packages_repository")
    if not re.match(r'^(https?|file)://?[^\s"\[\]]+$', repository):
        yield (
            f"vendor_packages_repository is '{repository}': set it to the URL of an apt repository, like https://apt.grafana.com."
        )
    fingerprints = settings.get("vendor_packages_key_fingerprints")
    if not fingerprints or not all(re.match("^[0-9A-F]{40}$", str(fingerprint)) for fingerprint in fingerprints):
        yield (
            f"vendor_packages_key_fingerprints is {fingerprints}: list the fingerprint of each key that may sign the repository, "
            "with 40 digits and capital letters and without spaces."
        )
    key = settings.text("vendor_packages_key")
    if not re.match("https?://", key) and settings.sha256(key) is None:
        yield f"vendor_packages_key is '{key}', which is not a file on the control machine: set it to a file there, or to a URL."


def ws_server_origins(settings: Settings) -> Iterator[str]:
    """The list of web pages that may connect is valid."""
    origins = settings.get("ws_server_allowed_origins")
    if origins != ["*"] and not (origins and all(_ORIGIN.match(str(origin)) for origin in origins)):
        yield (
            f"ws_server_allowed_origins is {origins}: list the origins of the web pages and apps that may connect as browsers "
            "send them, in lower case, without a path or wildcard, and with international names in their xn-- form, like "
            "https://chat.example.org or capacitor://localhost, or '*' alone for every page."
        )


def ws_server_settings(settings: Settings) -> Iterator[str]:
    """The service would accept its settings, and the times of a rollout are in bounds."""
    for name, setting in settings.get("_ws_server_settings").items():
        given = settings.get(f"ws_server_{name}", "")
        if setting["type"] == "array":
            yield from _bad_elements(name, setting, given)
        elif str(given) and not _is_allowed(setting, str(given)):
            yield _bad_value(name, setting, given)
    for name, (least, most) in settings.get("_ws_server_times").items():
        value = settings.text(f"ws_server_{name}")
        if not _is_number(value, least, most):
            yield f"ws_server_{name} is {value}: set it to a number of seconds from {least} to {most}."


def _bad_elements(name: str, setting: Mapping[str, Any], values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if "," in str(value) or not _is_allowed(setting["items"], str(value)):
            yield f"ws_server_{name} has '{value}': list {setting['wanted']}, without spaces, commas, quotes and backslashes."


def _bad_value(name: str, setting: Mapping[str, Any], value: Any) -> str:
    if "maximum" in setting:
        kind = "a whole number" if setting["type"] == "integer" else "a number"
        bounds = f"{kind} from {setting['minimum']} to {setting['maximum']}"
        return f"ws_server_{name} is {value}: set it to {bounds}, or leave it out for the service's own."
    choices = "" if "enum" in setting else ", without spaces, quotes and backslashes"
    return f"ws_server_{name} is '{value}': set it to {setting['wanted']}{choices}, or leave it out."


def _is_allowed(setting: Mapping[str, Any], value: str) -> bool:
    """Returns whether the service would accept the value, by the setting's JSON schema, and a settings file can hold it."""
    if "maximum" in setting:
        form = _WHOLE if setting["type"] == "integer" else _NUMBER
        return bool(form.match(value)) and setting["minimum"] <= float(value) <= setting["maximum"]
    if "enum" in setting:
        return value in setting["enum"]
    if setting.get("format") == "ipnetwork" and not _is_network(value):
        return False
    return bool(value and _IN_A_SETTINGS_FILE.match(value) and re.match(setting.get("pattern", ""), value))


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def ws_server_secrets(settings: Settings) -> Iterator[str]:
    """The secrets are long enough and fit into a settings file. No sentence shows a secret."""
    generated = ["ws_server_jwt_secret", "ws_server_api_key"]
    least = settings.get("_ws_server_secret_length")
    for name in generated:
        length = len(settings.text(name))
        if 0 < length < least:
            yield (
                f"{name} has {length} characters: use at least {least}, or leave it empty to have one generated and stored on the host."
            )
    for name in [*generated, "ws_server_redis_password", "ws_server_postgres_password"]:
        if not _SETTINGS_FILE.match(settings.text(name)):
            yield (
                f"{name} has a character that a settings file cannot hold: use printable ASCII without spaces, quotes and backslashes."
            )


def ws_server_api(settings: Settings) -> Iterator[str]:
    """The server API is not open to a whole network."""
    address = settings.text("ws_server_api_listen_address")
    allowed = _ADDRESS.match(address) and address not in ("0.0.0.0", "::")  # noqa: S104 - this refuses them
    if not allowed or not (re.match(r"^(127\.|::1$)", address) or settings.get("ws_server_api_clients", [])):
        yield (
            f"ws_server_api_listen_address is '{address}': set it to 127.0.0.1, or to one private address of this host with the "
            "addresses of its clients in ws_server_api_clients."
        )


def ws_server_drain(settings: Settings) -> Iterator[str]:
    """A drain has time for its window."""
    default = settings.get("_ws_server_settings")["drain_window_s"]["default"]
    timeout, window = settings.get("ws_server_drain_timeout_s"), settings.get("ws_server_drain_window_s", default)
    if number(timeout) <= number(window):
        yield (
            f"ws_server_drain_timeout_s is {timeout}, but a worker sends its clients away over {window} s: set it to some seconds more, "
            "or set ws_server_drain_window_s to less."
        )


def _is_number(value: str, least: float, most: float) -> bool:
    return bool(_NUMBER.match(value)) and least <= float(value) <= most


# Names.

# Variables of the inventory and the playbooks, and facts of roles, which no argument_specs.yml
# describes.
_BESIDES = {
    "ws_server_private_address",
    "ws_server_reason",
    "ws_server_endpoints",
    "ws_server_api_endpoints",
    "redis_endpoint",
    "postgres_endpoint",
    "alloy_otlp_endpoint",
    "vendor_packages_bare",
}
# Variables of other roles that differ from a variable of this collection in one letter.
_OTHERS = {"postgres_databases", "postgres_users"}
_OWN_PREFIXES = ("ws_server_", "vendor_packages_")
_PREFIXES = (
    "alloy_",
    "exporters_",
    "grafana_",
    "loki_",
    "nginx_",
    "postgres_",
    "prometheus_",
    "redis_",
    "sysctl_",
    "tempo_",
)


def names(settings: Settings) -> Iterator[str]:
    """No variable is misspelt.

    Only this collection has variables ws_server_… and vendor_packages_…, so each of these must be
    known. Other roles may use the other prefixes, as in nginx_user. A name with such a prefix is
    refused only if it differs from a known one in at most two letters and is not in `_OTHERS`.
    """
    known = sorted({*settings.documented(), *_BESIDES})
    for name in sorted(set(settings.names) - set(known) - _OTHERS):
        own = next((prefix for prefix in _OWN_PREFIXES if name.startswith(prefix)), None)
        if own:
            near = _closest(name, own, known)
        elif name.startswith(_PREFIXES):
            near = next((other for other in known if is_near(name, other)), None)
        else:
            continue
        if own or near:
            remedy = f"did you mean {near}?" if near else "correct its name, or remove it."
            yield f"{name} is not a variable of this collection: {remedy}"


def overridden(settings: Settings) -> Iterator[str]:
    """The inventory sets no variable that the playbooks set themselves."""
    for name in sorted(settings.overridden):
        remedy = (
            f"give it with -e {name}=…"
            if name.endswith("_group")
            else "remove it there, or use the role in a play of your own"
        )
        yield f"{name} of the inventory has no effect, because the playbooks set it (playbooks/vars/fleet.yml): {remedy}."


def _closest(name: str, prefix: str, known: list[str]) -> str | None:
    ends = [other.removeprefix(prefix) for other in known if other.startswith(prefix)]
    near = difflib.get_close_matches(name.removeprefix(prefix), ends, 1, 0.7)
    return prefix + near[0] if near else None


def is_near(one: str, other: str) -> bool:
    """Returns whether adding, removing or replacing at most two letters turns one name into the
    other.
    """
    if abs(len(one) - len(other)) > 2:
        return False
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], index
        for column, wanted in enumerate(other, 1):
            changed = diagonal + (letter != wanted)
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, changed)
    return row[-1] <= 2


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        groups,
        limit,
        roll_serial,
        lock_break,
        maintenance,
        host_system,
        address,
        host_room,
        ports,
        move,
        movable,
        stores,
        earlier_stores,
        observability_parts,
        names,
        overridden,
        alloy_purpose,
        nginx_names,
        nginx_api_clients,
        nginx_authority,
        nginx_certificate,
        postgres_clients,
        prometheus_mail,
        redis_files,
        sysctl_port_range,
        sysctl_reserved_ports,
        vendor_package,
        ws_server_origins,
        ws_server_settings,
        ws_server_secrets,
        ws_server_api,
        ws_server_drain,
    )
}
