#!/usr/bin/env bash
# Makes what the tests need in the folder given, or in target/: venv/ for the receivers and clients in Python, node/ for those in
# JavaScript; or, when it is named, openapi/ for checking the API's description, proxies/ with nginx and Caddy, or faketime/ with the
# library that lies about the time, where they are not installed. Says nothing when all is well; does nothing when it is there already and the requirements have not changed.
#
#   setup.sh [FOLDER [openapi|proxies|faketime]]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../../target}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# is_made FOLDER REQUIREMENTS: whether the folder was made from these.
is_made() { [ "$(cat "$1/made-from" 2>/dev/null)" = "$(sha256sum <"$2")" ]; }
made() { sha256sum <"$2" >"$1/made-from"; }

# python FOLDER REQUIREMENTS: a virtual environment with these packages.
python() {
  is_made "$1" "$2" && return
  rm -rf "$1"
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2" >&2
  made "$1" "$2"
}

if [ "${2:-}" = openapi ]; then
  python "$folder/openapi" "$here/../openapi/requirements.txt"
  exit
fi

# unpacked PACKAGE FOLDER: from Debian's archive. Not installed: the packages of proxies would start them, on ports 80 and 443.
unpacked() {
  local new
  mkdir -p "$2"
  new=$(mktemp -d "$2/new.XXXXXX")
  # On a fresh machine apt knows of no packages yet.
  (cd "$new" && apt-get download -qq -o APT::Sandbox::User=root "$1" >&2) \
    || (cd "$new" && apt-get update -qq >&2 && apt-get download -qq -o APT::Sandbox::User=root "$1" >&2)
  dpkg-deb --extract "$new"/*.deb "$2"
  rm -rf "$new"
}

# proxy PROGRAM
proxy() {
  PATH=$folder/proxies/usr/bin:$folder/proxies/usr/sbin:$PATH:/usr/sbin command -v "$1" >/dev/null \
    || unpacked "$1" "$folder/proxies"
}

if [ "${2:-}" = faketime ]; then
  compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null \
    || compgen -G "$folder/faketime/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null \
    || unpacked libfaketime "$folder/faketime"
  exit
fi

if [ "${2:-}" = proxies ]; then
  proxy nginx
  proxy caddy
  exit
fi

python "$folder/venv" "$here/requirements.txt"

if ! is_made "$folder/node" "$here/package-lock.json"; then
  rm -rf "$folder/node"
  mkdir "$folder/node"
  cp "$here/package.json" "$here/package-lock.json" "$folder/node"
  npm ci --prefix "$folder/node" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
  made "$folder/node" "$here/package-lock.json"
fi
