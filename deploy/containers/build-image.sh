#!/bin/sh
# Builds the image of the unpacked bundle that this file lies in: ./build-image.sh BASE@sha256:DIGEST
set -eu

fail() {
    echo "build-image.sh: $1" >&2
    exit "${2:-1}"
}

usage="usage: ./build-image.sh BASE
    BASE is an image with the bundle's Python and venv, named with its digest, such as
    docker.io/library/python:3.11-slim-bookworm@sha256:..., or one of this machine, localhost/NAME.
    ENGINE=podman, buildah or docker names the program; TAG=... the image."

case "${1:-}" in
-h | --help)
    echo "$usage"
    exit 0
    ;;
"") fail "no base image was given
$usage" 2 ;;
*@sha256:* | localhost/*) base=$1 ;;
*) fail "the base image has no digest: got $1, expected $1@sha256:...; docs/deploy.md says how to find it" 2 ;;
esac

bundle=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=/dev/null
. "$bundle/bundle.env" # SIDE, VERSION, REVISION, ACCELERATOR

engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for name in podman buildah docker; do
        if command -v "$name" >/dev/null; then
            engine=$name
            break
        fi
    done
fi
tag=${TAG:-localhost/stic-$SIDE:$VERSION-$ACCELERATOR}

set -- --build-arg "BASE=$base" --build-arg "VERSION=$VERSION" --build-arg "REVISION=$REVISION" \
    --file "$bundle/Containerfile" --tag "$tag" "$bundle"
case "$engine" in
# OCI's own format has no health check; without --layers=false each line of the file is stored, gigabytes each.
podman) podman build --format docker --layers=false ${ISOLATION:+--isolation "$ISOLATION"} "$@" ;;
buildah) buildah build --format docker --layers=false "$@" ;;
docker) docker build "$@" ;;
"") fail "no podman, buildah or docker found; install one of them" 2 ;;
*) fail "unknown ENGINE: got $engine, expected podman, buildah or docker" 2 ;;
esac
echo "done: $tag"
