#!/usr/bin/env bash
# Packs what a GPU machine without compilers needs into one archive: tools/bundle.sh [ARCHIVE]   (build/lockstep-gpu.tar.xz)
# Programs, tests, benchmarks, configurations, Open MPI and every library they load, the C library included, but nothing of
# CUDA's: the machine brings driver, cuBLASLt and NCCL. Unpack it anywhere and call ./run_gpu_checks.sh in it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
archive=$(realpath -m "${1:-build/lockstep-gpu.tar.xz}")
build=build/bundle
limit_mib=60
from_cuda='^lib(cuda|cudart|cublas|cublasLt|cudnn[a-z_]*|nccl|nvrtc[a-z-]*|nvJitLink|nvidia-[a-z]*)\.so'

tests=(kernels tensor ops autodiff nn optim parallel train)
benchmarks=(device reduction)
programs=(lockstep distributed_workers "${tests[@]/%/_test}" "${benchmarks[@]/%/_benchmark}")

cmake --preset bundle
cmake --build "$build" --target lockstep_command "${programs[@]:1}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/lockstep-gpu
mkdir -p "$stage"/{bin,libexec,lib/openmpi,lib/private,share,etc}

cp "${programs[@]/#/$build/bin/}" "$stage/libexec/"
mpi_bin=$(dirname "$(realpath "$(command -v mpirun)")")
cp -L "$mpi_bin/mpirun" "$mpi_bin/orted" "$stage/libexec/"

# Open MPI's plugins: without those of network libraries, which are larger than all the rest.
plugins=$(ompi_info --parsable --path pkglibdir | cut -d: -f3)
for plugin in "$plugins"/mca_*.so; do
  if ! ldd "$plugin" | grep -qE 'libucp|libfabric|libpsm|libibverbs|libpmix|libslurm'; then cp -L "$plugin" "$stage/lib/openmpi/"; fi
done
# Plugins that Open MPI cannot do without may need PMIx, which has plugins of its own.
for plugin in "$plugins"/mca_pmix_*.so; do [[ -e $plugin ]] && cp -L "$plugin" "$stage/lib/openmpi/"; done
cp -rL "$(ompi_info --parsable --path pkgdatadir | cut -d: -f3)" "$stage/share/openmpi"
cp -rL "$(ompi_info --parsable --path sysconfdir | cut -d: -f3)/." "$stage/etc/"
pmix=$(ldconfig -p | awk '/libpmix\.so\.2 / && !found {print $NF; found = 1}')
if [[ -n $pmix ]]; then
  pmix_plugins=$(find "$(dirname "$(realpath "$pmix")")/.." -type d -path '*lib/pmix' 2>/dev/null | head -n 1)
  [[ -z $pmix_plugins ]] || cp -rL "$pmix_plugins" "$stage/lib/pmix"
fi

# Libraries, the loader among them, as the programs find them here. They lie apart: Open MPI adds its own lib to the paths of
# every process that it starts, and the machine's programs do not go with this C library.
needed() { LD_LIBRARY_PATH="$root/$build/lib" ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\/.*ld-linux/ {print $1}' | sort -u; }
needed "$stage"/libexec/* "$stage"/lib/openmpi/*.so $(find "$stage/lib/pmix" -name '*.so' 2>/dev/null) | while read -r library; do
  name=$(basename "$library")
  [[ $name =~ $from_cuda ]] || cp -L "$library" "$stage/lib/private/$name"
done
find "$stage/libexec" "$stage/lib" -type f \( -name '*.so*' -o -path '*/libexec/*' \) -exec strip --strip-unneeded {} + 2>/dev/null || true

cat >"$stage/bin/lockstep" <<'PROGRAM'
#!/bin/sh
# Starts the program of this name with the libraries beside it and the machine's CUDA.
here=$(cd "$(dirname "$0")/.." && pwd)
export OPAL_PREFIX="$here" OPAL_LIBDIR="$here/lib" OPAL_PKGLIBDIR="$here/lib/openmpi" OPAL_PKGDATADIR="$here/share/openmpi" \
  OPAL_SYSCONFDIR="$here/etc" OPAL_BINDIR="$here/bin" PMIX_INSTALL_PREFIX="$here" PMIX_PREFIX="$here" \
  PMIX_PKGLIBDIR="$here/lib/pmix" PMIX_MCA_mca_base_component_path="$here/lib/pmix" OMPI_MCA_mca_base_component_show_load_errors=0
path=$here/lib/private
for folder in $(echo "${LD_LIBRARY_PATH:-}" | tr : ' ') /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib \
  /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/x86_64-linux-gnu /usr/lib64; do
  path=$path:$folder
done
exec "$here"/lib/private/ld-linux-x86-64.so.2 --library-path "$path" "$here/libexec/$(basename "$0")" "$@"
PROGRAM
chmod +x "$stage/bin/lockstep"
for program in "$stage"/libexec/*; do
  name=$(basename "$program")
  [[ $name == lockstep ]] || ln "$stage/bin/lockstep" "$stage/bin/$name"
done

cp -r configs "$stage/"
cp tools/run_gpu_checks.sh "$stage/"
mkdir "$stage/tools"
cp tools/compare_pytorch.py tools/compare_language_models.py "$stage/tools/"
cp LICENSE "$stage/" 2>/dev/null || true
{ git rev-parse HEAD 2>/dev/null || echo "unknown commit"; date -u +%F; } >"$stage/VERSION"

mkdir -p "$(dirname "$archive")"
tar -C "$work" -cf - lockstep-gpu | xz -T0 -6 >"$archive"
size=$(($(stat -c %s "$archive") / 1048576))
echo "$archive: $size MiB, $(find "$stage" -type f | wc -l) files"
if ((size >= limit_mib)); then
  echo "bundle: $archive is $size MiB, the limit is $limit_mib" >&2
  exit 1
fi
