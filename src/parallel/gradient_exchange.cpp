// The lockstep reduction: local tree sums as gradients arrive, then, bucket by bucket and piece by piece,
// each worker gathers its share of a piece from all workers, adds in tree order, and shares the sum.
//
// Collectives must be issued in the same order everywhere, whatever the timing. So everything that a step
// issues is laid down once as a list of operations, and a step walks along it: an operation is issued when
// its input is there and all operations before it have been issued.
//
// On a GPU everything behind the local sums is issued to the backend's lane, so that it runs beside the rest
// of the backward sweep: the lane waits for the sums of a bucket, and the result for the lane.
#include "lockstep/parallel/gradient_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/parallel/reduction_plan.h"

namespace lockstep {

namespace {

// What is gathered, added and shared as a unit. Smaller pieces stay in nearer caches but make workers wait
// for each other more often, which costs most when they share cores; larger ones only cost memory.
constexpr int64_t kPieceBytes = 4 << 20;
// Gathers under way at a time, so that bytes move while others are added. Also bounds the memory that they
// need.
constexpr int kGathersInFlight = 2;
// Steps whose exposed communication a GPU has yet to say: more than it is ever behind.
constexpr size_t kStepsUnderWay = 8;
// Shares start at multiples of this many elements, so that additions run on whole vectors.
constexpr int64_t kShareAlignment = 64;

// Sums of fp64 that fit behind a gradient of fp32, whatever the shares.
constexpr int64_t kMostSums = kShareAlignment / 2;

constexpr int64_t kNone = -1;

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A slice of the gradient that add() is called with.
struct Slice {
  int64_t offset = 0, capacity = 0;  // capacity: up to the next slice
  int64_t elements = 0;              // what add() brings; known from the first call on
  int64_t bucket = 0;
  int64_t seen_in = kNone;  // the last micro-batch that brought it
};

// What is communicated as a unit, and who adds up which elements of it.
struct Piece {
  ElementRange range;
  std::vector<Share> shares;
  bool keep = false;  // the sums stay with the workers that made them
  int64_t bucket = 0;
};

// Around what finish() leaves the computation to wait for.
struct Exposure {
  std::unique_ptr<Marker> begin, end;
};

struct Operation {
  enum class Kind { kGather, kShare, kAllReduce } kind = Kind::kGather;
  size_t piece = 0;
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
  const int64_t sums_begin;  // of options.sums, behind the gradient; everything when there are none
  MicroBatchRange owned;

  std::vector<TreeNode> nodes;        // the maximal nodes of all workers, left to right
  std::vector<int> owners;            // the worker of each
  int home = 0, home_end = 0;         // nodes [home, home_end) are this worker's
  std::vector<Addition> combination;  // over nodes; ends in `home`
  LocalPlan plan;                     // of this worker's nodes; in library mode of all that it owns
  std::vector<int64_t> slices_in_bucket;
  std::vector<Piece> pieces;
  std::vector<Operation> operations;

  std::vector<Slice> slices;
  std::vector<Tensor>
      buffers;  // (extent) each; buffers[0] becomes the result; gaps between slices are always zero
  Tensor
      staging;  // received blocks: (gathers in flight, foreign nodes, most elements that this worker adds up)
  int64_t staging_stride = 0;
  Tensor zeros;  // stands in for slices that no add() brought; made when first needed

  // ---- where the step is
  // -----------------------------------------------------------------------------------------
  bool in_step = false;
  int64_t micro_batch = kNone;  // between begin_micro_batch and end_micro_batch
  int64_t next_micro_batch = 0;
  size_t slices_seen = 0;  // in this micro-batch
  size_t expected_slice = 0;
  std::vector<int64_t> slices_left;  // of each bucket, in the last micro-batch
  size_t next_operation = 0;
  std::deque<std::unique_ptr<Request>> gathers, last_requests;

  // ---- exposed communication
  // -----------------------------------------------------------------------------------------
  std::array<Exposure, kStepsUnderWay> exposures;  // used in turn
  size_t first_exposure = 0, exposures_under_way = 0;
  double exposed_seconds = 0.0;  // of those that have been read since it was asked for last

