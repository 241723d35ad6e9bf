// The course of a step: local tree sums as gradients arrive, then, bucket by bucket and piece by piece, what
// workers do together (piece_reduction.h), along the operations of the layout (exchange_layout.h).
//
// On a GPU everything behind the local sums is issued to the backend's lane, so that it runs beside the rest
// of the backward sweep: the lane waits for the sums of a bucket, and the result for the lane.
#include "lockstep/parallel/gradient_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/parallel/exchange_layout.h"
#include "lockstep/parallel/exposed_time.h"
#include "lockstep/parallel/piece_reduction.h"

namespace lockstep {

namespace {

constexpr int64_t kNone = -1;

using Piece = ExchangeLayout::Piece;
using Operation = ExchangeLayout::Operation;

// Where a slice of the gradient stands.
struct SliceState {
  int64_t elements = 0;     // what add() brings; known from the first call on
  int64_t seen_in = kNone;  // the last micro-batch that brought it
};

}  // namespace

struct GradientExchange::Impl {
  // ---- what never changes
  // ----------------------------------------------------------------------------------------
  Communicator& communicator;
  Backend& backend;
  Backend& lane;
  const DType dtype;
  const int64_t element_size;
  const ExchangeOptions options;
  const int rank, world_size;
  const ExchangeLayout layout;
  const MicroBatchRange owned;

  PieceReduction pieces;

  // ---- where the step is
  // -----------------------------------------------------------------------------------------
  bool in_step = false;
  int64_t micro_batch = kNone;  // between begin_micro_batch and end_micro_batch
  int64_t next_micro_batch = 0;
  std::vector<SliceState> slices;  // of the layout's
  size_t slices_seen = 0;          // in this micro-batch
  size_t expected_slice = 0;
  std::vector<int64_t> slices_left;  // of each bucket, in the last micro-batch
  size_t next_operation = 0;
  struct UnderWay {
    std::unique_ptr<Request> request;  // null: nothing travels
    size_t piece;
  };
  std::deque<UnderWay> gathers, last_requests;
  ExposedTime exposed;

  Impl(Communicator& communicator_, Backend& backend_, DType dtype_, int64_t extent,
       std::vector<int64_t> slice_offsets, const ExchangeOptions& options_)
      : communicator(communicator_),
        backend(backend_),
        lane(backend_.lane()),
        dtype(dtype_),
        element_size(static_cast<int64_t>(size_of(dtype_))),
        options(options_),
        rank(communicator_.rank()),
        world_size(communicator_.world_size()),
        layout(lay_out_exchange(extent, std::move(slice_offsets), dtype_, options_, world_size)),
        owned(owned_micro_batches(options_.micro_batches, rank, world_size)),
        pieces(communicator_, backend_, checked(dtype_), layout, checked(options, world_size)),
        slices(layout.slices.size()),
        exposed(backend_) {}

  static DType checked(DType dtype) {
    if (dtype != DType::kF32 && dtype != DType::kF64) {
      fail(ErrorKind::kInternal, fmt::format("gradient exchange: fp32 or fp64, not {}", name_of(dtype)));
    }
    return dtype;
  }
  static const ExchangeOptions& checked(const ExchangeOptions& options, int world_size) {
    if (options.micro_batches < world_size) {
      fail(ErrorKind::kUsage,
           fmt::format("train.micro_batches: at least one for every worker: {} micro-batches, {} workers",
                       options.micro_batches, world_size));
    }
    return options;
  }

  // ---- one step
  // --------------------------------------------------------------------------------------------------

  // Adds the slice to the local sums: `values`, or zeros when null.
  void add_slice(const ExchangeLayout::Slice& slice, int64_t n, const void* values) {
    pieces.local().add(micro_batch - owned.begin, slice.offset, n, values);
    if (micro_batch + 1 == owned.end) --slices_left[static_cast<size_t>(slice.bucket)];
  }

  size_t find_slice(int64_t offset) const {
    const std::vector<ExchangeLayout::Slice>& all = layout.slices;
    if (expected_slice < all.size() && all[expected_slice].offset == offset) return expected_slice;
    const auto found = std::ranges::lower_bound(all, offset, {}, &ExchangeLayout::Slice::offset);
    if (found == all.end() || found->offset != offset) {
      fail(ErrorKind::kInternal, fmt::format("gradient exchange: no slice starts at element {}", offset));
    }
    return static_cast<size_t>(found - all.begin());
  }

