#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# build-release.sh SOURCE RELEASE VERSION: builds the service's wheel and installs it with its locked dependencies.
#
# A virtual environment cannot be moved, so it is made where it stays. What makes it a release is the file .complete, written
# last: a run that was killed leaves none, and the next begins anew.
set -eu
umask 022 # all may read a release, whatever umask root has

source=$1 release=$2 version=$3
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

pip() {
    "$source/venv/bin/pip" --quiet "$@"
}
into_release() {
    pip --python "$release/bin/python" install --no-compile "$@"
}

rm -rf "$release"
python3 -m venv "$source/venv"

# The worker shall report the release's version, digest and all.
sed -i "s/^__version__.*=.*/__version__ = \"$version\"/" "$source/src/wsserver/__init__.py"

pip install --require-hashes --only-binary :all: --requirement "$source/requirements-build.txt"
pip wheel --no-build-isolation --no-deps --no-index --wheel-dir "$source/wheel" "$source"

# No pip in the release: nothing is ever installed into it again.
python3 -m venv --without-pip "$release"
into_release --require-hashes --only-binary :all: --requirement "$source/requirements.txt"
into_release --no-deps --no-index "$source"/wheel/*.whl
"$release/bin/python" -m compileall -q "$release/lib"

case "$("$release/bin/ws-server" --version)" in
*"$version"*) ;;
*)
    echo "The new release does not say that it is $version." >&2
    exit 1
    ;;
esac
sync -f "$release" # a power loss shall not leave the mark without the rest
touch "$release/.complete"
