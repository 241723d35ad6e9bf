// The lockstep reduction: local tree sums as gradients arrive, then, bucket by bucket and piece by piece,
// each worker gathers its share of a piece from all workers, adds in tree order, and shares the sum.
//
// A step walks along the operations of the layout (exchange_layout.h).
//
// On a GPU everything behind the local sums is issued to the backend's lane, so that it runs beside the rest
// of the backward sweep: the lane waits for the sums of a bucket, and the result for the lane.
#include "lockstep/parallel/gradient_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/parallel/exchange_layout.h"
#include "lockstep/parallel/exposed_time.h"
#include "lockstep/parallel/local_sums.h"

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

  std::vector<TreeNode> nodes;        // the maximal nodes of all workers, left to right
  std::vector<int> owners;            // the worker of each
  int home = 0, home_end = 0;         // nodes [home, home_end) are this worker's
  std::vector<Addition> combination;  // over nodes; ends in `home`

  std::optional<LocalSums> local;  // of this worker's nodes; in library mode of all that it owns. The first
                                   // array becomes the result
  Tensor
      staging;  // received blocks: (gathers in flight, foreign nodes, most elements that this worker adds up)
  int64_t staging_stride = 0;

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
  std::deque<std::unique_ptr<Request>> gathers, last_requests;
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
        slices(layout.slices.size()),
        exposed(backend_) {
    if (dtype != DType::kF32 && dtype != DType::kF64) {
      fail(ErrorKind::kInternal, fmt::format("gradient exchange: fp32 or fp64, not {}", name_of(dtype)));
    }
    if (options.micro_batches < world_size) {
      fail(ErrorKind::kUsage,
           fmt::format("train.micro_batches: at least one for every worker: {} micro-batches, {} workers",
                       options.micro_batches, world_size));
    }
    local.emplace(backend, dtype, layout.extent, layout.sums_begin, plan_sums());
    make_staging();
  }

  // Of all workers; returns this one's.
  LocalPlan plan_sums() {
    if (options.mode == ReductionMode::kLibrary) return plan_running_sum(owned.size());
    LocalPlan own;
    for (int worker = 0; worker < world_size; ++worker) {
      const std::vector<TreeNode> theirs = maximal_nodes(
          options.micro_batches, owned_micro_batches(options.micro_batches, worker, world_size));
      if (worker == rank) {
        home = static_cast<int>(nodes.size());
        home_end = home + static_cast<int>(theirs.size());
        own = plan_local_sums(theirs);
      }
      nodes.insert(nodes.end(), theirs.begin(), theirs.end());
      owners.insert(owners.end(), theirs.size(), worker);
    }
    combination = plan_combination(options.micro_batches, nodes, home);
    return own;
  }

  void make_staging() {
    for (const Piece& piece : layout.pieces) {
      int64_t own = 0;
      for (const Share& share : piece.shares) own += share.owner == rank ? share.range.size() : 0;
      staging_stride = std::max(staging_stride, own);
    }
    const auto foreign_nodes = static_cast<int64_t>(nodes.size()) - (home_end - home);
    if (world_size > 1) {
      staging = Tensor::empty({kGathersInFlight * foreign_nodes * staging_stride}, dtype, backend);
    }
  }

  // ---- one step
  // --------------------------------------------------------------------------------------------------

  // Adds the slice to the local sums: `values`, or zeros when null.
  void add_slice(const ExchangeLayout::Slice& slice, int64_t n, const void* values) {
    local->add(micro_batch - owned.begin, slice.offset, n, values);
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

  // Where the sum of a node is during the combination of a share of this worker's: its own are in place, the
  // others' in staging, from element `staged` on.
  std::byte* node_data(size_t piece, int node, const Share& share, int64_t staged) {
    if (node >= home && node < home_end) {
      return local->at(node - home, share.range.begin);
    }
    const auto foreign_nodes = static_cast<int64_t>(nodes.size()) - (home_end - home);
    const int64_t foreign = node < home ? node : node - (home_end - home);
    const auto slot = static_cast<int64_t>(piece % kGathersInFlight);
    return static_cast<std::byte*>(staging.mutable_data()) +
           ((slot * foreign_nodes + foreign) * staging_stride + staged) * element_size;
  }

  // Workers in the order in which this one turns to them: its right neighbour first, itself left out.
  // Starting everywhere at the same worker would make it everyone's bottleneck.
  int peer(int i) const { return (rank + i) % world_size; }

  std::string label(const Piece& piece) const { return fmt::format("bucket {}", piece.bucket); }

  size_t bytes_of(const Share& share) const { return static_cast<size_t>(share.range.size() * element_size); }

  std::unique_ptr<Request> gather(size_t index) {
    const Piece& piece = layout.pieces[index];
    std::vector<SendBlock> sends;
    for (int i = 1; i < world_size; ++i) {
      for (const Share& share : piece.shares) {
        if (share.owner != peer(i)) continue;
        for (int node = home; node < home_end; ++node) {
          sends.push_back({peer(i), local->at(node - home, share.range.begin), bytes_of(share)});
        }
      }
    }
    std::vector<ReceiveBlock> receives;
    int64_t staged = 0;
    for (const Share& share : piece.shares) {
      if (share.owner != rank) continue;
      for (int node = 0; node < static_cast<int>(nodes.size()); ++node) {
        if (node >= home && node < home_end) continue;
        receives.push_back(
            {owners[static_cast<size_t>(node)], node_data(index, node, share, staged), bytes_of(share)});
      }
      staged += share.range.size();
    }
    return communicator.device().exchange(std::move(sends), std::move(receives), label(piece));
  }

  void combine(size_t index) {
    int64_t staged = 0;
    for (const Share& share : layout.pieces[index].shares) {
      if (share.owner != rank) continue;
      for (const Addition& addition : combination) {
        local->accumulate(lane, share.range.begin, share.range.size(),
                          node_data(index, addition.from, share, staged),
                          node_data(index, addition.to, share, staged));
      }
      staged += share.range.size();
    }
  }

  std::unique_ptr<Request> share(size_t index) {
    const Piece& piece = layout.pieces[index];
    std::vector<SendBlock> sends;
    std::vector<ReceiveBlock> receives;
    for (int i = 1; i < world_size; ++i) {
      for (const Share& share : piece.shares) {
        if (share.owner == rank) sends.push_back({peer(i), local->at(0, share.range.begin), bytes_of(share)});
        if (share.owner == peer(i))
          receives.push_back({peer(i), local->at(0, share.range.begin), bytes_of(share)});
      }
    }
    return communicator.device().exchange(std::move(sends), std::move(receives), label(piece));
  }

  // Lets the lane see the local sums of a bucket when its first piece is about to go.
  void join_lane(size_t index) {
    if (index == 0 || layout.pieces[index - 1].bucket != layout.pieces[index].bucket) lane.wait_for(backend);
  }

  // Issues the operations whose turn has come. With `until_done` waits for those that it needs, else returns.
  void advance(bool until_done) {
    for (; next_operation < layout.operations.size(); ++next_operation) {
      const Operation& operation = layout.operations[next_operation];
      const Piece& piece = layout.pieces[operation.piece];
      switch (operation.kind) {
        case Operation::Kind::kGather:
          if (slices_left[static_cast<size_t>(piece.bucket)] > 0) return poll();
          join_lane(operation.piece);
          gathers.push_back(gather(operation.piece));
          break;
        case Operation::Kind::kShare:
          if (until_done) {
            gathers.front()->wait();
          } else if (!gathers.front()->test()) {
            return;
          }
          gathers.pop_front();
          combine(operation.piece);
          if (!piece.keep) last_requests.push_back(share(operation.piece));
          break;
        case Operation::Kind::kAllReduce:
          if (slices_left[static_cast<size_t>(piece.bucket)] > 0) return poll();
          join_lane(operation.piece);
          last_requests.push_back(
              piece.range.begin < layout.sums_begin
                  ? communicator.device().all_reduce_sum(local->at(0, piece.range.begin), piece.range.size(),
                                                         dtype, label(piece))
                  : communicator.device().all_reduce_sum(local->at(0, piece.range.begin),
                                                         local->doubles(piece.range.size()), DType::kF64,
                                                         label(piece)));
          break;
      }
    }
  }

  // Lets what has been issued make progress.
  void poll() {
    while (!last_requests.empty() && last_requests.front()->test()) last_requests.pop_front();
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

void GradientExchange::finish(const std::function<void()>& issued) {
  Impl& impl = *impl_;
  impl.require(impl.in_step && impl.micro_batch == kNone && impl.next_micro_batch == impl.owned.end,
               "finish before all owned micro-batches were added");
  impl.exposed.begin();
  impl.advance(true);
  if (issued) issued();
  for (const auto& request : impl.last_requests) request->wait();
  impl.last_requests.clear();
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
  return impl_->local->array(0);
}

const double* GradientExchange::sums() const {
  return reinterpret_cast<const double*>(static_cast<const std::byte*>(result().data()) +
                                         impl_->layout.sums_begin * impl_->element_size);
}

double GradientExchange::take_exposed_seconds() {
  return impl_->exposed.take();
}
size_t GradientExchange::bytes() const {
  return impl_->local->bytes() + (impl_->staging.defined() ? impl_->staging.bytes() : 0);
}
int64_t GradientExchange::buckets() const {
  return std::ssize(impl_->layout.slices_in_bucket);
}

}  // namespace lockstep
