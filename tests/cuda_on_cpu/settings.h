// How a process runs what stands in for the GPU, as the variable LOCKSTEP_CUDA_ON_CPU says
// (include/cuda_runtime.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_on_cpu {

struct Settings {
  uint64_t seed = 0;
  bool lazy = false;         // streams=lazy
  bool guard = false;        // guard=1
  bool forbid_host = false;  // host=forbid
  bool keys = true;          // keys=0
  bool count = false;        // count=1
  bool products = true;      // products=none
  bool epilogues = true;     // products=plain
  int fastest = 0;           // fastest=N
  int unlaunchable = -1;     // unlaunchable=N
  bool cudnn = false;        // cudnn=1
  unsigned digit = 0;        // digit=N
  bool busy = false;         // gpu=busy
  bool foreign = false;      // gpu=foreign
  int64_t broken = -1;       // broken=N
  int64_t stuck = -1;        // stuck=N
  int devices = 1;
  size_t memory_bytes = size_t{16384} << 20;
};

// Read from the environment at the first call. Errors (unknown or malformed entries) end the process.
const Settings& settings();

// What was asked of the devices; count=1 has it printed at the end.
struct Counts {
  int64_t copies_to_host = 0;
  int64_t kernels = 0;  // and calls of libraries, outside of recordings
  int64_t graphs = 0;   // launched
  int64_t allocations = 0;
};
Counts& counts();

// For tests: replaces the settings by those of `text` (the variable's syntax) and starts the random order
// again.
void configure(const char* text);

// The next number of the sequence that the seed starts.
uint64_t random_number();

}  // namespace cuda_on_cpu