  std::string label(const Piece& piece) const { return fmt::format("bucket {}", piece.bucket); }

  // Issues the operations whose turn has come. With `until_done` waits for those that it needs, else returns.
  void advance(bool until_done) {
    for (; next_operation < layout.operations.size(); ++next_operation) {
      const Operation& operation = layout.operations[next_operation];
      const Piece& piece = layout.pieces[operation.piece];
      switch (operation.kind) {
        case Operation::Kind::kGather:
          if (!may_go(piece, until_done)) return poll();
          gathers.push_back({pieces.gather(operation.piece), operation.piece});
          break;
        case Operation::Kind::kShare:
          if (const auto& gather = gathers.front().request) {
            if (until_done) {
              gather->wait();
            } else if (!gather->test()) {
              return;
            }
          }
          gathers.pop_front();
          pieces.combine(operation.piece);
          if (piece.keep) break;
          if (auto request = pieces.share(operation.piece)) {
            last_requests.push_back({std::move(request), operation.piece});
          }
          break;
        case Operation::Kind::kAllReduce: {
          if (!may_go(piece, until_done)) return poll();
          std::byte* const data = pieces.local().at(0, piece.range.begin);
          const int64_t n = piece.range.size();
          const bool of_sums = piece.range.begin >= layout.sums_begin;
          last_requests.push_back(
              {communicator.device().all_reduce_sum(data, of_sums ? pieces.local().doubles(n) : n,
                                                    of_sums ? DType::kF64 : dtype, label(piece)),
               operation.piece});
          break;
        }
      }
    }
  }

  // Whether the local sums of a piece are there, on all workers of this host. Waits for the others' if told.
  bool may_go(const Piece& piece, bool waits) {
    return slices_left[static_cast<size_t>(piece.bucket)] == 0 && pieces.have_met(piece.bucket, waits);
  }

  // Lets what has been issued make progress; waits for its end if told.
  void poll(bool waits = false) {
    for (; !last_requests.empty(); last_requests.pop_front()) {
      const UnderWay& oldest = last_requests.front();
      if (waits) {
        oldest.request->wait();
      } else if (!oldest.request->test()) {
        return;
      }
      pieces.take_shared(oldest.piece);
    }
  }

