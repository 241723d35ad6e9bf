// Optimizer updates: one pass over parameters, gradients and state.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/flat.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/update.h"

namespace lockstep {

namespace {

constexpr size_t kNumberBytes = 256;

// An update's numbers, ready for its elements.
template <class Update, class T>
struct UpdateNumbers {
  Update update;
  T scale;
  bool open = true;   // there is an update
  bool none = false;  // nor is there one of other elements

  UpdateNumbers(const double* scalars, double gradient_scale)
      : update(scalars), scale(static_cast<T>(gradient_scale)) {}
};

// A thread a run of elements: what the host knows, and what the device finds out by itself instead, once for
// all of them.
template <class Update, class T>
__global__ void __launch_bounds__(kWarp)
    numbers_kernel(int64_t runs, UpdateNumbers<Update, T> given, double gradient_scale, const double* gate,
                   const double* factor, const double* rows, bool copies,
                   UpdateNumbers<Update, T>* prepared) {
  const int64_t run = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  if (run >= runs) return;
  UpdateNumbers<Update, T> numbers = given;
  if (rows != nullptr) numbers.update = Update(rows + run * UpdateArguments::kScalars);
  if (factor != nullptr) numbers.scale = static_cast<T>(gradient_scale * *factor);
  numbers.open = (gate == nullptr || *gate != 0.0) && (copies || !is_idle(numbers.update));
  numbers.none = !numbers.open && runs == 1;
  prepared[run] = numbers;
}

// UpdateArguments::ends.
struct UpdateRuns {
  const int64_t* ends;
  int64_t first;
  int last;

  // That of element i.
  LOCKSTEP_DEVICE int of(int64_t i) const {
    int least = 0, most = last;
    while (least < most) {
      const int middle = (least + most) / 2;
      if (ends[middle] <= first + i) {
        least = middle + 1;
      } else {
        most = middle;
      }
    }
    return least;
  }
  LOCKSTEP_DEVICE bool ends_before(int run, int64_t i) const {
    return ends != nullptr && ends[run] < first + i;
  }
};

// Arrays of one update: parameters first, then the slots. All are read and written.
template <class Update, class T>
struct UpdateWork {
  // Doubles come one by one: dividing them takes the registers that a second one would be in.
  static constexpr int kLanes = sizeof(T) == 8 ? 1 : Vector<T>::kLanes;
  static constexpr int kVectors = 1;
  static constexpr int kArrays = 1 + Update::kSlots;
  template <int N>
  struct Values {
    Vector<T, N> gradients, arrays[kArrays];
  };

  const UpdateNumbers<Update, T>* prepared;  // of each run
  UpdateRuns runs;
  const T* gradients;
  T* arrays[kArrays];
  bool vectors;  // all arrays lie alike towards 16 bytes
  void* copy;    // null, or UpdateArguments::copy
  DType copy_dtype;
  bool copy_vectors;  // it lies like the parameters, towards the bytes of as many elements of 16 bits

