#!/usr/bin/env bash
# Copies the manifests and configuration files to FOLDER and replaces the words in capitals with your values:
#   infra/fill_in.sh FOLDER BUCKET=my-models REGION=eu-central-1 ACCOUNT=123456789012 VERSION=1.0.0 FILE_SYSTEM=fs-0123
# Fails and names the missing words if the overlay, OVERLAY=gpu (the default), tpu or dev, still contains any.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:?name the folder to create}"
shift
overlay=gpu
program=(-e "")
for assignment in "$@"; do
    name="${assignment%%=*}"
    value="${assignment#*=}"
    case "$name" in
        OVERLAY) overlay="$value" ;;
        BUCKET | REGION | ACCOUNT | PROJECT | FILE_SYSTEM) program+=(-e "s|\\b$name\\b|$value|g") ;;
        VERSION) program+=(-e "s|\\bVERSION-|$value-|g" -e "s|\\b0\\.0\\.0-cpu\\b|$value-cpu|g") ;;
        *) echo "unknown: $name" >&2 && exit 2 ;;
    esac
done

mkdir -p "$folder"
cp -r "$here/kubernetes" "$here/progdistill.toml" "$here/deployment.toml" "$folder/"
files=()
while IFS= read -r file; do files+=("$file"); done < <(find "$folder" -name '*.yaml' -o -name '*.toml')
sed -i -E "${program[@]}" "${files[@]}"

# Comments may contain them.
checked=("$folder/kubernetes/overlays/$overlay"/*.yaml)
if [ "$overlay" = gpu ]; then checked+=("$folder/kubernetes/metaflow"/*.yaml "$folder"/*.toml); fi
left="$(sed '/^ *#/d' "${checked[@]}" \
    | grep -woE 'BUCKET|REGION|ACCOUNT|PROJECT|FILE_SYSTEM|VERSION|0\.0\.0-cpu' | sort -u | tr '\n' ' ' || true)"
if [ -n "$left" ]; then
    echo "still missing: $left" >&2
    exit 1
fi
