#!/usr/bin/env bash
# tools/check_format finds what is formatted otherwise, mends it when asked, and says so when the right clang-format is not there.
set -euo pipefail

check=$1/check_format
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "$1" >&2
  exit 1
}
# expect STATUS ARGUMENT...: runs the check; its output is then in $work/output.
expect() {
  local expected=$1 status=0
  shift
  "$check" "$@" >"$work/output" 2>&1 || status=$?
  [ "$status" -ne 77 ] || { cat "$work/output"; exit 77; }
  [ "$status" -eq "$expected" ] || fail "$*: exit status $status, not $expected: $(cat "$work/output")"
}

printf 'namespace lockstep {\n\nint twice(int x) {\n  return 2 * x;\n}\n\n}  // namespace lockstep\n' >"$work/right.cpp"
printf 'namespace lockstep {\n\nint twice(int x)\n{\n    return 2*x;\n}\n\n}  // namespace lockstep\n' >"$work/wrong.cpp"
expect 0 "$work/right.cpp"
expect 1 "$work/right.cpp" "$work/wrong.cpp"
grep -q "^$work/wrong.cpp:3: " "$work/output" || fail "wrong.cpp is not named: $(cat "$work/output")"
if grep -q right.cpp "$work/output"; then fail "right.cpp is named: $(cat "$work/output")"; fi
# The limit of .clang-format, 110 columns: one more is broken.
printf 'const char* text = "%s";\n' "$(printf '%088d' 0)" >"$work/narrow.cpp"
printf '// %s %s\n' "$(printf '%070d' 0)" "$(printf '%040d' 0)" >"$work/wide.cpp"
expect 0 "$work/narrow.cpp"
expect 1 "$work/wide.cpp"
expect 0 --fix "$work/wrong.cpp" "$work/wide.cpp"
expect 0 "$work/wrong.cpp" "$work/wide.cpp"
cmp "$work/right.cpp" "$work/wrong.cpp" || fail "--fix gave another text"
expect 2 "$work/absent.cpp"

# Without it: one line, and nothing is called right.
mkdir "$work/bin"
printf '#!/bin/sh\necho "clang-format version 15.0.0"\n' >"$work/bin/clang-format"
cp "$work/bin/clang-format" "$work/bin/clang-format-14"
chmod +x "$work/bin/"*
status=0
PATH=$work/bin:$PATH "$check" "$work/right.cpp" >"$work/output" 2>&1 || status=$?
[ "$status" -eq 77 ] && [ "$(wc -l <"$work/output")" -eq 1 ] && grep -q 'clang-format 14 is not installed' "$work/output" ||
  fail "without clang-format 14: exit status $status: $(cat "$work/output")"
