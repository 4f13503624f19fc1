#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Tests a host that already has a site in nginx, keys in Redis and a database in Postgres: site.yml refuses the host and changes
# nothing. With `foreign.sh long`, site.yml then deploys the fleet beside these services, which continue to serve. On a second such
# host, the fleet takes over, and the documented commands give the host back. Postgres listens on another port than usual.
. "$(dirname "$0")/../lab/common.sh"

run=foreign-$clone
fleet=$PWD/.lab/foreign
hosts=(beside)
[ "${1:-}" = long ] && hosts+=(taken)

lab/lab down --run "$run"
[ "${1:-}" = clear ] && exit
trap 'lab/lab down --run "$run"' EXIT
lab/lab up --run "$run" ${SUITE:+--suite "$SUITE"} "${hosts[@]}"

on() { # HOST COMMAND
    lab/lab ssh --run "$run" "$@"
}
choose() { # HOST: the host that the following steps are about
    host=$1
    lab/inventory --run "$run" --directory "$fleet" "$host=ws_edge,ws_workers,ws_redis,ws_postgres"
    address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["hosts"][sys.argv[2]]["address"])' "$fleet/status.json" "$host")
}
prepare() {
    on "$host" sh -s <<'PREPARE'
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y nginx redis-server postgresql >/dev/null 2>&1
printf 'server {\n    listen 80;\n    server_name shop.example.org;\n    return 200 "the shop\\n";\n}\n' >/etc/nginx/sites-enabled/shop
systemctl reload nginx
redis-cli set shop:1 apples
redis-cli save
runuser -u postgres -- psql -qc "CREATE ROLE shop LOGIN PASSWORD 'apples'" -c "CREATE DATABASE shop OWNER shop"
runuser -u postgres -- psql -q shop -c "CREATE TABLE goods (name text)" -c "INSERT INTO goods VALUES ('apples')"
etc=$(echo /etc/postgresql/*/main)
echo "host shop shop 127.0.0.1/32 md5 # the shop" >>"$etc/pg_hba.conf"
printf "listen_addresses = '*'\nport = 5433\n" >"$etc/conf.d/shop.conf"
systemctl restart postgresql
PREPARE
}
state() { # the host's settings, units and users, and which processes serve
    on "$host" sh -s <<'STATE'
find /etc /usr/local /opt -type f -exec sha256sum {} + | sort -k 2
for unit in nginx redis-server "postgresql@$(basename /etc/postgresql/*)-main"; do
    systemctl show --property=Id --property=MainPID "$unit"
done
STATE
}
serves() { # the site, the keys, the database, as their users reach them
    [ "$(curl -fsS --noproxy '*' -H 'Host: shop.example.org' "http://$address/")" = "the shop" ]
    [ "$(on "$host" redis-cli get shop:1)" = apples ]
    [ "$(on "$host" "psql -tAc 'SHOW listen_addresses' postgresql://shop:apples@127.0.0.1:5433/shop")" = "*" ]
}
site() { # LOG [OPTION…]
    ansible-playbook -i "$fleet/inventory" playbooks/site.yml "${@:2}" | tee "$fleet/$1"
}
converses() {
    on "$host" cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
    (
        cd tests/fleet
        # Other sites may need TLS 1.2, and nginx takes the versions of a port from its default server, which is the edge's.
        WS_FLEET_STATUS=$fleet/status.json pytest -q test_conversation.py -k "not test_no_tls_before_1_3"
    )
}

choose beside
prepare
serves

echo "--- refused"
state >"$fleet/before"
choices=()
refused() { # LOG WORD: site.yml with the choices made so far names the next choice, and changes nothing
    if site "$1" "${choices[@]}"; then
        echo "site.yml deployed over a service of the host" >&2
        exit 1
    fi
    grep -q "$2" "$fleet/$1"
    grep -q "$host .* changed=0 " "$fleet/$1"
    state | diff "$fleet/before" -
}
refused nginx nginx_keep_sites
choices+=(-e nginx_keep_sites=true)
refused redis redis_instance
choices+=(-e redis_instance=ws -e redis_port=6380)
refused postgres postgres_shared
choices+=(-e postgres_shared=true)
serves
[ "${1:-}" = long ] || exit 0

echo "--- two clusters"
on "$host" "pg_createcluster \$(ls /etc/postgresql) second >/dev/null"
state >"$fleet/before"
refused clusters 'has the Postgres clusters .*/main and .*/second'
on "$host" "pg_dropcluster \$(ls /etc/postgresql) second"
state >"$fleet/before"

echo "--- beside them"
choices+=(-e ws_server_instances=2 -e ws_server_user=chat)
site deployed "${choices[@]}"
serves
# None of the three was restarted, and no file of theirs has changed but pg_hba.conf and pg_ident.conf, which have one block more.
state | grep -E 'MainPID|Id=' | diff <(grep -E 'MainPID|Id=' "$fleet/before") -
state | diff "$fleet/before" - | grep '^<' | grep -vE ' /etc/(nginx/(nginx.conf|sites-(available|enabled)/default)|postgresql/[0-9]+/main/pg_(hba|ident).conf|(passwd|group|g?shadow|subuid|subgid)-?|ld.so.cache|mailcap)$' &&
    exit 1
on "$host" 'grep -q "the shop" /etc/postgresql/*/main/pg_hba.conf'
on "$host" pgrep --uid chat --full ws-server
converses

echo "--- again"
site again "${choices[@]}"
grep -q "$host .* changed=0 " "$fleet/again"
serves

echo "--- taken over"
choose taken
prepare
on "$host" sh -s <<'TUNE'
set -e
sed -i 's/^http {/http {\n    server_names_hash_bucket_size 128;/' /etc/nginx/nginx.conf
systemctl reload nginx
echo 'maxclients 500' >>/etc/redis/redis.conf
systemctl restart redis-server
mkdir /root/before
cp --parents /etc/nginx/nginx.conf /etc/redis/redis.conf /etc/postgresql/*/main/pg_hba.conf /etc/postgresql/*/main/pg_ident.conf /root/before
TUNE
serves
copies() { # one copy of each replaced file
    on "$host" sh -s <<'COPIES'
set -e
cd /root/before
find etc -type f | while read -r file; do
    set -- "/$file".*~
    [ $# = 1 ]
    cmp "$file" "$1"
done
COPIES
}
documented() { # ROLE: the commands of its README that restore the copies
    sed -n '/restore the cop/,/^-/s/^ \{6,\}//p' "roles/$1/README.md"
}
choices=(-e nginx_take_over=true -e redis_take_over=true -e postgres_take_over=true -e ws_server_instances=2)
state >"$fleet/before"
refused snapshot 'CONFIG SET appendonly yes' # what the next step does
on "$host" sh -s <<'CARRY'
set -e
redis-cli config set appendonly yes
until redis-cli info persistence | grep -q 'aof_rewrite_in_progress:0'; do sleep 0.1; done
CARRY
site taken-over "${choices[@]}"
converses
# nginx no longer serves the site. Its file, the keys, the other database and a copy of each replaced file stay.
copies
on "$host" sh -s <<'KEPT'
set -ex
grep -q 'the shop' /etc/nginx/sites-enabled/shop
test "$(REDISCLI_AUTH=$(cat /etc/redis/admin-password) redis-cli --user admin get shop:1)" = apples
test "$(psql -U postgres -tAc 'SELECT name FROM goods' shop)" = apples
KEPT
site taken-over-again "${choices[@]}"
grep -q "$host .* changed=0 " "$fleet/taken-over-again"
copies

echo "--- given back"
{
    echo set -ex
    for role in nginx redis postgres; do
        documented "$role"
    done
} >"$fleet/restore"
[ "$(wc -l <"$fleet/restore")" = 10 ]
on "$host" sh -s <"$fleet/restore"
on "$host" 'until pg_isready --quiet --port=5433 && redis-cli ping >/dev/null; do sleep 0.1; done'
serves
