#!/usr/bin/env bash
# tools/record_ptxas keeps a compiler's report and its other words apart; tools/kernel_registers adds reports up and finds what
# exceeds the limits; tools/kernel_vectors likewise on machine code. Usage: planted_reports.sh TOOLS
set -euo pipefail

tools=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "$*" >&2
  exit 1
}

# A compiler that reports two instances of one kernel, one of another, and a warning.
cat >"$work/compiler" <<'COMPILER'
#!/bin/sh
cat >&2 <<'REPORT'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN8lockstep12_GLOBAL__N_114softmax_kernelIfEEvPKT_PS2_' for 'sm_80'
ptxas info    : Function properties for _ZN8lockstep12_GLOBAL__N_114softmax_kernelIfEEvPKT_PS2_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 1.928 ms
ptxas info    : Compiling entry function '_ZN8lockstep12_GLOBAL__N_114softmax_kernelIdEEvPKT_PS2_' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 368 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN8lockstep11fill_kernelEPfl' for 'sm_90'
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 65 registers
kernels.cu(7): warning: something
REPORT
shift
printf 'object of %s\n' "$3" >"$2"
exit "${PLANTED_STATUS:-0}"
COMPILER
chmod +x "$work/compiler"

mkdir "$work/objects"
said=$("$tools/record_ptxas" "$work/compiler" -c -o "$work/objects/a.cu.o" a.cu 2>&1)
[ "$said" = 'kernels.cu(7): warning: something' ] || fail "record_ptxas passed on: $said"
[ "$(cat "$work/objects/a.cu.o")" = 'object of a.cu' ] || fail "record_ptxas changed the command"
status=0
PLANTED_STATUS=3 "$tools/record_ptxas" "$work/compiler" -c -o "$work/failed.o" a.cu 2>/dev/null || status=$?
[ "$status" -eq 3 ] || fail "record_ptxas: exit status $status of a compiler that fails with 3"

# check STATUS LIMITS: what kernel_registers answers under these limits.
check() {
  local expected=$1 status=0
  printf '%s\n' "$2" >"$work/limits"
  "$tools/kernel_registers" "$work/objects" "$work/limits" >"$work/table" 2>"$work/problems" || status=$?
  [ "$status" -eq "$expected" ] || fail "exit status $status, expected $expected, with limits $2: $(cat "$work/problems")"
}
found() { grep -qxF "kernel_registers: $1" "$work/problems" || fail "not found: $1 in: $(cat "$work/problems")"; }

check 1 '* 1024 512'
found 'fill_kernel sm_90: 24 bytes of stack and spills, none are allowed'
found 'fill_kernel sm_90: 65 registers leave room for 896 threads a multiprocessor, at least 1024 are asked for'
[ "$(wc -l <"$work/problems")" -eq 2 ] || fail "more than two problems: $(cat "$work/problems")"
grep -qE '^softmax_kernel +sm_80 +2 +64 +1024 +0 +512$' "$work/table" || fail "table: $(cat "$work/table")"

check 1 $'* 896 511  # all\nsoftmax_kernel 1536 512\ngone_kernel 1024 0'
found 'softmax_kernel sm_80: 64 registers leave room for 1024 threads a multiprocessor, at least 1536 are asked for'
found 'gone_kernel: has a limit, but there is no such kernel'

sed -i 's/8 bytes stack frame, 4 bytes spill stores, 12 bytes/0 bytes stack frame, 0 bytes spill stores, 0 bytes/' \
  "$work/objects/a.cu.o.ptxas"
check 0 '* 896 512'
check 1 '* 896 511'
found 'softmax_kernel sm_80: 512 bytes of static shared memory, at most 511 are allowed'
check 2 'softmax_kernel 1024 512'
touch "$work/objects/b.cu.o"
check 2 '* 896 512'
rm "$work/objects/b.cu.o" "$work/objects/a.cu.o.ptxas"
check 2 '* 1024 512'

# A disassembler of machine code: two instances of a kernel, one in vectors, and one kernel that uses local memory.
mkdir "$work/bin"
cat >"$work/bin/cuobjdump" <<'DISASSEMBLER'
#!/bin/sh
cat <<'CODE'
arch = sm_80
		Function : _ZN8lockstep12_GLOBAL__N_114softmax_kernelIfEEvPKT_PS2_
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/                   STG.E.128 [R2.64], R4 ;
		Function : _ZN8lockstep12_GLOBAL__N_114softmax_kernelIdEEvPKT_PS2_
        /*0010*/                   LDG.E.CONSTANT R4, [R2.64] ;
        /*0020*/                   STG.E [R2.64], R4 ;
		Function : _ZN8lockstep11fill_kernelEPfl
        /*0010*/                   STL [R1], R4 ;
CODE
DISASSEMBLER
printf '#!/bin/sh\n' >"$work/bin/nvdisasm"
chmod +x "$work/bin/cuobjdump" "$work/bin/nvdisasm"
touch "$work/objects/a.cu.o"
check_vectors() {
  local expected=$1 status=0
  printf '%s\n' "$2" >"$work/limits"
  PATH="$work/bin:$PATH" "$tools/kernel_vectors" "$work/objects" "$work/limits" >"$work/table" 2>"$work/problems" || status=$?
  [ "$status" -eq "$expected" ] || fail "exit status $status, expected $expected, with limits $2: $(cat "$work/problems")"
}
found_vectors() { grep -qxF "kernel_vectors: $1" "$work/problems" || fail "not found: $1 in: $(cat "$work/problems")"; }
check_vectors 1 'softmax_kernel 50 51'
found_vectors 'fill_kernel sm_80: local memory in 1 instances, none are allowed'
found_vectors 'softmax_kernel sm_80: stores of 16 bytes in 1 of 2 instances, 51% are asked for'
[ "$(wc -l <"$work/problems")" -eq 2 ] || fail "more than two problems: $(cat "$work/problems")"
sed -i '/STL/d' "$work/bin/cuobjdump"
check_vectors 0 'softmax_kernel 50 50'
check_vectors 1 'gone_kernel 50 50'
found_vectors 'gone_kernel: has a limit, but there is no such kernel'
# Products on tensor cores are by warps, or by groups of warps where the kernel is for them.
sed -i 's/LDG.E.CONSTANT R4.*/HMMA.16816.F32.BF16 R4, R8, R12, R4 ;/' "$work/bin/cuobjdump"
check_vectors 0 'softmax_kernel 50 50 50'
check_vectors 1 'softmax_kernel 50 50 51'
found_vectors 'softmax_kernel sm_80: products on tensor cores in 1 of 2 instances, 51% are asked for'
sed -i 's/_ZN8lockstep12_GLOBAL__N_114softmax_kernelIdEEvPKT_PS2_/_ZN8lockstep14softmax_kernelILNS_10MultiplierE1EEEvPf/' "$work/bin/cuobjdump"
check_vectors 1 'softmax_kernel 50 50 50'
found_vectors 'softmax_kernel sm_80: products on tensor cores in 0 of 2 instances, 50% are asked for'
sed -i 's/HMMA.16816/HGMMA.64x64x16/' "$work/bin/cuobjdump"
check_vectors 0 'softmax_kernel 50 50 50'
