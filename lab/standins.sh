#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Builds packages that stand in for Grafana, Loki, Tempo and Alloy, which the lab cannot download,
# in .lab/standins. Also builds a signed apt repository of them in .lab/standins/repository, with
# its key beside it.
. "$(dirname "$0")/common.sh"

version=0+standin1
target=$PWD/.lab/standins
mark=$target/$(cat lab/standins/* lab/standins.sh | sha256sum | cut -c1-16)
[ ! -e "$mark" ] || exit 0
mkdir -p .lab
draft=$(mktemp -d "$PWD/.lab/standins.XXXXXX")
trap 'rm -rf "$draft"' EXIT
chmod 755 "$draft"

package() { # NAME PROGRAM UNIT [ENVIRONMENT [DEPENDENCY]]
    local root=$draft/build/$1
    install -D -m 755 lab/standins/standin.py "$root$2"
    install -d "$root/DEBIAN" "$root/lib/systemd/system" "$root/etc/$1"
    cat >"$root/DEBIAN/control" <<END
Package: $1
Version: $version
Architecture: all
Maintainer: the selfhost.websocket authors <nobody@localhost>
Depends: python3, adduser${5:+, $5}
Description: stand-in for $1, for the lab of selfhost.websocket
 This is not $1. It replaces $1 where $1 is unavailable.
END
    # Like the real packages: a separate user, and for Loki and Tempo a service that starts at once.
    cat >"$root/DEBIAN/postinst" <<END
#!/bin/sh
set -e
[ "\$1" = configure ] || exit 0
adduser --quiet --system --group --home /var/lib/$1 --shell /usr/sbin/nologin $1
systemctl daemon-reload || :
case $1 in loki | tempo) systemctl enable --quiet $3 || :; systemctl restart $3 || : ;; esac
END
    chmod 755 "$root/DEBIAN/postinst"
    cat >"$root/lib/systemd/system/$3.service" <<END
[Unit]
Description=Stand-in for $1

[Service]
User=$1
${4:+EnvironmentFile=$4}
ExecStart=$2
Restart=on-failure

[Install]
WantedBy=multi-user.target
END
    if [ -n "${4:-}" ]; then
        install -d "$root/etc/default"
        echo CONF_FILE=/etc/grafana/grafana.ini >"$root$4"
    fi
    dpkg-deb --root-owner-group --build "$root" "$draft/$1.deb" >/dev/null
}
package grafana /usr/sbin/grafana-server grafana-server /etc/default/grafana-server
package loki /usr/bin/loki loki
package tempo /usr/bin/tempo tempo
package alloy /usr/bin/alloy alloy "" python3-snappy

repository=$draft/repository
binary=dists/stable/main/binary-$(dpkg --print-architecture)
install -d "$repository/pool" "$repository/$binary"
cp "$draft"/*.deb "$repository/pool"
(
    cd "$repository"
    for deb in pool/*.deb; do
        dpkg-deb --field "$deb"
        printf 'Filename: %s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
    done >"$binary/Packages"
    cd dists/stable
    packages=${binary#dists/stable/}/Packages
    printf 'Origin: stand-ins\nSuite: stable\nCodename: stable\nComponents: main\nArchitectures: %s\nDate: %s\nSHA256:\n %s %s %s\n' \
        "$(dpkg --print-architecture)" "$(LC_ALL=C date -Ru)" "$(sha256sum "$packages" | cut -d' ' -f1)" "$(stat -c %s "$packages")" "$packages" >Release
    export GNUPGHOME=$draft/gnupg
    install -d -m 700 "$GNUPGHOME"
    gpg --batch --quiet --passphrase '' --quick-generate-key 'Stand-ins of the lab' ed25519 sign never
    gpg --batch --quiet --clearsign --output InRelease Release
    gpg --batch --quiet --armor --export >"$draft/key.asc"
    gpg --batch --with-colons --list-keys | sed -n '/^pub:/,/^fpr:/s/^fpr:::::::::\([0-9A-F]*\):.*/\1/p' >"$draft/fingerprint"
    gpgconf --kill gpg-agent
)
rm -r "$draft/build" "$draft/gnupg"
touch "$draft/${mark##*/}"
rm -rf "$target"
mv "$draft" "$target"
trap - EXIT
