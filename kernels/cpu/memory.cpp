// Memory of the CPU backend: allocation, copies, fills and conversions between element types.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/kernels/cpu/conversion.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pages.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int64_t kCopyGrain = int64_t{1} << 20;  // bytes of a copy that one thread does at a time

// Where everything issued has run.
class PassedMarker final : public Marker {
 public:
  void set() override { time_ = Clock::now(); }
  bool passed() const override { return true; }
  void wait() const override {}
  void hold(Backend&) const override {}
  double seconds_since(const Marker& earlier) const override {
    const auto& begin = static_cast<const PassedMarker&>(earlier);
    return time_ && begin.time_ ? std::chrono::duration<double>(*time_ - *begin.time_).count() : 0.0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::optional<Clock::time_point> time_;
};

}  // namespace

void* CpuBackend::allocate(size_t bytes) {
  // A system that hands out more than it has ends the process that uses it; here somebody may have blocks to
  // give back, and says what for they are asked.
  if (bytes == 0 || !fits_memory(static_cast<int64_t>(bytes))) return nullptr;
  return allocate_pages(bytes);
}

void CpuBackend::release(void* pointer, size_t) noexcept {
  std::free(pointer);
}

MemoryRoom CpuBackend::memory_room() const {
  const auto total =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // This process may have less than the machine has.
  return {std::min(static_cast<size_t>(AvailableMemory().bytes()), total), total};
}

void CpuBackend::copy(void* destination, const void* source, size_t bytes) {
  if (bytes == 0) return;
  const int64_t count = static_cast<int64_t>(bytes);
  const bool streamed = count >= kStreamBytes;
  parallel_ranges(count, kCopyGrain, [=](int64_t begin, int64_t end) {
    char* to = static_cast<char*>(destination) + begin;
    const char* from = static_cast<const char*>(source) + begin;
    if (streamed) {
      stream_copy(to, from, static_cast<size_t>(end - begin));
      stream_fence();
    } else {
      std::memcpy(to, from, static_cast<size_t>(end - begin));
    }
  });
}

void CpuBackend::copy_from_host(void* destination, const void* source, size_t bytes) {
  copy(destination, source, bytes);
}

void CpuBackend::copy_to_host(void* destination, const void* source, size_t bytes) {
  copy(destination, source, bytes);
}

void CpuBackend::synchronize() {}

void* CpuBackend::allocate_pinned(size_t) {
  return nullptr;
}

void CpuBackend::release_pinned(void*) noexcept {}

void CpuBackend::copy_from_pinned(void* destination, const void* source, size_t bytes) {
  copy(destination, source, bytes);
}

// Entries have run when they return: one queue is all there is, and it is always idle.
Backend& CpuBackend::lane() {
  return *this;
}

Backend& CpuBackend::copies() {
  return *this;
}

void CpuBackend::wait_for(Backend&) {}

std::unique_ptr<Marker> CpuBackend::marker(bool) {
  return std::make_unique<PassedMarker>();
}

void* CpuBackend::native_queue() {
  return nullptr;
}

namespace {

class CpuMailbox final : public Mailbox {
 public:
  CpuMailbox(size_t bytes, int64_t places) : bytes_(bytes), memory_(bytes * static_cast<size_t>(places)) {}
  void post(int64_t place, const void* source) override { std::memcpy(at(place), source, bytes_); }
  const void* read(int64_t place) override { return at(place); }

 private:
  std::byte* at(int64_t place) { return memory_.data() + static_cast<size_t>(place) * bytes_; }

  size_t bytes_;
  std::vector<std::byte> memory_;
};

}  // namespace

std::unique_ptr<Mailbox> CpuBackend::mailbox(size_t bytes, int64_t places) {
  return std::make_unique<CpuMailbox>(bytes, places);
}

// What is issued has run: there is nothing to record.
bool CpuBackend::begin_recording() {
  return false;
}

std::unique_ptr<Recording> CpuBackend::end_recording() {
  fail(ErrorKind::kInternal, "end_recording: the CPU does not record");
}

void CpuBackend::fill(DType dtype, int64_t n, void* y, double value) {
  dispatch_storable("fill", dtype, [&](auto type) {
    using T = decltype(type);
    const T element = math::convert<T>(value);
    write_elements(n, static_cast<T*>(y),
                   [=](int64_t begin, int64_t end, T* out) { std::fill_n(out, end - begin, element); });
  });
}

void CpuBackend::cast(DType from, DType to, int64_t n, const void* x, void* y) {
  dispatch_storable("cast", from, [&](auto from_type) {
    dispatch_storable("cast", to, [&](auto to_type) {
      using From = decltype(from_type);
      using To = decltype(to_type);
      const From* source = static_cast<const From*>(x);
      write_elements(n, static_cast<To*>(y), [=](int64_t begin, int64_t end, To* out) {
        convert_elements(end - begin, source + begin, out);
      });
    });
  });
}

}  // namespace lockstep
