#!/usr/bin/env bash
# Print the objects in a PNG, one per line, or the reply as it is if jq is not installed. Needs curl. Set AUGU_URL and
# AUGU_TOKEN, and run `bash examples/objects.sh photo.png`. If the quota is used up or the service is busy, curl waits as
# Retry-After says. curl reads the token from its input, because every user of the machine can see its arguments.
set -euo pipefail

fail() {
    printf '%s\n' "$1" >&2
    exit 1
}

[ $# -eq 1 ] || fail 'Usage: bash examples/objects.sh photo.png'
[ -n "${AUGU_URL:-}" ] || fail 'Set AUGU_URL to the address of the service, such as http://127.0.0.1:8000.'
[ -n "${AUGU_TOKEN:-}" ] || fail 'Set AUGU_TOKEN to your token.'
[ -f "$1" ] && [ -r "$1" ] || fail "$1 is not a file that can be read."
command -v curl > /dev/null || fail 'Install curl.'

OBJECTS='.data.objects[] | "\(.name) \(.score) \(.x) \(.y) \(.width) \(.height)"'
FAILURE='"\(.error): \(.message)\(.details // {} | [to_entries[] | " \(.key): \(.value | join(" "))"] | join(";"))"'

reply=$(mktemp)
trap 'rm -f "$reply"' EXIT
status=$(
    printf 'header = "Authorization: Bearer %s"\n' "$AUGU_TOKEN" |
        curl --config - --silent --show-error --max-time 120 --retry 3 --retry-max-time 90 \
            --header 'Content-Type: image/png' --data-binary "@$1" \
            --output "$reply" --write-out '%{http_code}' "$AUGU_URL/images/classify/objects"
)
if [ "$status" = 200 ]; then
    if command -v jq > /dev/null; then jq -r "$OBJECTS" "$reply"; else cat "$reply"; fi
else
    said=$(jq -r "$FAILURE" "$reply" 2> /dev/null || head -c 1000 "$reply")
    fail "$status $said"
fi
