// How much memory this process can still take, before it is taken: a Linux system hands out more than it has,
// and ends a process that uses it.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

class AvailableMemory {
 public:
  // `proc` and `cgroups` are where the system tells; tests give folders of their own. `address_space`: most
  // bytes of addresses, -1 asks the system (ulimit -v).
  explicit AvailableMemory(std::string proc = "/proc", std::string cgroups = "/sys/fs/cgroup",
                           int64_t address_space = -1);

  // The least of what the machine has (MemAvailable), what each control group that this process is in leaves
  // it (memory.max of version 2, memory.limit_in_bytes of version 1; pages of files count as free, since they
  // make room), and what is left of the address space. Without swap. INT64_MAX where nothing is known.
  int64_t bytes() const;

  // Of that, what others may take from as well: all processes of the machine, and those whose groups() are
  // the same text.
  int64_t machine() const;
  int64_t control_groups() const;
  std::string groups() const;

 private:
  int64_t addresses() const;

  std::string proc_, cgroups_;
  int64_t address_space_;
};

// Whether this process can still take so many bytes. Small amounts are not looked at.
bool fits_memory(int64_t bytes);

// Error in one line where it cannot: before they are asked for, since a system that hands out more than it
// has ends the process later. what: a file, or a setting.
void require_memory(const std::string& what, int64_t bytes, ErrorKind kind = ErrorKind::kData);

}  // namespace lockstep
