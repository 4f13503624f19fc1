#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# build-release.sh SOURCE RELEASE VERSION ENVIRONMENT: builds a release of the service on top of its
# environment.
#
# The environment HOME/environments/ENVIRONMENT has the locked dependencies, and in tools/ the
# packages that build a wheel. Its name stands for the lock files, the interpreter and the
# architecture. Releases share the environment, so that a new release with the same requirements
# needs no network. A release HOME/releases/VERSION is a virtual environment with the service alone.
# Its link `environment` points at the dependencies, and a .pth file adds them to Python's path
# through that link, so the worker's unit needs no variable.
#
# Virtual environments cannot be moved, so each is built in its final place. The file .complete is
# written last: after an interrupted build, the next build starts over.
set -eu
umask 022 # all users may read a release, whatever umask root has

source=$1 release=$2 version=$3 name=$4
environment=$(dirname "$(dirname "$release")")/environments/$name
# The versioned name pins the interpreter: a release keeps it while its package is installed, even
# if python3 becomes another version.
interpreter=$(readlink -f /usr/bin/python3)
python=${interpreter##*/}
packages=lib/$python/site-packages
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

pip() {
    "$environment/tools/bin/python" -m pip --quiet "$@"
}
finish() {
    sync -f "$1" # after a power loss, the mark must not exist without the files
    touch "$1/.complete"
}

if [ ! -e "$environment/.complete" ]; then
    rm -rf "$environment"
    "$interpreter" -m venv "$environment/tools"
    pip install --require-hashes --only-binary :all: --requirement "$source/requirements-build.txt"
    "$interpreter" -m venv --without-pip "$environment"
    pip --python "$environment/bin/python" install --no-compile --require-hashes --only-binary :all: --requirement "$source/requirements.txt"
    "$environment/bin/python" -m compileall -q "$environment/$packages"
    finish "$environment"
fi

# The worker reports the release's version, including the digest.
sed -i "s/^__version__.*=.*/__version__ = \"$version\"/" "$source/src/wsserver/__init__.py"
pip wheel --no-build-isolation --no-deps --no-index --wheel-dir "$source/wheel" "$source"

# A release that was built for another interpreter is rebuilt in its place. lib/ keeps the files of
# the other interpreter, because workers that run load modules from there until they are replaced.
rm -rf "$release/.complete" "${release:?}/bin" "${release:?}/$packages"
"$interpreter" -m venv --without-pip "$release" # no pip: nothing is ever installed into it again
ln -sfn "../../environments/$name" "$release/environment"
echo "../../../environment/$packages" >"$release/$packages/environment.pth"
pip --python "$release/bin/python" install --no-compile --no-deps --no-index "$source"/wheel/*.whl
"$release/bin/python" -m compileall -q "$release/$packages"

case "$("$release/bin/ws-server" --version)" in
*"$version"*) ;;
*)
    echo "The new release does not report $version as its version." >&2
    exit 1
    ;;
esac
finish "$release"
