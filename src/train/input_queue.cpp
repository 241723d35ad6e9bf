// Two places for the samples of a step, filled in turns.
#include "lockstep/train/input_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

// One field of all micro-batches, one behind the other: on the device, and where the host writes it. Each
// begins where a tensor of its own might: libraries choose algorithms by the alignment of addresses, and a
// micro-batch must be computed the same whatever its number among those of a worker.
class StagedArray {
 public:
  StagedArray(Field field, int64_t micro_batches, int64_t samples, DType dtype, Backend& backend)
      : field_(std::move(field)),
        shape_(batch_shape(field_, samples)),
        stride_((shape_.elements() + kAlignment - 1) / kAlignment * kAlignment),
        tensor_(Tensor::empty({micro_batches * stride_}, device_dtype(field_, dtype), backend)),
        staged_bytes_(static_cast<size_t>(tensor_.elements()) *
                      size_of(field_.narrow() ? field_.dtype : tensor_.dtype())),
        pinned_(backend.allocate_pinned(staged_bytes_)) {
    if (pinned_ == nullptr) return;
    std::memset(pinned_, 0, staged_bytes_);
    if (!field_.narrow()) return;
    stored_ = Tensor::empty({tensor_.elements()}, field_.dtype, backend);
    widening_.emplace(field_, tensor_.elements(), tensor_.dtype(), backend);
  }
  ~StagedArray() {
    if (pinned_ != nullptr) tensor_.backend().release_pinned(pinned_);
  }
  StagedArray(StagedArray&& other) noexcept
      : field_(std::move(other.field_)),
        shape_(other.shape_),
        stride_(other.stride_),
        tensor_(std::move(other.tensor_)),
        staged_bytes_(other.staged_bytes_),
        stored_(std::move(other.stored_)),
        widening_(std::move(other.widening_)),
        pinned_(std::exchange(other.pinned_, nullptr)),
        range_(other.range_) {}
  StagedArray& operator=(StagedArray&&) = delete;

  const std::string& name() const { return field_.name; }
  // The i-th micro-batch.
  Tensor view(int64_t i) const { return tensor_.view(shape_, i * stride_); }

  // Before the micro-batches of a step.
  void begin() { range_.reset(); }
  // The i-th micro-batch.
  void write(int64_t i, const MicroBatch::Array& array) {
    if (array.field.name != field_.name || array.field.dtype != field_.dtype) {
      fail(ErrorKind::kInternal,
           fmt::format("input queue: {} '{}' of a micro-batch, expected {} '{}'", name_of(array.field.dtype),
                       array.field.name, name_of(field_.dtype), field_.name));
    }
    if (field_.narrow()) {
      write_features(i, array.values);
    } else if (field_.dtype == DType::kI32) {
      const std::span<const int32_t> values = array.as<int32_t>();
      write(i, values);
      include(values);
    } else {
      write(i, array.as<float>());
    }
  }
  // Converted to the tensor's type.
  template <class T>
  void write(int64_t i, std::span<const T> values) {
    if (std::ssize(values) != shape_.elements()) {
      fail(ErrorKind::kInternal, fmt::format("input queue: {} values of '{}' in a micro-batch that has {}",
                                             values.size(), field_.name, shape_.elements()));
    }
    void* const place = pinned_ != nullptr ? pinned_ : tensor_.mutable_data();
    if (tensor_.dtype() != dtype_of<T>) {
      std::copy(values.begin(), values.end(), static_cast<double*>(place) + i * stride_);
    } else if (pinned_ != nullptr) {
      std::memcpy(static_cast<T*>(place) + i * stride_, values.data(), values.size_bytes());
    } else {
      tensor_.backend().copy_from_host(static_cast<T*>(place) + i * stride_, values.data(),
                                       values.size_bytes());
    }
  }
  // Sends what was written.
  void send(Backend& copies) {
    if (pinned_ != nullptr) {
      Tensor& first = stored_.defined() ? stored_ : tensor_;
      copies.copy_from_pinned(first.mutable_data(), pinned_, staged_bytes_);
      if (widening_) widening_->issue(copies, stored_.data(), tensor_);
    }
    if (range_) tensor_.set_index_range(*range_);
  }

 private:
  static constexpr int64_t kAlignment = 64;  // elements: 256 bytes or more

