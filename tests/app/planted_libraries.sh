#!/bin/sh
# The command looks for libraries beside itself and in the system's folders, not in the current one: planted_libraries.sh COMMAND
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for library in $(ldd "$1" | awk '/=> \// { print $1 }'); do : >"$folder/$library"; done  # to load one would be an error
[ -e "$folder/libstdc++.so.6" ] || { echo "ldd names no libraries" >&2; exit 1; }
cd "$folder" && "$1" --version >/dev/null
