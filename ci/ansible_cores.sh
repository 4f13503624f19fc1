#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Each ansible-core version in README and meta/runtime.yml reads every playbook and runs the
# preflight. The later versions need a Python that Debian 12 lacks, so all of them run on a Debian
# 13 host, which checks itself.
. "$(dirname "$0")/../lab/common.sh"

cores="2.19 2.20 2.21"
run=cores-$clone
host() {
    lab/lab ssh --run "$run" host "$@"
}
lab/lab down --run "$run"
trap 'lab/lab down --run "$run"' EXIT
lab/lab up --run "$run" --suite trixie host

# The control machine's collections: the dependencies in galaxy.yml, and this collection.
collections=$(python -c 'import ansible_collections; print(list(ansible_collections.__path__)[0])')
host 'apt-get -qq update && apt-get -qq install -y python3-venv >/dev/null && mkdir -p /root/ansible_collections/selfhost/websocket'
tar -C "$collections" -cz ansible/posix community/crypto community/general community/postgresql |
    host tar -C /root/ansible_collections -xz
git ls-files -z galaxy.yml meta playbooks plugins roles files | tar --null -T - -cz |
    host tar -C /root/ansible_collections/selfhost/websocket -xz
host 'cat >/root/inventory.json' <<JSON
{"all": {"vars": {"nginx_domain": "ws.example.org", "ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"},
  "children": {"ws_edge": {"hosts": {"one": {}}}, "ws_workers": {"hosts": {"one": {}}}, "ws_redis": {"hosts": {"one": {}}},
    "ws_postgres": {"hosts": {"one": {}}}, "ws_observability": {"hosts": {"one": {}}}}}}
JSON

for core in $cores; do
    echo "--- ansible-core $core"
    host sh -se "$core" <<'HOST'
core=$1
python3 -m venv "/root/$core"
"/root/$core/bin/pip" --quiet --disable-pip-version-check install "ansible-core==$core.*" cryptography
export PATH="/root/$core/bin:$PATH" ANSIBLE_COLLECTIONS_PATH=/root ANSIBLE_DEVEL_WARNING=false
ansible --version | head -1
cd /root/ansible_collections/selfhost/websocket/playbooks
for playbook in *.yml; do
    ansible-playbook -i /root/inventory.json --syntax-check "$playbook"
done
# With an unknown tag, only the checks run, because they always run.
ansible-playbook -i /root/inventory.json --check --tags preflight site.yml | tee /root/output
# No task failed, and the checks of the last role ran, too.
grep -q '^one .* changed=0 .* failed=0 ' /root/output
grep -q 'selfhost.websocket.alloy : ' /root/output
HOST
done