  // Features that are stored narrow. They travel as they are; where nothing travels, they are widened on the
  // way to their place.
  void write_features(int64_t i, std::span<const std::byte> stored) {
    const auto element = static_cast<int64_t>(size_of(field_.dtype));
    if (std::ssize(stored) != shape_.elements() * element) {
      fail(ErrorKind::kInternal, fmt::format("input queue: {} bytes of '{}' in a micro-batch that has {}",
                                             stored.size(), field_.name, shape_.elements() * element));
    }
    if (pinned_ != nullptr) {
      std::memcpy(static_cast<std::byte*>(pinned_) + i * stride_ * element, stored.data(), stored.size());
    } else if (tensor_.dtype() == DType::kF32) {
      widen_features(field_, stored.data(), shape_.elements(),
                     tensor_.mutable_data_as<float>() + i * stride_);
    } else {
      std::array<float, 1024> piece{};
      double* const place = tensor_.mutable_data_as<double>() + i * stride_;
      for (int64_t at = 0; at < shape_.elements(); at += std::ssize(piece)) {
        const int64_t count = std::min(std::ssize(piece), shape_.elements() - at);
        widen_features(field_, stored.data() + at * element, count, piece.data());
        std::copy_n(piece.begin(), count, place + at);
      }
    }
  }

  void include(std::span<const int32_t> values) {
    if (values.empty()) return;
    const auto [least, largest] = std::ranges::minmax(values);
    range_ = range_ ? IndexRange{std::min(range_->least, least), std::max(range_->largest, largest)}
                    : IndexRange{least, largest};
  }

  Field field_;
  Shape shape_;  // of a micro-batch
  int64_t stride_;
  Tensor tensor_;
  size_t staged_bytes_;  // that travel
  Tensor stored_;        // on a device: features as they have travelled
  std::optional<FeatureWidening> widening_;
  void* pinned_;
  std::optional<IndexRange> range_;  // of integers
};

struct Place {
  std::vector<StagedArray> arrays;     // of the fields
  std::optional<StagedArray> padding;  // weights of samples that have none of their own
  std::vector<Batch> batches;
  int64_t valid = 0;
  std::unique_ptr<Marker> copied;    // of the copies' queue
  std::unique_ptr<Marker> computed;  // of the computation's: the last that reads the tensors
};

}  // namespace

struct InputQueue::Impl {
  Backend& backend;
  Backend& copies;
  std::array<Place, kPlaces> places;
  int64_t staged = 0, begun = 0;  // steps so far

  Place& place_of(int64_t step) { return places[static_cast<size_t>(step % kPlaces)]; }
};

InputQueue::InputQueue(Backend& backend, const std::vector<Field>& fields, DType dtype, int64_t micro_batches,
                       int64_t micro_batch_size)
    : impl_(new Impl{backend, backend.copies(), {}}) {
  if (dtype != DType::kF32 && dtype != DType::kF64) {
    fail(ErrorKind::kInternal, fmt::format("input queue: fp32 or fp64, not {}", name_of(dtype)));
  }
  const Field weights = weights_of(fields[DataDescription::kTargets]);
  for (Place& place : impl_->places) {
    for (const Field& field : fields)
      place.arrays.emplace_back(field, micro_batches, micro_batch_size, dtype, backend);
    if (std::ranges::find(fields, weights) == fields.end())
      place.padding.emplace(weights, micro_batches, micro_batch_size, dtype, backend);
    place.copied = impl_->copies.marker(false);
    place.computed = backend.marker(false);
    for (int64_t i = 0; i < micro_batches; ++i) {
      Batch& batch = place.batches.emplace_back();
      for (const StagedArray& array : place.arrays) batch.tensors.set(array.name(), array.view(i));
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

  bool padded = false;
  for (StagedArray& array : place.arrays) array.begin();
  for (size_t i = 0; i < place.batches.size(); ++i) {
    const MicroBatch& source = batch.micro_batches[i];
    Batch& target = place.batches[i];
    target.number = source.number;
    target.valid = source.valid;
    const auto number = static_cast<int64_t>(i);
    const std::vector<float> weights = source.weights();
    for (size_t k = 0; k < place.arrays.size(); ++k) {
      if (place.arrays[k].name() == kWeightsName) {
        place.arrays[k].write(number, std::span(weights));
      } else {
        place.arrays[k].write(number, source.arrays.at(k));
      }
    }
    if (!place.padding) continue;
    if (!weights.empty()) place.padding->write(number, std::span(weights));
    target.tensors.set(kWeightsName, weights.empty() ? Tensor() : place.padding->view(number));
    padded = padded || !weights.empty();
  }
  for (StagedArray& array : place.arrays) array.send(impl.copies);
  if (padded) place.padding->send(impl.copies);
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

std::span<const Batch> InputQueue::batches() const {
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
