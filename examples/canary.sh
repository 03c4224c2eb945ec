#!/usr/bin/env bash
# A second version of an adapter gets a fifth of the traffic, is watched, and is promoted or rolled back.
#
#     make serve                          # in another terminal
#     export MULTIFLORA_API_KEY=mf-...    # what it printed
#     examples/canary.sh                  # or: examples/canary.sh STABLE_FOLDER CANDIDATE_FOLDER
#
# Without a candidate the stable adapter with a slightly smaller alpha stands in for one that was trained again.
# BOUNDS="--max-p95-seconds 0.001" examples/canary.sh shows a candidate that the server takes back by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
url=${MULTIFLORA_URL:-http://127.0.0.1:8000}
name=canary-demo
stable=${1:-examples/demo/adapters/sql}
read -ra bounds <<<"${BOUNDS:---max-error-rate 0.05}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"; multiflora adapters rm "$name" >/dev/null 2>&1 || true' EXIT

candidate=${2:-$scratch/candidate}
if [ $# -lt 2 ]; then
  cp -r "$stable" "$candidate"
  sed -i.before 's/"lora_alpha": 32,/"lora_alpha": 31,/' "$candidate/adapter_config.json"
  rm "$candidate/adapter_config.json.before"
fi

echo "== version 1 is served, version 2 is registered beside it"
multiflora adapters add "$name" "$stable" >/dev/null
multiflora adapters add "$name" "$candidate" --about "trained again"

echo "== a fifth of the users get version 2, until it leaves its bounds: ${bounds[*]}"
multiflora adapters rollout start "$name" default 2 --percent 20 --min-samples 5 "${bounds[@]}" >/dev/null

echo "== traffic of 80 users; each stays on the version that its name has drawn"
for user in $(seq 80); do
  curl -sf "$url/v1/chat/completions" -H "Authorization: Bearer $MULTIFLORA_API_KEY" \
    -H 'Content-Type: application/json' -o /dev/null -d "{\"model\": \"$name\", \"user\": \"user-$user\",
      \"temperature\": 0, \"max_tokens\": 24, \"messages\": [{\"role\": \"user\", \"content\": \"Show the name of all products.\"}]}"
done

echo "== what was observed"
multiflora adapters rollout show "$name" default | tee "$scratch/rollout"
state=$(awk '$1 == "state" {print $2}' "$scratch/rollout")

if [ "$state" = running ]; then
  echo "== still within its bounds: promoted"
  multiflora adapters rollout promote "$name" default >/dev/null
else
  echo "== the server has ended it ($state): version 1 serves everything again"
fi
multiflora adapters show "$name"
