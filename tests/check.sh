# For tests in shell, which source this: how they compare and how they count.
failures=0
# check WHAT EXPECTED ACTUAL
check() {
  if [ "$2" != "$3" ]; then
    printf '%s: expected %s, got %s\n' "$1" "$2" "$3" >&2
    failures=$((failures + 1))
  fi
}
