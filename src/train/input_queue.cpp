// Two places for the samples of a step, filled in turns.
#include "lockstep/train/input_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

// One kind of array of all micro-batches, one behind the other: on the device, and where the host writes it.
// Each begins where a tensor of its own might: libraries choose algorithms by the alignment of addresses, and
// a micro-batch must be computed the same whatever its number among those of a worker.
class StagedArray {
 public:
  StagedArray() = default;
  // count: elements of a micro-batch.
  StagedArray(int64_t micro_batches, int64_t count, DType dtype, Backend& backend)
      : stride_((count + kAlignment - 1) / kAlignment * kAlignment),
        tensor_(Tensor::empty({micro_batches * stride_}, dtype, backend)),
        pinned_(backend.allocate_pinned(tensor_.bytes())) {
    if (pinned_ != nullptr) std::memset(pinned_, 0, tensor_.bytes());
  }
  ~StagedArray() {
    if (pinned_ != nullptr) tensor_.backend().release_pinned(pinned_);
  }
  StagedArray(StagedArray&& other) noexcept
      : stride_(other.stride_), tensor_(std::move(other.tensor_)), pinned_(other.pinned_) {
    other.pinned_ = nullptr;
  }
  StagedArray& operator=(StagedArray&& other) noexcept {
    std::swap(stride_, other.stride_);
    std::swap(tensor_, other.tensor_);
    std::swap(pinned_, other.pinned_);
    return *this;
  }

  // The i-th micro-batch.
  Tensor view(const Shape& shape, int64_t i) const { return tensor_.view(shape, i * stride_); }

  // The i-th micro-batch of `count` elements each, converted to the tensor's type.
  template <class T>
  void write(int64_t i, int64_t count, const std::vector<T>& values) {
    if (static_cast<int64_t>(values.size()) != count) {
      fail(ErrorKind::kInternal,
           fmt::format("input queue: {} values in a micro-batch that has {}", values.size(), count));
    }
    void* const place = pinned_ != nullptr ? pinned_ : tensor_.mutable_data();
    if (tensor_.dtype() != dtype_of<T>) {
      std::copy(values.begin(), values.end(), static_cast<double*>(place) + i * stride_);
    } else if (pinned_ != nullptr) {
      std::memcpy(static_cast<T*>(place) + i * stride_, values.data(), values.size() * sizeof(T));
    } else {
      tensor_.backend().copy_from_host(static_cast<T*>(place) + i * stride_, values.data(),
                                       values.size() * sizeof(T));
    }
  }

  // Sends what was written. `range`: of integers.
  void send(Backend& copies, const std::optional<IndexRange>& range) {
    void* const place = tensor_.mutable_data();
    if (pinned_ != nullptr) copies.copy_from_pinned(place, pinned_, tensor_.bytes());
    if (range) tensor_.set_index_range(*range);
  }

 private:
  static constexpr int64_t kAlignment = 64;  // elements: 256 bytes or more

  int64_t stride_ = 0;
  Tensor tensor_;
  void* pinned_ = nullptr;
};

void include(std::optional<IndexRange>& range, const std::vector<int32_t>& values) {
  if (values.empty()) return;
  const auto [least, largest] = std::ranges::minmax(values);
  range = range ? IndexRange{std::min(range->least, least), std::max(range->largest, largest)}
                : IndexRange{least, largest};
}

struct Place {
  StagedArray inputs, targets, weights;
  std::vector<DeviceBatch> batches;
  int64_t valid = 0;
  std::unique_ptr<Marker> copied;    // of the copies' queue
  std::unique_ptr<Marker> computed;  // of the computation's: the last that reads the tensors
};

}  // namespace

struct InputQueue::Impl {
  Backend& backend;
  Backend& copies;
  const int64_t micro_batch_size;
  std::array<Place, kPlaces> places;
  int64_t staged = 0, begun = 0;  // steps so far

  Place& place_of(int64_t step) { return places[static_cast<size_t>(step % kPlaces)]; }
};

