#!/bin/sh
# The programs that check what we ship: Helm, kubectl, promtool, containerd with runc. Prints a
# PATH that begins with their folders, so that tests take these rather than what the
# machine has. What cannot be had is left out, and the scripts say why.
#
# With --cached it takes what an earlier run fetched, and fetches nothing.
here=$(dirname "$0")
path=$PATH
# The machine's own promtool may lie among other programs, so its folder comes behind.
if promtool=$("$here/promtool.sh" "$@"); then path=${promtool%/*}:$path; fi
for script in helm.sh containerd.sh; do
	if folder=$("$here/$script" "$@"); then path=$folder:$path; fi
done
echo "$path"
