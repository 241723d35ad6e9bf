#!/bin/sh
# CTest begins tests by falling COST: one that takes more of the places than another must have more of it. `most_come_first.sh FOLDER`
# reads what is registered below FOLDER and names the tests that would wait for places until the others are through.
set -eu

find "$1" -name '*.cmake' -exec grep -h '^set_tests_properties(\[=\[' {} + | awk '
  function property(name) { return match($0, " " name " \"?[0-9]+") ? substr($0, RSTART, RLENGTH) : 0 }
  function number(text) { gsub(/[^0-9]/, "", text); return text + 0 }
  {
    name = $0
    sub(/^[^[]*\[=\[/, "", name)
    sub(/\]=\].*/, "", name)
    places = number(property("PROCESSORS"))
    if (places == 0) places = 1
    cost = number(property("COST"))
    if (!(places in most) || cost > most[places]) most[places] = cost
    tests++; of[tests] = name; takes[tests] = places; costs[tests] = cost
  }
  END {
    for (i = 1; i <= tests; i++) {
      for (places in most) {
        if (places + 0 < takes[i] && costs[i] <= most[places]) {
          print of[i] ": takes " takes[i] " places, COST " costs[i] ", and tests of " places " have up to " most[places]
          failures++
          break
        }
      }
    }
    if (tests == 0) print "no tests below the folder"
    exit failures > 0 || tests == 0
  }'
