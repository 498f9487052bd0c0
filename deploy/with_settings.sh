#!/bin/sh
# Run COMMAND with the project's Prefect settings; fail if they would let others in.
#   sh deploy/with_settings.sh COMMAND...
set -eu
address="${PREFECT_API_URL:-}" # of a remote server; the settings name the one on this machine
settings="$(python -m flows.runtime.settings)"
eval "$settings"
if [ -n "$address" ]; then export PREFECT_API_URL="$address"; fi
exec "$@"
