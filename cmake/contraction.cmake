# Compilers that fuse a multiplication with an addition although -ffp-contract=off forbids it. Such code rounds once in a vector
# loop and twice in its scalar tail: an element's bits then depend on where in an array it lies.
#
# GCC before 12.3 (bug 107647) does so where its vectorizer meets neighbours of which one adds and the other subtracts
# (vfmaddsub, vfmsubadd). In straight-line code -fno-tree-slp-vectorize avoids it. Inside loops nothing does short of giving
# their vectors up, so there the built library is read instead, each time it is linked.
#
# Each answer is looked for, not deduced from a version: small programs are compiled to assembly with the project's flags.
#   contraction_options          the flags that avoid it, for every compile of ours
#   LOCKSTEP_LOOPS_MAY_FUSE      true where tools/check_fusion has to read what was linked

set(contraction_options "")
set(LOCKSTEP_LOOPS_MAY_FUSE FALSE)

set(fused_instruction "")
set(probe_options "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|i[3-6]86)$")
  set(fused_instruction "vfn?m(add|sub)[a-z0-9]*")
  set(probe_options -march=${LOCKSTEP_LEAST_ARCH} -mfma)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(fused_instruction "fn?m(add|sub)|fml[as]")
endif()

# probe_contraction(RESULT SOURCE OPTIONS...): the fused instructions of the assembly of SOURCE.
function(probe_contraction result source)
  set(folder ${CMAKE_BINARY_DIR}/contraction)
  file(WRITE ${folder}/probe.cpp "${source}")
  separate_arguments(flags UNIX_COMMAND "${CMAKE_CXX_FLAGS}")
  execute_process(
    COMMAND ${CMAKE_CXX_COMPILER} -w ${flags} ${ARGN} ${probe_options} -O3 -fno-lto -S -o ${folder}/probe.s ${folder}/probe.cpp
    RESULT_VARIABLE status ERROR_VARIABLE message)
  if(status)
    message(FATAL_ERROR "cannot tell whether the compiler fuses in spite of -ffp-contract=off: ${message}")
  endif()
  file(READ ${folder}/probe.s assembly)
  string(REGEX MATCHALL "[\t ](${fused_instruction})[\t ]" found "${assembly}")
  list(REMOVE_DUPLICATES found)
  string(REGEX REPLACE "[\t ]" "" found "${found}")
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

if(fused_instruction)
  set(head "(double* __restrict y, const double* a, const double* b, const double* c")
  set(pair "{ y[0] = a[0] * b[0] - c[0]; y[1] = a[1] * b[1] + c[1]; }")
  set(pair_of_loop "y[2 * i] = a[2 * i] * b[2 * i] - c[2 * i]; y[2 * i + 1] = a[2 * i + 1] * b[2 * i + 1] + c[2 * i + 1];")
  set(plain "double chain(double a, double b, double c) { return a * b + c; }
void sums${head}, long n) { for (long i = 0; i < n; ++i) y[i] = a[i] * b[i] + c[i]; }\n")
  # The probe must be able to see what it looks for.
  probe_contraction(found "double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }\n" ${host_options})
  if(NOT found)
    message(FATAL_ERROR "no fused multiply-add in the assembly of __builtin_fma: cmake/contraction.cmake does not know its name")
  endif()
  probe_contraction(found "${plain}" ${host_options})
  if(found)
    message(FATAL_ERROR "${CMAKE_CXX_COMPILER} fuses multiplications and additions (${found}) in spite of -ffp-contract=off: "
      "bits would depend on an element's place in its array; take another compiler")
  endif()
  probe_contraction(found "void pair${head}) ${pair}\n" ${host_options})
  if(found)
    set(contraction_options -fno-tree-slp-vectorize)
    message(STATUS "The compiler fuses alternating additions and subtractions (${found}): ${contraction_options}")
    probe_contraction(found "void pair${head}) ${pair}\n" ${host_options} ${contraction_options})
    if(found)
      message(FATAL_ERROR "${CMAKE_CXX_COMPILER} ${CMAKE_CXX_COMPILER_VERSION} fuses multiplications and additions (${found}) in "
        "spite of -ffp-contract=off and ${contraction_options}; take another compiler (GCC from 12.3 on, or clang)")
    endif()
  endif()
  probe_contraction(found "void pairs${head}, long n) { for (long i = 0; i < n; ++i) { ${pair_of_loop} } }\n"
                    ${host_options} ${contraction_options})
  if(found)
    set(LOCKSTEP_LOOPS_MAY_FUSE TRUE)
    message(STATUS "The compiler fuses alternating additions and subtractions in loops (${found}): "
      "tools/check_fusion reads the library when it is linked")
  endif()
endif()

# lockstep_check_fusion(LIBRARY): where loops may fuse, a library that has such an instruction is an error of its build. Sanitized
# ones are for tests.
function(lockstep_check_fusion library)
  if(LOCKSTEP_LOOPS_MAY_FUSE AND NOT LOCKSTEP_SANITIZE)
    add_custom_command(TARGET ${library} POST_BUILD VERBATIM
      COMMAND ${PROJECT_SOURCE_DIR}/tools/check_fusion - $<TARGET_FILE:${library}>)
  endif()
endfunction()
