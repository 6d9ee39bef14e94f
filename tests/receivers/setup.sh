#!/usr/bin/env bash
# Makes what the receivers of the tests need in the folder given, or in target/: venv/ for those in Python, node/ for those in
# JavaScript. Says nothing when all is well; does nothing when it is there already and the requirements have not changed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../../target}
mkdir -p "$folder"

# is_made FOLDER REQUIREMENTS: whether the folder was made from these.
is_made() { [ "$(cat "$1/made-from" 2>/dev/null)" = "$(sha256sum <"$2")" ]; }
made() { sha256sum <"$2" >"$1/made-from"; }

if ! is_made "$folder/venv" "$here/requirements.txt"; then
  rm -rf "$folder/venv"
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
  made "$folder/venv" "$here/requirements.txt"
fi

if ! is_made "$folder/node" "$here/package-lock.json"; then
  rm -rf "$folder/node"
  mkdir "$folder/node"
  cp "$here/package.json" "$here/package-lock.json" "$folder/node"
  npm ci --prefix "$folder/node" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
  made "$folder/node" "$here/package-lock.json"
fi