  Impl(Communicator& communicator_, Backend& backend_, DType dtype_, int64_t extent_,
       std::vector<int64_t> slice_offsets, const ExchangeOptions& options_)
      : communicator(communicator_),
        backend(backend_),
        lane(backend_.lane()),
        dtype(dtype_),
        element_size(static_cast<int64_t>(size_of(dtype_))),
        options(options_),
        rank(communicator_.rank()),
        world_size(communicator_.world_size()),
        sums_begin(options_.sums > 0 ? divide_up(extent_, kShareAlignment) * kShareAlignment : extent_) {
    if (dtype != DType::kF32 && dtype != DType::kF64) {
      fail(ErrorKind::kInternal, fmt::format("gradient exchange: fp32 or fp64, not {}", name_of(dtype)));
    }
    if (options.micro_batches < world_size) {
      fail(ErrorKind::kUsage,
           fmt::format("train.micro_batches: at least one for every worker: {} micro-batches, {} workers",
                       options.micro_batches, world_size));
    }
    if (options.bucket_bytes < 1) {
      fail(ErrorKind::kInternal, fmt::format("gradient exchange: bucket of {} bytes", options.bucket_bytes));
    }
    if (options.sums < 0 || options.sums > kMostSums) {
      fail(ErrorKind::kInternal, fmt::format("gradient exchange: {} sums", options.sums));
    }
    int64_t extent = extent_;
    if (options.sums > 0) {
      slice_offsets.push_back(sums_begin);
      extent = sums_begin + kShareAlignment;
    }
    const int64_t kept = kept_extent();
    if (kept > extent || (kept > 0 && kept < extent && !std::ranges::binary_search(slice_offsets, kept))) {
      fail(ErrorKind::kInternal,
           fmt::format("gradient exchange: shares must end with a slice of the {} elements: at {}", extent,
                       kept));
    }
    plan_sums();
    cut_buckets(extent, slice_offsets);
    if (world_size > 1) lay_down_operations();
    for (int i = 0; i < plan.buffers; ++i) buffers.push_back(Tensor::zeros({extent}, dtype, backend));
    for (Exposure& exposure : exposures) exposure = {backend.marker(true), backend.marker(true)};
  }

  // Elements that stay with the workers of options.shares.
  int64_t kept_extent() const { return options.shares.empty() ? 0 : options.shares.back().range.end; }

  void plan_sums() {
    for (int worker = 0; worker < world_size; ++worker) {
      const MicroBatchRange range = owned_micro_batches(options.micro_batches, worker, world_size);
      const std::vector<TreeNode> theirs = maximal_nodes(options.micro_batches, range);
      if (worker == rank) {
        owned = range;
        home = static_cast<int>(nodes.size());
        home_end = home + static_cast<int>(theirs.size());
        plan = plan_local_sums(theirs);
      }
      nodes.insert(nodes.end(), theirs.begin(), theirs.end());
      owners.insert(owners.end(), theirs.size(), worker);
    }
    combination = plan_combination(options.micro_batches, nodes, home);
    if (options.mode == ReductionMode::kLockstep) return;
    const TreeNode all_owned{0, owned.size()};
    plan = plan_local_sums({&all_owned, 1});
  }

  // Buckets are filled from the end of the array; bucket 0 is the one that a backward sweep completes first.
  void cut_buckets(int64_t extent, const std::vector<int64_t>& offsets) {
    int64_t end = extent, bucket_bytes = 0;
    slices.resize(offsets.size());
    for (size_t i = offsets.size(); i-- > 0;) {
      const int64_t capacity = end - offsets[i];
      if (offsets[i] < 0 || capacity <= 0) {
        fail(ErrorKind::kInternal,
             fmt::format("gradient exchange: slices must ascend within {} elements: slice {} at {}", extent,
                         i, offsets[i]));
      }
      const int64_t bytes = capacity * element_size;
      if (slices_in_bucket.empty() || bucket_bytes + bytes > options.bucket_bytes || end == kept_extent()) {
        slices_in_bucket.push_back(0);
        bucket_bytes = 0;
      }
      bucket_bytes += bytes;
      ++slices_in_bucket.back();
      slices[i] = {offsets[i], capacity, 0, static_cast<int64_t>(slices_in_bucket.size()) - 1, kNone};
      end = offsets[i];
    }
  }

  // Who adds up what of the piece [begin, end): options.shares, or else a part of `stripe` elements each.
  std::vector<Share> shares_of(const ElementRange& piece, int64_t stripe) const {
    std::vector<Share> shares;
    for (const Share& share : options.shares) {
      const ElementRange common = overlap(share.range, piece);
      if (common.size() > 0) shares.push_back({common, share.owner});
    }
    for (int worker = 0; piece.begin >= kept_extent() && worker < world_size; ++worker) {
      const int64_t begin = piece.begin + worker * stripe;
      const ElementRange range = overlap({begin, begin + stripe}, piece);
      if (range.size() > 0) shares.push_back({range, worker});
    }
    return shares;
  }

