#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# ansible-test sanity on what an operator would install: built and unpacked, free of environments
# and caches.
. "$(dirname "$0")/../lab/common.sh"

# ansible-test makes environments for its tools in HOME. They are kept from run to run, outside of
# the clone. A run has a HOME to itself: the first that no other run has locked. After a killed run,
# ansible-test replaces an environment that is not complete.
number=0
while :; do
    home=${XDG_CACHE_HOME:-$HOME/.cache}/ws-lint/sanity/$number
    mkdir -p "$home/.ansible/test/cache" "$home/.config/pip"
    exec 9>"$home/lock"
    if flock -n 9; then break; fi
    number=$((number + 1))
done
# ansible-test fetches a script to put pip into an environment. Python has pip with it.
cp ci/get_pip.py "$home/.ansible/test/cache/get_pip_24_2.py"
printf '[global]\nquiet = 2\ndisable-pip-version-check = true\n' >"$home/.config/pip/pip.conf"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
ansible-galaxy collection build --output-path "$copy" >/dev/null
collection=$copy/ansible_collections/selfhost/websocket
mkdir -p "$collection"
tar -xzf "$copy"/selfhost-websocket-*.tar.gz -C "$collection"

# One Python, the environment's: what else is called python3.N on a machine may be anything.
version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$collection"
# Inherits the lock: the environments stay its own, also after this script was killed.
HOME=$home ansible-test sanity --local --python "$version" --color no
