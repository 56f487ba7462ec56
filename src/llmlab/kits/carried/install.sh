#!/bin/sh
# Sets up llmlab from this folder alone, without a network.
# On a stick that nobody may run programs from: sh install.sh
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
if ! command -v python3 >/dev/null 2>&1; then
  echo "There is no python3 on this machine. Install Python first (the kit's README.txt says which)." >&2
  exit 1
fi
exec python3 "$here/install.py" "$@"
