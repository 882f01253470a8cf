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
# The bases by digest, so that the image is made of what was seen, and the log names it.
# NPC_RUST_IMAGE and NPC_DEBIAN_IMAGE name others, or fix a digest.
pinned() { # image
	case $1 in
	*@sha256:*)
		echo "$1"
		return
		;;
	esac
	digest=
	if [ "$engine" = docker ]; then
		digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1" 2>/dev/null) || digest=
	elif command -v skopeo >/dev/null 2>&1; then
		digest=$(skopeo inspect --no-tags --format '{{.Digest}}' "docker://$1" 2>/dev/null) || digest=
	fi
	case $digest in
	sha256:*) echo "$1@$digest" ;;
	*)
		echo "npc: $engine does not know the digest of $1, so the build takes what the tag names" >&2
		echo "$1"
		;;
	esac
}
base() { sed -n "s/^ARG $1=//p" deploy/Dockerfile; }
rust=$(pinned "${NPC_RUST_IMAGE:-$(base RUST_IMAGE)}")
debian=$(pinned "${NPC_DEBIAN_IMAGE:-$(base DEBIAN_IMAGE)}")
echo "npc: the bases are $rust and $debian" >&2
set -- --build-arg "RUST_IMAGE=$rust" --build-arg "DEBIAN_IMAGE=$debian"
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
	exec docker buildx build "$@" --file deploy/Dockerfile --tag "$name" ${platforms:+--platform "$platforms"} "$out" .
	;;
podman | buildah)
	if [ -n "$platforms" ]; then
		# Several architectures are one manifest list.
		"$engine" build "$@" --file deploy/Dockerfile --ignorefile deploy/Dockerfile.dockerignore --platform "$platforms" --manifest "$name" .
		[ -z "${NPC_PUSH:-}" ] || exec "$engine" manifest push --all "$name" "docker://$name"
	else
		"$engine" build "$@" --file deploy/Dockerfile --ignorefile deploy/Dockerfile.dockerignore --tag "$name" .
		[ -z "${NPC_PUSH:-}" ] || exec "$engine" push "$name"
	fi
	;;
*)
	echo "npc: NPC_ENGINE=$engine is none of docker, podman, buildah" >&2
	exit 2
	;;
esac
