#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Prepares a Debian machine for the verbs: installs missing Debian packages, and .venv from
# requirements/dev.txt. Further Debian packages may be named, such as the benchmark's:
# prerequisites.sh [PACKAGE…]
# A second run finds everything in place and ends at once. The next run completes a killed run.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
    git make python3-venv openssh-client              # the verbs themselves
    iproute2 mmdebstrap nftables systemd-container    # the lab
    nginx postgresql pgbouncer redis-server           # unit tests run a real one of each, on a socket of their own
    prometheus prometheus-alertmanager                 # promtool tests the alerts
    gpg gpg-agent                                     # the repository of the stand-ins is signed
    nodejs php-cli                                    # tests run the recipes of docs/auth.md
    chromium                                          # tests run the JavaScript client
    curl                                              # tests run the command that ws-server dev prints
    shellcheck                                        # lint
    "$@"
)

stop() {
    echo "$*" >&2
    exit 2
}

[ "$(id -u)" = 0 ] || stop "This needs root: it installs Debian packages and boots test hosts. Run it again with sudo."
# shellcheck source=/dev/null
. /etc/os-release
case "${ID:-unknown} ${VERSION_ID:-}" in
"debian 12" | "debian 13") ;;
*) stop "This needs Debian 12 or 13 on the control machine, and this is ${PRETTY_NAME:-an unknown system}." ;;
esac

mkdir -p .lab
exec 9>.lab/prerequisites.lock
flock 9

# apt starts and enables a server at once, which is not wanted on this machine.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d unit
    local before after
    before=$({ systemctl list-unit-files --state=enabled --type=service --no-legend 2>/dev/null || true; } | awk '{print $1}' | sort)
    if [ ! -e "$policy" ]; then
        # A marker identifies the lab's own policy, so that the policy of a killed run is removed,
        # too.
        printf '#!/bin/sh\n# selfhost.websocket lab\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    trap 'if grep -q "selfhost.websocket lab" '"$policy"' 2>/dev/null; then rm -f '"$policy"'; fi' EXIT
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300 update >/dev/null
    apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends -y "$@" >.lab/apt.log 2>&1 || {
        tail -n 20 .lab/apt.log >&2
        stop "apt-get could not install: $*"
    }
    after=$({ systemctl list-unit-files --state=enabled --type=service --no-legend 2>/dev/null || true; } | awk '{print $1}' | sort)
    for unit in $(comm -13 <(echo "$before") <(echo "$after")); do
        systemctl disable --quiet "$unit" 2>/dev/null
    done
}

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "Installing Debian packages: ${missing[*]}"
    install_quietly "${missing[@]}"
fi

lab/environment.sh