  void lay_down_operations() {
    size_t last_slice = slices.size();
    for (size_t bucket = 0; bucket < slices_in_bucket.size(); ++bucket) {
      const size_t first_slice = last_slice - static_cast<size_t>(slices_in_bucket[bucket]);
      const int64_t begin = slices[first_slice].offset;
      const int64_t end = slices[last_slice - 1].offset + slices[last_slice - 1].capacity;
      const auto number = static_cast<int64_t>(bucket);
      last_slice = first_slice;
      if (options.mode == ReductionMode::kLibrary) {
        // The sums by themselves: they are of another type.
        for (const ElementRange& range : {ElementRange{begin, std::min(end, sums_begin)},
                                          ElementRange{std::max(begin, sums_begin), end}}) {
          if (range.size() <= 0) continue;
          operations.push_back({Operation::Kind::kAllReduce, pieces.size()});
          pieces.push_back({range, {}, false, number});
        }
        continue;
      }
      // Pieces of equal size, so that no bucket ends with a tiny one.
      const int64_t count = divide_up((end - begin) * element_size, kPieceBytes);
      const int64_t stripe =
          divide_up(divide_up(end - begin, count * world_size), kShareAlignment) * kShareAlignment;
      const size_t first_piece = pieces.size();
      for (int64_t at = begin; at < end; at += stripe * world_size) {
        const ElementRange range{at, std::min(at + stripe * world_size, end)};
        pieces.push_back({range, shares_of(range, stripe), begin < kept_extent(), number});
      }
      for (size_t piece = first_piece; piece < pieces.size() + kGathersInFlight; ++piece) {
        if (piece >= first_piece + kGathersInFlight) {
          operations.push_back({Operation::Kind::kShare, piece - kGathersInFlight});
        }
        if (piece < pieces.size()) operations.push_back({Operation::Kind::kGather, piece});
      }
    }
    const auto foreign_nodes = static_cast<int64_t>(nodes.size()) - (home_end - home);
    for (const Piece& piece : pieces) {
      int64_t own = 0;
      for (const Share& share : piece.shares) own += share.owner == rank ? share.range.size() : 0;
      staging_stride = std::max(staging_stride, own);
    }
    staging = Tensor::empty({kGathersInFlight * foreign_nodes * staging_stride}, dtype, backend);
  }

  std::byte* at(Tensor& tensor, int64_t element) {
    return static_cast<std::byte*>(tensor.mutable_data()) + element * element_size;
  }

  // to += from, of the n elements of the array from `begin` on, those of the sums being fp64.
  void accumulate(Backend& queue, int64_t begin, int64_t n, const void* from, void* to) const {
    const int64_t gradient = std::clamp<int64_t>(sums_begin - begin, 0, n);
    if (gradient > 0) queue.accumulate(dtype, gradient, from, to);
    if (gradient == n) return;
    const auto offset = static_cast<size_t>(gradient * element_size);
    queue.accumulate(DType::kF64, doubles(n - gradient), static_cast<const std::byte*>(from) + offset,
                     static_cast<std::byte*>(to) + offset);
  }
  // How many fp64 numbers take the place of n elements.
  int64_t doubles(int64_t n) const { return n * element_size / static_cast<int64_t>(sizeof(double)); }

  // ---- one step
  // --------------------------------------------------------------------------------------------------

  // Adds the slice to the local sums: `values`, or zeros when null.
  void add_slice(const Slice& slice, int64_t n, const void* values) {
    const LocalStep& step = plan.steps[static_cast<size_t>(micro_batch - owned.begin)];
    std::byte* sum = at(buffers[static_cast<size_t>(step.buffer)], slice.offset);
    if (values == nullptr) {
      if (step.keep) {
        backend.fill(dtype, n, sum, 0.0);
      } else {
        // Not skipped: -0 + 0 is +0, and it must be so on any number of workers.
        accumulate(backend, slice.offset, n, zeros.data(), sum);
      }
    } else if (step.keep) {
      backend.copy(sum, values, static_cast<size_t>(n * element_size));
    } else {
      accumulate(backend, slice.offset, n, values, sum);
    }
    for (const Addition& carry : step.carries) {
      accumulate(backend, slice.offset, n, at(buffers[static_cast<size_t>(carry.from)], slice.offset),
                 at(buffers[static_cast<size_t>(carry.to)], slice.offset));
    }
    if (micro_batch + 1 == owned.end) --slices_left[static_cast<size_t>(slice.bucket)];
  }