  // Asked before anything is loaded, of formulas alone that are often idle: others would wait for the answer.
  LOCKSTEP_DEVICE bool closed() const { return kMayIdle<Update> && prepared->none; }
  template <int N, bool kWhole>
  LOCKSTEP_DEVICE Values<N> load(int64_t i) const {
    const Reading reading = vectors ? Reading::kVectors : Reading::kElements;
    Values<N> values;
    values.gradients = FlatInput<T>{gradients, reading}.template load<N, kWhole>(i);
    LOCKSTEP_UNROLL
    for (int k = 0; k < kArrays; ++k) {
      values.arrays[k] = FlatInput<T>{arrays[k], reading}.template load<N, kWhole>(i);
    }
    return values;
  }
  template <int N>
  LOCKSTEP_DEVICE void store(int64_t i, Values<N>& values) const {
    const int run = runs.of(i);
    if constexpr (N > 1) {
      if (runs.ends_before(run, i + N)) {
        // One by one, and loaded anew: that takes no registers of those who have their vector in one run.
        LOCKSTEP_UNROLL_BY(1)
        for (int j = 0; j < N; ++j) {
          Values<1> value = load<1, false>(i + j);
          store(i + j, value);
        }
        return;
      }
    }
    const UpdateNumbers<Update, T> numbers = prepared[run];
    if (!numbers.open) return;
    const Update& update = numbers.update;
    const T scale = numbers.scale;
    auto& a = values.arrays;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      const T gradient = scale * values.gradients.lane[j];
      if constexpr (kArrays == 1) {
        update(a[0].lane[j], gradient);
      } else if constexpr (kArrays == 2) {
        update(a[0].lane[j], gradient, a[1].lane[j]);
      } else if constexpr (kArrays == 3) {
        update(a[0].lane[j], gradient, a[1].lane[j], a[2].lane[j]);
      } else if constexpr (kArrays == 4) {
        update(a[0].lane[j], gradient, a[1].lane[j], a[2].lane[j], a[3].lane[j]);
      } else {
        static_assert(kArrays == 5);
        update(a[0].lane[j], gradient, a[1].lane[j], a[2].lane[j], a[3].lane[j], a[4].lane[j]);
      }
    }
    LOCKSTEP_UNROLL
    for (int k = 0; k < kArrays; ++k) {
      if (vectors) {
        store_vector(arrays[k] + i, a[k]);
      } else {
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) arrays[k][i + j] = a[k].lane[j];
      }
    }
    if constexpr (sizeof(T) == 4) {
      if (copy != nullptr) store_copy(i, a[0]);
    }
  }
  template <int N>
  LOCKSTEP_DEVICE void store_copy(int64_t i, const Vector<T, N>& parameters) const {
    Vector<uint16_t, N> bits;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      const T p = parameters.lane[j];
      bits.lane[j] = copy_dtype == DType::kBF16 ? rounded<BFloat16>(p).bits : rounded<Float16>(p).bits;
    }
    uint16_t* const y = static_cast<uint16_t*>(copy) + i;
    if (copy_vectors) {
      store_vector(y, bits);
    } else {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) y[j] = bits.lane[j];
    }
  }
};

// numbers: room for those of every run.
template <class Update, class T>
void launch_update(cudaStream_t stream, const UpdateArguments& arguments, void* numbers) {
  using Work = UpdateWork<Update, T>;
  using Numbers = UpdateNumbers<Update, T>;
  static_assert(sizeof(Numbers) <= kNumberBytes);
  Numbers* const prepared = static_cast<Numbers*>(numbers);
  LOCKSTEP_LAUNCH((numbers_kernel<Update, T>), blocks_for(arguments.runs, kWarp), kWarp, 0, stream,
                  arguments.runs, Numbers(arguments.scalars, arguments.gradient_scale),
                  arguments.gradient_scale, arguments.gate, arguments.factor, arguments.row,
                  arguments.copy != nullptr, prepared);
  T* const parameters = static_cast<T*>(arguments.parameters);
  const int64_t head = flat_head<Work::kLanes>(arguments.n, parameters);
  Work work{prepared,
            {arguments.ends, arguments.first, static_cast<int>(arguments.runs) - 1},
            static_cast<const T*>(arguments.gradients),
            {parameters},
            aligned_to(16, static_cast<const T*>(arguments.gradients) + head),
            arguments.copy,
            arguments.copy_dtype,
            arguments.copy != nullptr && aligned_to(Work::kLanes * sizeof(uint16_t),
                                                    static_cast<const uint16_t*>(arguments.copy) + head)};
  for (int k = 1; k < Work::kArrays; ++k) {
    work.arrays[k] = static_cast<T*>(arguments.slots[k - 1]);
    work.vectors = work.vectors && aligned_to(16, work.arrays[k] + head);
  }
  launch_flat(stream, arguments.n, head, work.vectors, work);
}

}  // namespace

void CudaBackend::update(UpdateFormula formula, const UpdateArguments& arguments) {
  check_copy(arguments);
  if (arguments.n <= 0) return;
  void* const numbers = scratch_bytes(static_cast<size_t>(arguments.runs) * kNumberBytes);
  dispatch_accumulation("update", arguments.dtype, [&](auto type) {
    using T = decltype(type);
    visit_update<T>(formula, [&](auto update) {
      launch_update<typename decltype(update)::type, T>(stream(), arguments, numbers);
    });
  });
}

}  // namespace lockstep
