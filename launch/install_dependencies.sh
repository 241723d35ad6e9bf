#!/usr/bin/env bash
# Installs what building and testing Lockstep needs (Debian 12, Ubuntu 22.04 and 24.04), and what else is named:
# launch/install_dependencies.sh [PACKAGE...]. Does nothing, and needs neither
# network nor rights, when everything is there. Exit 2 with a list when something is missing that it cannot install.
set -euo pipefail

packages=(
  g++ cmake ninja-build           # build
  openmpi-bin libopenmpi-dev      # several workers
  libdnnl-dev                     # the benchmarks' measure for products and convolutions
  libhdf5-dev hdf5-tools libxxhash-dev           # checkpoints and data sets; h5dump in their tests
  zlib1g-dev libzstd-dev          # compressed data sets and texts
  libpcre2-dev libutf8proc-dev    # tokenizers: patterns, Unicode normalization
  libtomlplusplus-dev             # configuration
  libcli11-dev                    # command line
  libfmt-dev libspdlog-dev nlohmann-json3-dev    # messages, log, metrics
  libgtest-dev libbenchmark-dev   # tests, benchmarks
  python3 python3-numpy python3-h5py             # tests that read our HDF5 files with another program
)

packages+=("$@")

if ! command -v dpkg-query >/dev/null; then
  {
    echo "This system has no Debian packages, so what is missing cannot be looked up. Lockstep needs the equivalents of:"
    printf '  %s\n' "${packages[@]}"
    echo "Install them in this system's way, then build with launch/build.sh."
  } >&2
  exit 2
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null || true)
  grep -qx installed <<<"$status" || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
  exit 0
fi

# refuse REASON: what is missing, and how somebody who may install can get it.
refuse() {
  {
    echo "$1 Missing packages:"
    printf '  %s\n' "${missing[@]}"
    echo "Somebody with administrator rights can install them with:"
    echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    echo "(on Ubuntu, some of them are in the component universe)"
  } >&2
  exit 2
}

command -v apt-get >/dev/null || refuse "apt-get was not found."
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || refuse "Neither root nor sudo."
  # Without a terminal sudo could not ask for a password.
  [ -t 0 ] || sudo -n true 2>/dev/null || refuse "sudo needs a password, and there is no terminal to ask for it."
  as_root=(sudo)
fi

echo "Installing: ${missing[*]}"
# A failing update (one dead repository, no network) does not decide: the packages may be at hand all the same.
"${as_root[@]}" apt-get update -qq || echo "apt-get update failed; trying with the package lists as they are" >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
  refuse "apt-get could not install everything."
