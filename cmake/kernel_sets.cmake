# The sets of instructions that the CPU's kernels are compiled for: one, LOCKSTEP_CPU_ARCH, or, where that is portable, several
# beside each other in one library. kernels/kernel_set.cpp chooses one of them when a process starts.
#   LOCKSTEP_KERNEL_SETS           their names, the most demanding first
#   LOCKSTEP_KERNEL_NAME_<set>     what users call it
#   LOCKSTEP_KERNEL_OPTIONS_<set>  the compiler's options
#   LOCKSTEP_LEAST_ARCH            the processor that the least demanding one is compiled for
#
# Inline functions and instances of templates would make a program with several sets wrong: objects of all of them, and of the
# rest of the library, hold copies under one name, and a linker keeps one, perhaps made of instructions that the processor has
# not. So the objects of each of several sets are linked into one object beforehand, with copies of their own of all that they
# define, and in that object every name but that of the set's constant is made local: nothing outside can refer to anything in it.
if(LOCKSTEP_CPU_ARCH STREQUAL "portable")
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    message(FATAL_ERROR "LOCKSTEP_CPU_ARCH=portable: sets of kernels are for x86-64, not ${CMAKE_SYSTEM_PROCESSOR}; take native")
  endif()
  if(LOCKSTEP_SANITIZE)
    message(FATAL_ERROR "LOCKSTEP_CPU_ARCH=portable: sanitizers are for one set of kernels: take native, or x86-64-v3")
  endif()
  execute_process(COMMAND ${CMAKE_LINKER} --help OUTPUT_VARIABLE linker_options ERROR_QUIET)
  if(NOT linker_options MATCHES "--force-group-allocation" OR NOT CMAKE_OBJCOPY)
    message(FATAL_ERROR "LOCKSTEP_CPU_ARCH=portable needs objcopy and GNU ld (--force-group-allocation), not ${CMAKE_LINKER}")
  endif()
  # Only what kernels are written for beyond the levels of x86-64: products of bf16.
  set(LOCKSTEP_KERNEL_SETS avx512_bf16 avx512 avx2)
  set(LOCKSTEP_KERNEL_OPTIONS_avx512_bf16 -march=x86-64-v4 -mavx512bf16)
  set(LOCKSTEP_KERNEL_OPTIONS_avx512 -march=x86-64-v4)
  set(LOCKSTEP_KERNEL_OPTIONS_avx2 -march=x86-64-v3)
  foreach(set IN LISTS LOCKSTEP_KERNEL_SETS)
    set(LOCKSTEP_KERNEL_NAME_${set} ${set})
    list(APPEND LOCKSTEP_KERNEL_OPTIONS_${set} -fno-lto)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      list(APPEND LOCKSTEP_KERNEL_OPTIONS_${set} -fno-gnu-unique)  # names that objcopy leaves as they are
    endif()
  endforeach()
  set(LOCKSTEP_LEAST_ARCH x86-64-v3)
else()
  set(LOCKSTEP_KERNEL_SETS cpu)
  set(LOCKSTEP_KERNEL_NAME_cpu ${LOCKSTEP_CPU_ARCH})
  set(LOCKSTEP_KERNEL_OPTIONS_cpu -march=${LOCKSTEP_CPU_ARCH})
  # As slow_instructions() in kernels/instructions.h: there bf16 is multiplied in fp32.
  if(LOCKSTEP_CPU_ARCH STREQUAL "native" AND EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo processor LIMIT_COUNT 2 REGEX "^(vendor_id|flags)")
    if(processor MATCHES "GenuineIntel" AND processor MATCHES "avx512_bf16" AND processor MATCHES "avx512_fp16")
      list(APPEND LOCKSTEP_KERNEL_OPTIONS_cpu -mno-avx512bf16)
    endif()
  endif()
  set(LOCKSTEP_LEAST_ARCH ${LOCKSTEP_CPU_ARCH})
endif()

# lockstep_add_kernel_set(SET TARGET): TARGET holds the objects of SET. The only set is a layer of the library like the others.
function(lockstep_add_kernel_set set target)
  if(NOT LOCKSTEP_CPU_ARCH STREQUAL "portable")
    set_property(GLOBAL APPEND PROPERTY LOCKSTEP_LAYERS ${target})
    return()
  endif()
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${set}.o)
  set(objects $<TARGET_OBJECTS:${target}>)
  add_custom_command(OUTPUT ${object} DEPENDS ${objects} ${target} COMMAND_EXPAND_LISTS VERBATIM
    COMMENT "Linking the kernels of ${set}"
    COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${object} ${objects}
    COMMAND ${CMAKE_OBJCOPY} --keep-global-symbol=lockstep_kernel_set_${set} ${object})
  add_custom_target(${target}_linked DEPENDS ${object})
  set_property(GLOBAL APPEND PROPERTY LOCKSTEP_KERNEL_OBJECTS ${object})
endfunction()

# lockstep_link_kernel_sets(LIBRARY): LIBRARY holds the kernels of several sets, where there are several.
function(lockstep_link_kernel_sets library)
  get_property(objects GLOBAL PROPERTY LOCKSTEP_KERNEL_OBJECTS)
  foreach(set IN LISTS LOCKSTEP_KERNEL_SETS)
    if(objects)
      add_dependencies(${library} lockstep_kernels_${set}_linked)
    endif()
  endforeach()
  target_sources(${library} PRIVATE ${objects})
endfunction()
