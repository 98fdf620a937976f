#!/usr/bin/env bash
# Installs what the build needs on Debian 12 (or anything with apt and LLVM 22) and does nothing when it is all there.
#   scripts/setup.sh          what building, testing and training need
#   scripts/setup.sh bench    also what `make bench` and `make test-interop` need (Python and tcmalloc)
#   scripts/setup.sh mpi      also what `make test-mpi` needs: two MPIs, which get along on one machine, and Python for two more
set -euo pipefail

packages=(
  # rustc links with cc; the rest are what a bare image lacks
  g++ make pkg-config git ca-certificates
  # MLIR and LLVM 22, linked statically; Polly is named by llvm-config --link-static
  llvm-22-dev libmlir-22-dev libpolly-22-dev libzstd-dev zlib1g-dev libxml2-dev
  # bindgen, which mlir-sys runs, reads C headers through libclang
  libclang1-22 libclang-common-22-dev
  # FileCheck, for the tests of the passes
  llvm-22-tools
  # oneDNN, opened at run time; without it training uses our own kernels
  libdnnl2
)
if [ "${1:-}" = bench ]; then
  packages+=(python3 python3-venv libtcmalloc-minimal4)
elif [ "${1:-}" = mpi ]; then
  packages+=(openmpi-bin mpich python3 python3-venv)
fi

say() { printf 'setup: %s\n' "$*" >&2; }

check_cargo() {
  command -v cargo >/dev/null || { say 'cargo is missing: install rustup first, then run this again'; exit 1; }
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  if [ "$(/usr/lib/llvm-22/bin/llvm-config --version 2>/dev/null | cut -d. -f1)" = 22 ]; then
    check_cargo
    say 'this is not a Debian system, but /usr/lib/llvm-22 holds LLVM 22: going on with that'
    exit 0
  fi
  say 'this script knows apt only. Install LLVM and MLIR 22 with headers and static libraries, libclang 22, Polly, zlib,'
  say 'zstd, libxml2 and a C++ compiler by your own means; then point the paths in .cargo/config.toml at them.'
  say "The Debian names are: ${packages[*]}"
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
  check_cargo
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { say "not root and no sudo. As root, run: apt-get install ${missing[*]}"; exit 1; }
  as_root=(sudo)
fi

say "installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
for package in "${missing[@]}"; do
  apt-cache show "$package" >/dev/null 2>&1 && continue
  say "apt knows no package '$package'."
  say 'LLVM 22 for Debian 12 comes from bookworm-security: is that in your apt sources? For other releases see the apt repository of the LLVM project.'
  exit 1
done
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
check_cargo
say 'done'
