#!/usr/bin/env bash
# bash run.sh ["TEXT"] [FACE_IMAGE ...]: set up once, then make an avatar under out/.
set -euo pipefail
text="${1:-A woman in a red satin dress}"
faces=()
for face in "${@:2}"; do
    [ "${face#/}" != "$face" ] || face="$PWD/$face" # relative to where the user is, not to this script
    faces+=("$face")
done
face="${faces[0]-}"
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tools/setup.sh
. tools/setup.sh
setup "" || { echo "error: the set-up failed; run this again to repair it" >&2; exit 1; }

slug="$(printf '%s' "$text ${face:+$(basename "${face%.*}")}" | LC_ALL=C tr '[:upper:]' '[:lower:]' |
    LC_ALL=C tr -cs 'a-z0-9' '-' | cut -c1-60)"
slug="${slug#-}" && slug="${slug%-}"
base="out/${slug:-avatar}" out="" number=1 again=()
while out="$base$([ "$number" = 1 ] || echo "-$number")" && [ -n "$(ls -A "$out" 2>/dev/null)" ]; do
    # report.json is written last: a run without one was stopped, and goes on.
    if [ ! -e "$out/report.json" ] && [ -d "$out/checkpoints" ]; then
        echo "$out was not finished: continuing it"
        again=(--resume)
        break
    fi
    echo "$out is there already: leaving it as it is"
    number=$((number + 1))
done
exec .venv/bin/specularip generate "$text" --image "${faces[@]:-examples/eileen_collins.jpg}" --out "$out" \
    ${again[@]+"${again[@]}"}
