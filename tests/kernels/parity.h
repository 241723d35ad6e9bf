// The same call on the CPU and on the device of the test program, results compared.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "device.h"
#include "kernels/arrays.h"
#include "lockstep/kernels/backend.h"

namespace lockstep::test {

// The distance of 1 to the next number of a type.
inline double epsilon_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return std::numeric_limits<double>::epsilon();
    case DType::kF32:
      return std::numeric_limits<float>::epsilon();
    case DType::kBF16:
      return 0x1p-7;
    case DType::kF16:
      return 0x1p-10;
    default:
      return 0;
  }
}

// The arrays of one call in the memory of one backend, each beginning `shift` elements behind an aligned
// address and followed by bytes that no kernel may touch.
class Arrays {
 public:
  Arrays(Backend& backend, int64_t shift) : backend_(backend), shift_(static_cast<size_t>(shift)) {}
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;
  ~Arrays() {
    for (const Array& array : arrays_) backend_.release(array.memory, array.total());
  }

  template <class S>
  S* input(const std::vector<S>& values) {
    return static_cast<S*>(add(dtype_of<S>, values.size(), values.data(), false));
  }
  // n elements whose contents are compared; they hold nonsense at first.
  template <class S>
  S* output(int64_t n) {
    return static_cast<S*>(add(dtype_of<S>, static_cast<size_t>(n), nullptr, true));
  }
  // Like output, but with contents for the call to change.
  template <class S>
  S* in_out(const std::vector<S>& values) {
    return static_cast<S*>(add(dtype_of<S>, values.size(), values.data(), true));
  }

  struct Result {
    DType dtype;
    std::vector<double> values;
  };
  std::vector<Result> results() {
    std::vector<Result> results;
    for (const Array& array : arrays_) {
      std::vector<std::byte> bytes(array.total());
      backend_.copy_to_host(bytes.data(), array.memory, bytes.size());
      for (size_t i = 0; i < bytes.size(); ++i) {
        if (i == array.begin) i += array.bytes;  // its margin follows
        EXPECT_EQ(bytes[i], kUntouched)
            << "byte " << i << " outside an array of " << array.bytes << " was written";
        if (bytes[i] != kUntouched) break;
      }
      if (!array.is_result) continue;
      const size_t n = array.bytes / size_of(array.dtype);
      Result result{array.dtype, std::vector<double>(n)};
      if (n > 0)
        cpu_backend().cast(array.dtype, DType::kF64, static_cast<int64_t>(n), aligned(bytes, array).data(),
                           result.values.data());
      results.push_back(std::move(result));
    }
    return results;
  }

 private:
  static constexpr std::byte kUntouched{0x5A};
  static constexpr size_t kMargin = 64;
  struct Array {
    DType dtype;
    void* memory;
    size_t begin, bytes;
    bool is_result;
    size_t total() const { return begin + bytes + kMargin; }
  };

  static std::vector<double> aligned(const std::vector<std::byte>& bytes, const Array& array) {
    std::vector<double> copy((array.bytes + 7) / 8);
    std::memcpy(copy.data(), bytes.data() + array.begin, array.bytes);
    return copy;
  }

  void* add(DType dtype, size_t n, const void* values, bool is_result) {
    Array array{dtype, nullptr, shift_ * size_of(dtype), n * size_of(dtype), is_result};
    array.memory = backend_.allocate(array.total());
    std::vector<std::byte> bytes(array.total(), kUntouched);
    if (values != nullptr && n > 0) std::memcpy(bytes.data() + array.begin, values, array.bytes);
    backend_.copy_from_host(array.memory, bytes.data(), bytes.size());
    arrays_.push_back(array);
    return static_cast<std::byte*>(array.memory) + array.begin;
  }

  Backend& backend_;
  size_t shift_;
  std::vector<Array> arrays_;
};

// How far results may be apart: |a - b| <= units * epsilon * |a| + absolute, epsilon that of the result's
// type; NaN equals NaN. Zeros: the same numbers.
struct Tolerance {
  double units = 0, absolute = 0;
};

// Runs call(backend, arrays) on both devices, with aligned and with unaligned arrays, and compares every
// result.
inline void expect_parity(const std::string& what, Tolerance tolerance,
                          const std::function<void(Backend&, Arrays&)>& call) {
  for (int64_t shift : {0, 1}) {
    SCOPED_TRACE(what + (shift == 0 ? ", aligned" : ", unaligned"));
    std::vector<std::vector<Arrays::Result>> results;
    for (Backend* backend : {&cpu_backend(), &test_backend()}) {
      Arrays arrays(*backend, shift);
      call(*backend, arrays);
      results.push_back(arrays.results());
    }
    for (size_t r = 0; r < results[0].size(); ++r) {
      const Arrays::Result &expected = results[0][r], &actual = results[1][r];
      const double *const of_cpu = expected.values.data(), *const of_device = actual.values.data();
      for (size_t i = 0; i < expected.values.size(); ++i) {
        const double a = of_cpu[i], b = of_device[i];
        if (a == b || (std::isnan(a) && std::isnan(b))) continue;
        const double bound = tolerance.units * epsilon_of(expected.dtype) * std::fabs(a) + tolerance.absolute;
        if (std::fabs(a - b) <= bound) continue;
        FAIL() << "result " << r << ", element " << i << " of " << expected.values.size() << ": the CPU has "
               << a << ", " << test_device() << " has " << b << ", bound " << bound;
      }
    }
  }
}

// For tests that say nothing where the device is the CPU itself.
#define SKIP_ON_CPU() \
  if (test_device() == "cpu") GTEST_SKIP() << "compares a GPU with the CPU: set LOCKSTEP_TEST_DEVICE=cuda"

}  // namespace lockstep::test
