// Fills, and conversions between element types.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/flat.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/conversion.h"

namespace lockstep {

namespace {

template <class To, class From>
struct Conversion {
  LOCKSTEP_DEVICE To operator()(From x) const {
    if constexpr (std::is_same_v<From, float> && sizeof(To) == 2) {
      return rounded<To>(x);
    } else {
      return math::convert<To>(widen(x));
    }
  }
};

// The same value everywhere.
template <class S>
struct Fill {
  static constexpr int kLanes = 16 / static_cast<int>(sizeof(S));
  static constexpr int kVectors = 2;
  template <int N>
  struct Values {};
  S* y;
  S value;

  template <int N, bool>
  LOCKSTEP_DEVICE Values<N> load(int64_t) const {
    return {};
  }
  template <int N>
  LOCKSTEP_DEVICE void store(int64_t i, Values<N>) const {
    Vector<S, N> result;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) result.lane[j] = value;
    store_vector(y + i, result);
  }
};

}  // namespace

void CudaBackend::fill(DType dtype, int64_t n, void* y, double value) {
  dispatch_storable("fill", dtype, [&](auto type) {
    using S = decltype(type);
    const Fill<S> work{static_cast<S*>(y), math::convert<S>(value)};
    launch_flat(stream(), n, flat_head<Fill<S>::kLanes>(n, work.y), true, work);
  });
}

void CudaBackend::cast(DType from, DType to, int64_t n, const void* x, void* y) {
  if (from == to) return copy(y, x, static_cast<size_t>(n) * size_of(from));
  dispatch_storable("cast", from, [&](auto from_type) {
    dispatch_storable("cast", to, [&](auto to_type) {
      using From = decltype(from_type);
      using To = decltype(to_type);
      if constexpr (!std::is_same_v<From, To>) {
        const From* const inputs[] = {static_cast<const From*>(x)};
        map_flat(stream(), n, inputs, static_cast<To*>(y), Conversion<To, From>{});
      }
    });
  });
}

}  // namespace lockstep