InputQueue::InputQueue(Backend& backend, const DataShape& data, DType dtype, int64_t micro_batches,
                       int64_t micro_batch_size)
    : impl_(new Impl{backend, backend.copies(), micro_batch_size, {}}) {
  if (dtype != DType::kF32 && dtype != DType::kF64) {
    fail(ErrorKind::kInternal, fmt::format("input queue: fp32 or fp64, not {}", name_of(dtype)));
  }
  Shape sample{micro_batch_size};
  for (int64_t extent : data.sample.extents()) sample.push_back(extent);
  const Shape target = data.classes > 0 ? Shape{micro_batch_size} : Shape{micro_batch_size, data.targets};
  for (Place& place : impl_->places) {
    place.inputs = StagedArray(micro_batches, sample.elements(),
                               data.input == DType::kI32 ? DType::kI32 : dtype, backend);
    place.targets =
        StagedArray(micro_batches, target.elements(), data.classes > 0 ? DType::kI32 : dtype, backend);
    place.weights = StagedArray(micro_batches, micro_batch_size, dtype, backend);
    place.copied = impl_->copies.marker(false);
    place.computed = backend.marker(false);
    for (int64_t i = 0; i < micro_batches; ++i) {
      DeviceBatch batch;
      batch.inputs = place.inputs.view(sample, i);
      batch.targets = place.targets.view(target, i);
      place.batches.push_back(std::move(batch));
    }
  }
  // Whoever had this memory before may still be reading it.
  impl_->copies.wait_for(backend);
}

// The memory of the places goes back to the backend's queue only when nothing travels any more.
InputQueue::~InputQueue() {
  try {
    impl_->backend.wait_for(impl_->copies);
  } catch (const Error&) {  // the device has failed: the run is ending with the reason
  }
}

void InputQueue::stage(const StepBatch& batch) {
  Impl& impl = *impl_;
  if (impl.staged - impl.begun == kPlaces - (impl.begun > 0 ? 1 : 0)) {
    fail(ErrorKind::kInternal, fmt::format("input queue: step {} staged while {} are waiting", batch.step,
                                           impl.staged - impl.begun));
  }
  Place& place = impl.place_of(impl.staged);
  if (batch.micro_batches.size() != place.batches.size()) {
    fail(ErrorKind::kInternal, fmt::format("input queue: {} micro-batches staged, expected {}",
                                           batch.micro_batches.size(), place.batches.size()));
  }
  place.copied->wait();
  place.computed->hold(impl.copies);

  std::optional<IndexRange> indices, labels;
  bool padded = false;
  std::vector<float> weights(static_cast<size_t>(impl.micro_batch_size));
  for (size_t i = 0; i < place.batches.size(); ++i) {
    const MicroBatch& source = batch.micro_batches[i];
    DeviceBatch& target = place.batches[i];
    const auto number = static_cast<int64_t>(i);
    include(indices, source.inputs_i32);
    include(labels, source.labels);
    const int64_t inputs = target.inputs.elements(), targets = target.targets.elements();
    if (target.inputs.dtype() == DType::kI32) {
      place.inputs.write(number, inputs, source.inputs_i32);
    } else {
      place.inputs.write(number, inputs, source.inputs_f32);
    }
    if (target.targets.dtype() == DType::kI32) {
      place.targets.write(number, targets, source.labels);
    } else {
      place.targets.write(number, targets, source.targets);
    }
    target.number = source.number;
    target.valid = source.valid;
    target.weights = {};
    if (source.valid == source.size) continue;
    padded = true;
    for (int64_t row = 0; row < source.size; ++row)
      weights[static_cast<size_t>(row)] = row < source.valid ? 1.0f : 0.0f;
    place.weights.write(number, source.size, weights);
    target.weights = place.weights.view({source.size}, number);
  }
  place.inputs.send(impl.copies, indices);
  place.targets.send(impl.copies, labels);
  if (padded) place.weights.send(impl.copies, {});
  place.copied->set();
  place.valid = batch.valid;
  ++impl.staged;
}

void InputQueue::next() {
  Impl& impl = *impl_;
  if (impl.staged == impl.begun) fail(ErrorKind::kInternal, "input queue: no step is staged");
  if (impl.begun > 0) impl.place_of(impl.begun - 1).computed->set();
  impl.place_of(impl.begun).copied->hold(impl.backend);
  ++impl.begun;
}

std::span<const DeviceBatch> InputQueue::batches() const {
  return impl_->places[static_cast<size_t>(place())].batches;
}

int64_t InputQueue::valid() const {
  return impl_->places[static_cast<size_t>(place())].valid;
}

int InputQueue::place() const {
  if (impl_->begun == 0) fail(ErrorKind::kInternal, "input queue: next() comes first");
  return static_cast<int>((impl_->begun - 1) % kPlaces);
}

}  // namespace lockstep
