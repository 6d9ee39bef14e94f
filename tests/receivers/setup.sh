#!/usr/bin/env bash
# Makes the virtual environment of the Python receivers in the folder given, or in target/venv. Says nothing when all is
# well; does nothing when it is there already and the requirements have not changed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../../target/venv}
wanted=$(sha256sum <"$here/requirements.txt")
[ "$(cat "$folder/made-from" 2>/dev/null)" = "$wanted" ] && exit 0
rm -rf "$folder"
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
printf '%s\n' "$wanted" >"$folder/made-from"