  size_t find_slice(int64_t offset) const {
    if (expected_slice < slices.size() && slices[expected_slice].offset == offset) return expected_slice;
    const auto found =
        std::lower_bound(slices.begin(), slices.end(), offset,
                         [](const Slice& slice, int64_t value) { return slice.offset < value; });
    if (found == slices.end() || found->offset != offset) {
      fail(ErrorKind::kInternal, fmt::format("gradient exchange: no slice starts at element {}", offset));
    }
    return static_cast<size_t>(found - slices.begin());
  }

  // Where the sum of a node is during the combination of a share of this worker's: its own are in place, the
  // others' in staging, from element `staged` on.
  std::byte* node_data(size_t piece, int node, const Share& share, int64_t staged) {
    if (node >= home && node < home_end) {
      return at(buffers[static_cast<size_t>(node - home)], share.range.begin);
    }
    const auto foreign_nodes = static_cast<int64_t>(nodes.size()) - (home_end - home);
    const int64_t foreign = node < home ? node : node - (home_end - home);
    const auto slot = static_cast<int64_t>(piece % kGathersInFlight);
    return at(staging, (slot * foreign_nodes + foreign) * staging_stride + staged);
  }

  // Workers in the order in which this one turns to them: its right neighbour first, itself left out.
  // Starting everywhere at the same worker would make it everyone's bottleneck.
  int peer(int i) const { return (rank + i) % world_size; }

  std::string label(const Piece& piece) const { return fmt::format("bucket {}", piece.bucket); }

  size_t bytes_of(const Share& share) const { return static_cast<size_t>(share.range.size() * element_size); }

