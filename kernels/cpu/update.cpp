// Optimizer updates: one pass over parameters, gradients and state; and the verdict before them.
#include "lockstep/kernels/math/update.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "lockstep/kernels/cpu/conversion.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// Elements whose copy is made while they are in the first-level cache, with the gradients and the state that
// came with them.
constexpr int64_t kCopyPiece = 1024;

// UpdateArguments::copy of up to kCopyPiece parameters from `begin` on.
template <class T>
void store_copy(const UpdateArguments& arguments, int64_t begin, int64_t end) {
  if constexpr (std::is_same_v<T, float>) {
    const float* const parameters = static_cast<const float*>(arguments.parameters) + begin;
    dispatch_floating("update: copy", arguments.copy_dtype, [&](auto type) {
      using S = decltype(type);
      S* const copy = static_cast<S*>(arguments.copy) + begin;
      if (arguments.n * static_cast<int64_t>(sizeof(S)) < kStreamBytes) {
        convert_elements(end - begin, parameters, copy);
        return;
      }
      alignas(64) S piece[kCopyPiece];
      convert_elements(end - begin, parameters, piece);
      stream_copy(copy, piece, static_cast<size_t>(end - begin) * sizeof(S));
    });
  }
}

template <class Update, class T>
void update_elements(const UpdateArguments& arguments) {
  if (arguments.gate != nullptr && *arguments.gate == 0.0) return;
  const Update update(arguments.row != nullptr ? arguments.row : arguments.scalars);
  if (arguments.copy == nullptr && is_idle(update)) return;
  const T scale = static_cast<T>(arguments.factor != nullptr ? arguments.gradient_scale * *arguments.factor
                                                             : arguments.gradient_scale);
  T* parameters = static_cast<T*>(arguments.parameters);
  const T* gradients = static_cast<const T*>(arguments.gradients);
  T* slot0 = static_cast<T*>(arguments.slots[0]);
  T* slot1 = static_cast<T*>(arguments.slots[1]);
  T* slot2 = static_cast<T*>(arguments.slots[2]);
  T* slot3 = static_cast<T*>(arguments.slots[3]);
  static_assert(Update::kSlots <= 4);
  const auto update_range = [=](int64_t begin, int64_t end) {
    simd_for<T>(end - begin, [=](int64_t offset) {
      const int64_t i = begin + offset;
      const T gradient = scale * gradients[i];
      if constexpr (Update::kSlots == 0) {
        update(parameters[i], gradient);
      } else if constexpr (Update::kSlots == 1) {
        update(parameters[i], gradient, slot0[i]);
      } else if constexpr (Update::kSlots == 2) {
        update(parameters[i], gradient, slot0[i], slot1[i]);
      } else if constexpr (Update::kSlots == 3) {
        update(parameters[i], gradient, slot0[i], slot1[i], slot2[i]);
      } else {
        update(parameters[i], gradient, slot0[i], slot1[i], slot2[i], slot3[i]);
      }
    });
  };
  parallel_ranges(arguments.n, kElementGrain, [=, &arguments](int64_t begin, int64_t end) {
    const bool copies = arguments.copy != nullptr;
    const int64_t piece = copies ? kCopyPiece : end - begin;
    for (int64_t i = begin; i < end; i += piece) {
      const int64_t stop = std::min(i + piece, end);
      update_range(i, stop);
      if (copies) store_copy<T>(arguments, i, stop);
    }
    if (copies) stream_fence();
  });
}

// Calls use(arguments) for the elements of each run, as an update of one.
template <class Use>
void for_runs(UpdateArguments arguments, const Use& use) {
  if (arguments.ends == nullptr) {
    use(arguments);
    return;
  }
  const auto bytes = static_cast<int64_t>(size_of(arguments.dtype));
  const auto copy_bytes = static_cast<int64_t>(size_of(arguments.copy_dtype));
  const auto advance = [](auto*& pointer, int64_t distance) {
    using Byte = std::conditional_t<std::is_same_v<decltype(pointer), const void*&>, const char, char>;
    if (pointer != nullptr) pointer = static_cast<Byte*>(pointer) + distance;
  };
  const int64_t* const ends = std::exchange(arguments.ends, nullptr);
  const double* const rows = arguments.row;
  const int64_t last = arguments.first + arguments.n;
  int64_t run = std::upper_bound(ends, ends + arguments.runs, arguments.first) - ends;
  for (int64_t begin = arguments.first; begin < last; ++run) {
    arguments.n = std::min(ends[run], last) - begin;
    arguments.row = rows + run * UpdateArguments::kScalars;
    use(arguments);
    advance(arguments.parameters, arguments.n * bytes);
    advance(arguments.gradients, arguments.n * bytes);
    for (void*& slot : arguments.slots) advance(slot, arguments.n * bytes);
    advance(arguments.copy, arguments.n * copy_bytes);
    begin += arguments.n;
  }
}

}  // namespace

void CpuBackend::judge(const StepJudgement& judgement) {
  // Pairs of neighbours, neighbouring pairs and so on: the tree that splits at the largest power of two.
  double* const sums = judgement.square_sums;
  for (int64_t distance = 1; distance < judgement.blocks; distance *= 2) {
    for (int64_t i = 0; i + distance < judgement.blocks; i += 2 * distance) sums[i] += sums[i + distance];
  }
  StepState& state = *judgement.state;
  // The update's number is that of the updates before it.
  const int64_t update = static_cast<int64_t>(state.updates);
  judge_step(judgement.blocks > 0 ? sums[0] : 0.0, judgement.sums[0], judgement.sums[1], judgement.max_norm,
             judgement.loss_scale, state);
  dispatch_accumulation("judge", judgement.dtype, [&](auto type) {
    using T = decltype(type);
    *static_cast<T*>(judgement.cotangent) = static_cast<T>(state.loss_scale.scale);
  });
  std::copy_n(judgement.table + update % judgement.rows * judgement.row_size, judgement.row_size,
              judgement.row);
}

void CpuBackend::update(UpdateFormula formula, const UpdateArguments& arguments) {
  check_copy(arguments);
  dispatch_accumulation("update", arguments.dtype, [&](auto type) {
    using T = decltype(type);
    visit_update<T>(formula, [&](auto update) {
      for_runs(arguments, update_elements<typename decltype(update)::type, T>);
    });
  });
}

}  // namespace lockstep
