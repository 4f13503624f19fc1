#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# changelog.sh [--check]: writes CHANGELOG.md from changelogs/fragments, or checks that the file is
# up to date. The fragments stay: they become a release in changelogs/changelog.yaml when the
# version is tagged.
. "$(dirname "$0")/../lab/common.sh"

# The copy has no plugins, because antsibull-changelog would start Ansible to list them.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R galaxy.yml changelogs "$copy"
version=$(sed -n 's/^version: //p' galaxy.yml)
(
    cd "$copy"
    antsibull-changelog lint
    antsibull-changelog release --version "$version" --date 2000-01-01 >/dev/null
)
if [ "${1-}" = --check ]; then
    diff -u CHANGELOG.md "$copy/CHANGELOG.md" >&2 || { echo "CHANGELOG.md is out of date: run tools/changelog.sh" >&2; exit 1; }
else
    cp "$copy/CHANGELOG.md" CHANGELOG.md
fi
