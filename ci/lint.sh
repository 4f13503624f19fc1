#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The linters, all of them, and then what they found.
"$(dirname "$0")/../lab/prerequisites.sh" || exit
. "$(dirname "$0")/../lab/common.sh"

failed=()
check() {
    local name=$1 begin=$SECONDS
    shift
    echo "--- $name"
    "$@" || failed+=("$name")
    echo "    $((SECONDS - begin)) s"
}

javascript() {
    local file status=0
    while read -r file; do
        node --check --input-type=module <"$file" || { status=1; echo "in $file" >&2; }
    done < <(git ls-files '*.js' '*.mjs')
    return $status
}

check ruff ruff check .
check "ruff format" ruff format --check .
check mypy env --chdir=files/wsserver mypy --strict src
check yamllint yamllint --strict .
check shellcheck shellcheck roles/*/files/*.sh ci/*.sh lab/*.sh lab/labhosts/*.sh bench/*.sh .ci/run
check "node --check" javascript
check ansible-lint ansible-lint --offline
check antsibull-changelog antsibull-changelog lint
check "ansible-test sanity" ci/sanity.sh

if [ ${#failed[@]} -gt 0 ]; then
    echo "Not clean: $(IFS=,; echo "${failed[*]}")" >&2
    exit 1
fi
