#!/bin/sh
# Builds the image with whichever container engine is there:
#   build.sh NAME [PLATFORMS]      by default for this machine's architecture
# An engine is docker (with buildx), podman or buildah; NPC_ENGINE names one.
set -eu

name=$1
platforms=${2:-}
cd "$(dirname "$0")/../.."

works() { # a client without a server to talk to is no engine
	case $1 in
	docker) docker buildx version >/dev/null 2>&1 && docker info >/dev/null 2>&1 ;;
	*) "$1" info >/dev/null 2>&1 ;;
	esac
}
engine=${NPC_ENGINE:-}
if [ -z "$engine" ]; then
	for candidate in docker podman buildah; do
		if command -v "$candidate" >/dev/null 2>&1 && works "$candidate"; then
			engine=$candidate
			break
		fi
	done
fi
if [ -z "$engine" ]; then
	cat >&2 <<-'WORDS'
		npc: no container engine works here, so no image is built. Looked for docker
		(with buildx and a running server), podman and buildah. Install one, or name
		it with NPC_ENGINE. `make image-check` runs npc from the image's root file
		system without any.
	WORDS
	exit 1
fi
echo "npc: building $name with $engine${platforms:+ for $platforms}" >&2
case $engine in
docker)
	# A separate builder keeps what it made, unless an option says where it goes.
	case ${NPC_PUSH:+push}$platforms in
	push*) out=--push ;;
	*,*)
		echo "npc: docker keeps no image of several platforms here; push it (NPC_PUSH=1)" >&2
		exit 2
		;;
	*) out=--load ;;
	esac
	exec docker buildx build --file deploy/Dockerfile --tag "$name" ${platforms:+--platform "$platforms"} "$out" .
	;;
podman | buildah)
	if [ -n "$platforms" ]; then
		# Several architectures are one manifest list.
		"$engine" build --file deploy/Dockerfile --ignorefile deploy/Dockerfile.dockerignore --platform "$platforms" --manifest "$name" .
		[ -z "${NPC_PUSH:-}" ] || exec "$engine" manifest push --all "$name" "docker://$name"
	else
		"$engine" build --file deploy/Dockerfile --ignorefile deploy/Dockerfile.dockerignore --tag "$name" .
		[ -z "${NPC_PUSH:-}" ] || exec "$engine" push "$name"
	fi
	;;
*)
	echo "npc: NPC_ENGINE=$engine is none of docker, podman, buildah" >&2
	exit 2
	;;
esac