  std::unique_ptr<Request> gather(size_t index) {
    const Piece& piece = pieces[index];
    std::vector<SendBlock> sends;
    for (int i = 1; i < world_size; ++i) {
      for (const Share& share : piece.shares) {
        if (share.owner != peer(i)) continue;
        for (int node = home; node < home_end; ++node) {
          sends.push_back(
              {peer(i), at(buffers[static_cast<size_t>(node - home)], share.range.begin), bytes_of(share)});
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
    for (const Share& share : pieces[index].shares) {
      if (share.owner != rank) continue;
      for (const Addition& addition : combination) {
        accumulate(lane, share.range.begin, share.range.size(),
                   node_data(index, addition.from, share, staged),
                   node_data(index, addition.to, share, staged));
      }
      staged += share.range.size();
    }
  }

  std::unique_ptr<Request> share(size_t index) {
    const Piece& piece = pieces[index];
    std::vector<SendBlock> sends;
    std::vector<ReceiveBlock> receives;
    for (int i = 1; i < world_size; ++i) {
      for (const Share& share : piece.shares) {
        if (share.owner == rank)
          sends.push_back({peer(i), at(buffers[0], share.range.begin), bytes_of(share)});
        if (share.owner == peer(i))
          receives.push_back({peer(i), at(buffers[0], share.range.begin), bytes_of(share)});
      }
    }
    return communicator.device().exchange(std::move(sends), std::move(receives), label(piece));
  }

  // Lets the lane see the local sums of a bucket when its first piece is about to go.
  void join_lane(size_t index) {
    if (index == 0 || pieces[index - 1].bucket != pieces[index].bucket) lane.wait_for(backend);
  }

  // Issues the operations whose turn has come. With `until_done` waits for those that it needs, else returns.
  void advance(bool until_done) {
    for (; next_operation < operations.size(); ++next_operation) {
      const Operation& operation = operations[next_operation];
      const Piece& piece = pieces[operation.piece];
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
              piece.range.begin < sums_begin
                  ? communicator.device().all_reduce_sum(at(buffers[0], piece.range.begin),
                                                         piece.range.size(), dtype, label(piece))
                  : communicator.device().all_reduce_sum(at(buffers[0], piece.range.begin),
                                                         doubles(piece.range.size()), DType::kF64,
                                                         label(piece)));
          break;
      }
    }
  }

  // Lets what has been issued make progress.
  void poll() {
    while (!last_requests.empty() && last_requests.front()->test()) last_requests.pop_front();
  }

  // Reads the exposures that the device is through with.
  void read_exposures() {
    for (; exposures_under_way > 0; --exposures_under_way) {
      const Exposure& oldest = exposures[first_exposure];
      if (!oldest.end->passed()) return;
      exposed_seconds += oldest.end->seconds_since(*oldest.begin);
      first_exposure = (first_exposure + 1) % exposures.size();
    }
  }

  // Where the computation has nothing left to do but to wait for the lane. Null when the device is so far
  // behind that a step goes unmeasured.
  Exposure* begin_exposure() {
    read_exposures();
    if (exposures_under_way == exposures.size()) return nullptr;
    Exposure& next = exposures[(first_exposure + exposures_under_way) % exposures.size()];
    next.begin->set();
    return &next;
  }

  void end_exposure(Exposure* exposure) {
    if (exposure == nullptr) return;
    exposure->end->set();
    ++exposures_under_way;
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
  impl.slices_left = impl.slices_in_bucket;
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
  for (Slice& slice : impl.slices) slice.seen_in = kNone;
}

void GradientExchange::add(int64_t offset, int64_t n, const void* values) {
  Impl& impl = *impl_;
  impl.require(impl.micro_batch != kNone, "add outside of a micro-batch");
  const size_t index = impl.find_slice(offset);
  Slice& slice = impl.slices[index];
  if (slice.seen_in == impl.micro_batch) {
    fail(ErrorKind::kInternal,
         fmt::format("gradient exchange: slice at {} came twice in a micro-batch", offset));
  }
  if (slice.elements == 0 && n > 0 && n <= slice.capacity) slice.elements = n;
  if (n != slice.elements) {
    fail(ErrorKind::kInternal, fmt::format("gradient exchange: slice at {}: {} elements, expected {}", offset,
                                           n, slice.elements > 0 ? slice.elements : slice.capacity));
  }
  slice.seen_in = impl.micro_batch;
  ++impl.slices_seen;
  impl.expected_slice = index - 1;
  impl.add_slice(slice, n, values);
  if (impl.micro_batch + 1 == impl.owned.end) impl.advance(false);
}

void GradientExchange::end_micro_batch() {
  Impl& impl = *impl_;
  impl.require(impl.micro_batch != kNone, "end_micro_batch without begin_micro_batch");
  if (impl.slices_seen < impl.slices.size()) {
    for (Slice& slice : impl.slices) {
      if (slice.seen_in == impl.micro_batch) continue;
      if (!impl.zeros.defined() || impl.zeros.elements() < slice.capacity) {
        impl.zeros = Tensor::zeros({slice.capacity}, impl.dtype, impl.backend);
      }
      impl.add_slice(slice, slice.capacity, nullptr);
    }
    if (impl.micro_batch + 1 == impl.owned.end) impl.advance(false);
  }
  impl.micro_batch = kNone;
  ++impl.next_micro_batch;
}

void GradientExchange::finish() {
  Impl& impl = *impl_;
  impl.require(impl.in_step && impl.micro_batch == kNone && impl.next_micro_batch == impl.owned.end,
               "finish before all owned micro-batches were added");
  Exposure* const exposure = impl.begin_exposure();
  impl.advance(true);
  for (const auto& request : impl.last_requests) request->wait();
  impl.last_requests.clear();
  if (!impl.operations.empty()) impl.backend.wait_for(impl.lane);
  impl.end_exposure(exposure);
  impl.in_step = false;
}

void GradientExchange::add_sums(const double* values) {
  Impl& impl = *impl_;
  impl.require(impl.options.sums > 0, "it carries no sums");
  add(impl.sums_begin, impl.options.sums * static_cast<int64_t>(sizeof(double)) / impl.element_size, values);
}

const Tensor& GradientExchange::result() const {
  return impl_->buffers[0];
}

const double* GradientExchange::sums() const {
  return reinterpret_cast<const double*>(static_cast<const std::byte*>(impl_->buffers[0].data()) +
                                         impl_->sums_begin * impl_->element_size);
}

double GradientExchange::take_exposed_seconds() {
  impl_->read_exposures();
  return std::exchange(impl_->exposed_seconds, 0.0);
}
size_t GradientExchange::bytes() const {
  size_t total = impl_->staging.defined() ? impl_->staging.bytes() : 0;
  for (const Tensor& buffer : impl_->buffers) total += buffer.bytes();
  return total;
}
int64_t GradientExchange::buckets() const {
  return static_cast<int64_t>(impl_->slices_in_bucket.size());
}

}  // namespace lockstep
