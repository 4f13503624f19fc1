#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# ansible-test sanity on what an operator would install: built and unpacked, free of environments and caches.
. "$(dirname "$0")/../lab/common.sh"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
ansible-galaxy collection build --output-path "$copy" >/dev/null
collection=$copy/ansible_collections/selfhost/websocket
mkdir -p "$collection"
tar -xzf "$copy"/selfhost-websocket-*.tar.gz -C "$collection"

# ansible-test makes environments for its tools and fetches a script to put pip into them. Python has pip with it.
mkdir -p "$copy/home/.ansible/test/cache"
cp ci/get_pip.py "$copy/home/.ansible/test/cache/get_pip_24_2.py"
mkdir -p "$copy/home/.config/pip"
printf '[global]\nquiet = 2\ndisable-pip-version-check = true\n' >"$copy/home/.config/pip/pip.conf"

# One Python, the environment's: what else is called python3.N on a machine may be anything.
version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$collection"
HOME=$copy/home ansible-test sanity --local --python "$version" --color no