  void require(bool condition, const char* rule) const {
    if (!condition) fail(ErrorKind::kInternal, fmt::format("gradient exchange: {}", rule));
  }
};

GradientExchange::GradientExchange(Communicator& communicator, Backend& backend, DType dtype, int64_t extent,
                                   std::vector<int64_t> slice_offsets, const ExchangeOptions& options)
    : impl_(std::make_unique<Impl>(communicator, backend, dtype, extent, std::move(slice_offsets), options)) {
}

GradientExchange::~GradientExchange() = default;

void GradientExchange::begin_step() {
  Impl& impl = *impl_;
  impl.require(!impl.in_step, "begin_step before the last step was finished");
  impl.pieces.begin_step();
  impl.in_step = true;
  impl.next_micro_batch = impl.owned.begin;
  impl.next_operation = 0;
  impl.slices_left = impl.layout.slices_in_bucket;
}

void GradientExchange::begin_micro_batch(int64_t micro_batch) {
  Impl& impl = *impl_;
  impl.require(impl.in_step && impl.micro_batch == kNone,
               "begin_micro_batch outside of a step or inside of another");
  if (micro_batch != impl.next_micro_batch || micro_batch >= impl.owned.end) {
    fail(ErrorKind::kInternal,
         fmt::format("gradient exchange: micro-batch {} out of turn: rank {} owns [{}, {}), next is {}",
                     micro_batch, impl.rank, impl.owned.begin, impl.owned.end, impl.next_micro_batch));
  }
  impl.micro_batch = micro_batch;
  impl.slices_seen = 0;
  impl.expected_slice = impl.slices.size() - 1;
  for (SliceState& slice : impl.slices) slice.seen_in = kNone;
}

Tensor GradientExchange::room(int64_t offset, const Shape& shape) const {
  impl_->require(impl_->micro_batch != kNone, "room outside of a micro-batch");
  return impl_->pieces.local().room(impl_->micro_batch - impl_->owned.begin, offset, shape);
}

void GradientExchange::add(int64_t offset, int64_t n, const void* values) {
  Impl& impl = *impl_;
  impl.require(impl.micro_batch != kNone, "add outside of a micro-batch");
  const size_t index = impl.find_slice(offset);
  const ExchangeLayout::Slice& place = impl.layout.slices[index];
  SliceState& slice = impl.slices[index];
  if (slice.seen_in == impl.micro_batch) {
    fail(ErrorKind::kInternal,
         fmt::format("gradient exchange: slice at {} came twice in a micro-batch", offset));
  }
  if (slice.elements == 0 && n > 0 && n <= place.capacity) slice.elements = n;
  if (n != slice.elements) {
    fail(ErrorKind::kInternal, fmt::format("gradient exchange: slice at {}: {} elements, expected {}", offset,
                                           n, slice.elements > 0 ? slice.elements : place.capacity));
  }
  slice.seen_in = impl.micro_batch;
  ++impl.slices_seen;
  impl.expected_slice = index - 1;
  impl.add_slice(place, n, values);
  if (impl.micro_batch + 1 == impl.owned.end) impl.advance(false);
}

void GradientExchange::end_micro_batch() {
  Impl& impl = *impl_;
  impl.require(impl.micro_batch != kNone, "end_micro_batch without begin_micro_batch");
  if (impl.slices_seen < impl.slices.size()) {
    for (size_t i = 0; i < impl.slices.size(); ++i) {
      const ExchangeLayout::Slice& place = impl.layout.slices[i];
      if (impl.slices[i].seen_in != impl.micro_batch) impl.add_slice(place, place.capacity, nullptr);
    }
    if (impl.micro_batch + 1 == impl.owned.end) impl.advance(false);
  }
  impl.micro_batch = kNone;
  ++impl.next_micro_batch;
}

bool GradientExchange::spoil(int64_t end) {
  Impl& impl = *impl_;
  impl.require(impl.micro_batch != kNone, "spoil outside of a micro-batch");
  const auto missing = [&](size_t index) { return impl.slices[index].seen_in != impl.micro_batch; };
  if (impl.options.sums > 0 && missing(impl.find_slice(impl.layout.sums_begin))) {
    add_sums(Tensor::full({impl.options.sums}, DType::kF64, impl.backend, std::nan("")).data_as<double>());
    return true;
  }
  for (size_t i = 0; i < impl.slices.size() && impl.layout.slices[i].offset < end; ++i) {
    if (!missing(i)) continue;
    const ExchangeLayout::Slice& place = impl.layout.slices[i];
    const int64_t n = impl.slices[i].elements > 0 ? impl.slices[i].elements : place.capacity;
    Tensor values = Tensor::zeros({n}, impl.dtype, impl.backend);
    Tensor first = values.view({1}, 0);
    first.assign(first.full_like(std::nan("")));
    impl.slices[i].seen_in = impl.micro_batch;
    ++impl.slices_seen;
    impl.add_slice(place, n, values.data());
    return true;
  }
  return false;
}

void GradientExchange::finish(const std::function<void()>& issued) {
  Impl& impl = *impl_;
  impl.require(impl.in_step && impl.micro_batch == kNone && impl.next_micro_batch == impl.owned.end,
               "finish before all owned micro-batches were added");
  impl.exposed.begin();
  impl.advance(true);
  if (issued) issued();
  impl.poll(true);
  impl.pieces.finish_step();
  if (!impl.layout.operations.empty()) impl.backend.wait_for(impl.lane);
  impl.exposed.end();
  impl.in_step = false;
}

void GradientExchange::add_sums(const double* values) {
  Impl& impl = *impl_;
  impl.require(impl.options.sums > 0, "it carries no sums");
  add(impl.layout.sums_begin, impl.options.sums * static_cast<int64_t>(sizeof(double)) / impl.element_size,
      values);
}

const Tensor& GradientExchange::result() const {
  return impl_->pieces.local().array(0);
}

const double* GradientExchange::sums() const {
  return reinterpret_cast<const double*>(static_cast<const std::byte*>(result().data()) +
                                         impl_->layout.sums_begin * impl_->element_size);
}

double GradientExchange::take_exposed_seconds() {
  return impl_->exposed.take();
}
size_t GradientExchange::bytes() const {
  return impl_->pieces.bytes();
}
int64_t GradientExchange::buckets() const {
  return std::ssize(impl_->layout.slices_in_bucket);
}

}  // namespace lockstep
