// Memory that a kernel needs while it runs, kept by each thread from call to call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "lockstep/kernels/cpu/pages.h"

namespace lockstep {

// Declare it thread_local. Grows to the largest request; contents are undefined.
class Scratch {
 public:
  // At least `count` elements, 64-byte aligned; valid until the next call.
  template <class T>
  T* get(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes > bytes_) {
      memory_.reset();
      bytes_ = 0;
      memory_.reset(allocate_pages(bytes));
      if (!memory_) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return static_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()([[maybe_unused]] void* pointer) const {
#ifndef __clang_analyzer__  // which takes what a call gave for used after a larger one
      std::free(pointer);
#endif
    }
  };
  std::unique_ptr<void, Free> memory_;
  size_t bytes_ = 0;
};

}  // namespace lockstep
