#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# ansible-test sanity on the collection as an operator installs it: built and unpacked, without
# environments and caches.
. "$(dirname "$0")/../lab/common.sh"

# ansible-test creates environments for its tools in HOME, which are kept outside the clone for
# later runs. Each run uses the first HOME that no other run has locked. After a killed run,
# ansible-test replaces an incomplete environment.
number=0
while :; do
    home=${XDG_CACHE_HOME:-$HOME/.cache}/ws-lint/sanity/$number
    mkdir -p "$home/.ansible/test/cache" "$home/.config/pip"
    exec 9>"$home/lock"
    if flock -n 9; then break; fi
    number=$((number + 1))
done
# ansible-test would download a script to install pip into an environment, but Python includes pip.
cp ci/get_pip.py "$home/.ansible/test/cache/get_pip_24_2.py"
printf '[global]\nquiet = 2\ndisable-pip-version-check = true\n' >"$home/.config/pip/pip.conf"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
ansible-galaxy collection build --output-path "$copy" >/dev/null
collection=$copy/ansible_collections/selfhost/websocket
mkdir -p "$collection"
tar -xzf "$copy"/selfhost-websocket-*.tar.gz -C "$collection"

# Only the environment's Python is used: another python3.N on the machine may be of any kind.
version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$collection"
# The command inherits the lock, so that it keeps the environments even if this script is killed.
HOME=$home ansible-test sanity --local --python "$version" --color no
