#!/bin/sh
# Installs the bundle that this file lies in, without a network: ./install.sh [DIR], by default ~/stic.
# Each version gets a folder of its own in DIR/versions; DIR/bin links to the one that was installed last.
set -eu

fail() {
    echo "install.sh: $1" >&2
    exit "${2:-1}"
}

case "${1:-}" in
-h | --help)
    echo "usage: ./install.sh [DIR]    installs into DIR (default: $HOME/stic); PYTHON=... names the Python"
    exit 0
    ;;
-*) fail "unknown option $1; see ./install.sh --help" 2 ;;
esac

bundle=$(cd "$(dirname "$0")" && pwd)
target=${1:-$HOME/stic}
# shellcheck source=/dev/null
. "$bundle/bundle.env" # SIDE, VERSION, PYTHON_VERSION, PLATFORM

is_wanted() {
    "$1" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$PYTHON_VERSION" 2>/dev/null
}

python=${PYTHON:-}
if [ -n "$python" ]; then
    is_wanted "$python" || fail "$python is not a Python $PYTHON_VERSION, which this bundle was made for" 2
else
    for name in "python$PYTHON_VERSION" python3; do
        if is_wanted "$name"; then
            python=$name
            break
        fi
    done
fi
[ -n "$python" ] || fail "no Python $PYTHON_VERSION found; install it, or name it: PYTHON=/path/to/python ./install.sh" 2
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python lacks venv; on Debian and Ubuntu it is in the package python$PYTHON_VERSION-venv" 2

echo "checking the bundle's files ..."
(cd "$bundle" && sha256sum --check --quiet --strict SHA256SUMS) ||
    fail "the bundle is damaged or was changed: copy it again, and compare the archive's checksum" 3

mkdir -p "$target/versions" "$target/bin"
target=$(cd "$target" && pwd)
place=$target/versions/$VERSION
partial=$place.$$
trap 'exit 130' INT TERM

echo "installing stic-$SIDE $VERSION into $target ..."
# An environment knows its own path, so it is made where it stays; what was there before is kept until this one works.
if [ -e "$place" ]; then
    mv "$place" "$partial"
    trap 'rm -rf "$place"; mv "$partial" "$place"' EXIT
else
    trap 'rm -rf "$place"' EXIT
fi
"$python" -m venv "$place"
pip() {
    "$place/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --no-index --no-cache-dir "$@"
}
pip --find-links "$bundle/wheels" --only-binary :all: --require-hashes --requirement "$bundle/requirements.lock"
pip --no-deps "$bundle/wheels/stic_federated-$VERSION-py3-none-any.whl"
"$place/bin/stic-$SIDE" --version >/dev/null || fail "the program was installed, but does not start"
trap - EXIT
rm -rf "$partial"

ln -s "../versions/$VERSION/bin/stic-$SIDE" "$target/bin/.new.$$"
mv -f "$target/bin/.new.$$" "$target/bin/stic-$SIDE"
echo "done: $target/bin/stic-$SIDE"
