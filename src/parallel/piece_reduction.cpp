// Who adds what of a piece, where it lies, and what travels.
#include "lockstep/parallel/piece_reduction.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace lockstep {

namespace {

// What of an array is added at a time, so that it is still in a near cache when the sum is written to the
// arrays of others.
constexpr int64_t kBlockBytes = 64 << 10;
// Arrays in shared memory begin at multiples of this.
constexpr size_t kLineBytes = 64;

std::string label(int64_t bucket) {
  return fmt::format("bucket {}", bucket);
}

}  // namespace

PieceReduction::PieceReduction(Communicator& communicator, Backend& backend, DType dtype,
                               const ExchangeLayout& layout, const ExchangeOptions& options)
    : communicator_(communicator),
      backend_(backend),
      lane_(backend.lane()),
      dtype_(dtype),
      element_size_(static_cast<int64_t>(size_of(dtype))),
      layout_(layout),
      options_(options),
      rank_(communicator.rank()),
      world_size_(communicator.world_size()),
      array_bytes_((static_cast<size_t>(layout.extent * element_size_) + kLineBytes - 1) / kLineBytes *
                   kLineBytes) {
  const bool lockstep = options.mode == ReductionMode::kLockstep;
  const bool in_host_memory = &backend == &cpu_backend() && &communicator.device() == &communicator;
  groups_ = lockstep && in_host_memory ? groups_by_host(communicator) : each_alone(world_size_);
  const MicroBatchRange owned = owned_micro_batches(options.micro_batches, rank_, world_size_);
  LocalPlan own = lockstep ? plan_local_sums(maximal_nodes(options.micro_batches, owned))
                           : plan_running_sum(owned.size());
  std::vector<Tensor> arrays = make_arrays(own.buffers);
  local_.emplace(backend, layout.sums_begin, std::move(own), std::move(arrays));
  if (lockstep) make_plan();
}

std::vector<Tensor> PieceReduction::make_arrays(int count) {
  if (groups_[group_of(groups_, rank_)].size() > 1) {
    memory_ = SharedMemory::make(static_cast<size_t>(count) * array_bytes_, why_not_);
  }
  std::vector<Tensor> arrays;
  for (int i = 0; i < count; ++i) {
    if (memory_ == nullptr) {
      arrays.push_back(Tensor::zeros({layout_.extent}, dtype_, backend_));
      continue;
    }
    std::byte* const data = memory_->data() + static_cast<size_t>(i) * array_bytes_;
    arrays.push_back(Tensor::over({memory_, data}, {layout_.extent}, dtype_, backend_));
  }
  return arrays;
}

void PieceReduction::make_plan() {
  group_ = group_of(groups_, rank_);
  plan_ = plan_two_levels(options_.micro_batches, groups_, rank_);
  parts_.assign(layout_.pieces.size(), {});
  outside_stride_ = 0;
  for (size_t index = 0; index < parts_.size(); ++index) {
    int64_t from_outside = 0;
    for (const Share& share : layout_.pieces[index].shares) {
      if (actor_for(share.owner) != rank_) continue;
      parts_[index].push_back({share.range, share.owner, from_outside});
      if (share.owner == rank_) from_outside += share.range.size();
    }
    outside_stride_ = std::max(outside_stride_, from_outside);
  }
  if (world_size_ == 1) return;
  from_outside_ = Tensor::empty({kGathersInFlight * plan_.foreign() * outside_stride_}, dtype_, backend_);
}

size_t PieceReduction::bytes() const {
  size_t total = local_->bytes();
  if (from_outside_.defined()) total += from_outside_.bytes();
  return total;
}

void PieceReduction::begin_step() {
  buckets_met_ = 0;
  if (std::exchange(met_, true) || !two_levels()) return;
  host_.emplace(communicator_, groups_, memory_, why_not_);
  groups_ = host_->groups();
  if (!two_levels()) host_.reset();
  make_plan();
}

bool PieceReduction::have_met(int64_t bucket, bool waits) {
  if (bucket < buckets_met_) return true;
  if (meeting_ == nullptr) {
    lane_.wait_for(backend_);  // the lane sees them when the first piece of their bucket is about to go
    if (host_) {
      host_->post();
      meeting_ = host_->all_posted(label(bucket));
    }
  }
  if (meeting_ != nullptr) {
    if (waits) {
      meeting_->wait();
    } else if (!meeting_->test()) {
      return false;
    }
    meeting_.reset();
  }
  buckets_met_ = bucket + 1;
  return true;
}

void PieceReduction::finish_step() {
  if (!host_) return;
  host_->post();
  host_->all_posted("all buckets")->wait();
}

// Elements of another worker's array, from `element` on.
std::byte* PieceReduction::array_of(int worker, int array, int64_t element) {
  return host_->memory(worker) + static_cast<size_t>(array) * array_bytes_ + element * element_size_;
}

PieceReduction::Part PieceReduction::Part::at(const ElementRange& block) const {
  const int64_t ahead = block.begin - range.begin;
  return {block, owner, from_outside + ahead};
}

// Where a sum inside of this group is, from the part's first element on.
std::byte* PieceReduction::inside(int number, const Part& part) {
  const TwoLevelPlan::Place& place = plan_.inside[static_cast<size_t>(number)];
  if (place.worker == rank_) return local_->at(place.array, part.range.begin);
  return array_of(place.worker, place.array, part.range.begin);
}

// The same of a group's sum during the combination of a part of which this worker is the owner.
std::byte* PieceReduction::sum_of(size_t piece, int number, const Part& part) {
  if (is_sum_of_group(number)) {
    return inside(plan_.group.ends[static_cast<size_t>(number - plan_.begin)], part);
  }
  const int64_t foreign = number < plan_.begin ? number : number - (plan_.end - plan_.begin);
  const auto turn = static_cast<int64_t>(piece % kGathersInFlight);
  return static_cast<std::byte*>(from_outside_.mutable_data()) +
         ((turn * plan_.foreign() + foreign) * outside_stride_ + part.from_outside) * element_size_;
}

// The blocks of a part, one behind the other, in which additions run.
template <class Add>
void PieceReduction::for_blocks(const Part& part, const Add& add) {
  const int64_t length = host_ ? kBlockBytes / element_size_ : part.range.size();
  for (int64_t begin = part.range.begin; begin < part.range.end; begin += length) {
    add(part.at({begin, std::min(begin + length, part.range.end)}));
  }
}

void PieceReduction::add_inside(const Part& part) {
  for (const Addition& addition : plan_.group.additions) {
    local_->accumulate(lane_, part.range.begin, part.range.size(), inside(addition.from, part),
                       inside(addition.to, part));
  }
}

// Writes the total of these elements to the first arrays of the others of the group.
void PieceReduction::spread(const ElementRange& range) {
  for (int worker = groups_[group_].begin; worker < groups_[group_].end; ++worker) {
    if (worker != rank_)
      lane_.copy(array_of(worker, 0, range.begin), local_->at(0, range.begin), bytes_of(range));
  }
}

// Workers turn to each other from their right neighbour on. Starting everywhere at the same worker would make
// it everyone's bottleneck.
std::unique_ptr<Request> PieceReduction::exchange(std::vector<SendBlock> sends,
                                                  std::vector<ReceiveBlock> receives, const Piece& piece) {
  std::ranges::stable_sort(
      sends, {}, [this](const SendBlock& block) { return (block.rank - rank_ + world_size_) % world_size_; });
  return communicator_.device().exchange(std::move(sends), std::move(receives), label(piece.bucket));
}

std::unique_ptr<Request> PieceReduction::gather(size_t index) {
  if (groups_.size() == 1) return nullptr;
  std::vector<SendBlock> sends;
  std::vector<ReceiveBlock> receives;
  for (const Part& part : parts_[index]) {
    if (part.owner == rank_) {
      for (int number = 0; number < std::ssize(plan_.groups); ++number) {
        if (is_sum_of_group(number)) continue;
        const auto other = static_cast<size_t>(plan_.groups[static_cast<size_t>(number)]);
        receives.push_back(
            {delegate_of(groups_, other, rank_), sum_of(index, number, part), bytes_of(part.range)});
      }
    } else {
      for_blocks(part, [&](const Part& block) { add_inside(block); });
      for (const int end : plan_.group.ends) {
        sends.push_back({part.owner, inside(end, part), bytes_of(part.range)});
      }
    }
  }
  return exchange(std::move(sends), std::move(receives), layout_.pieces[index]);
}

void PieceReduction::combine(size_t index) {
  for (const Part& part : parts_[index]) {
    if (part.owner != rank_) continue;
    for_blocks(part, [&](const Part& block) {
      add_inside(block);
      for (const Addition& addition : plan_.total) {
        local_->accumulate(lane_, block.range.begin, block.range.size(), sum_of(index, addition.from, block),
                           sum_of(index, addition.to, block));
      }
      if (host_ && !layout_.pieces[index].keep) spread(block.range);
    });
  }
}

std::unique_ptr<Request> PieceReduction::share(size_t index) {
  if (groups_.size() == 1) return nullptr;
  const Piece& piece = layout_.pieces[index];
  std::vector<SendBlock> sends;
  std::vector<ReceiveBlock> receives;
  for (const Share& share : piece.shares) {
    if (share.owner == rank_) {
      for (size_t group = 0; group < groups_.size(); ++group) {
        if (group == group_) continue;
        sends.push_back(
            {delegate_of(groups_, group, rank_), local_->at(0, share.range.begin), bytes_of(share.range)});
      }
    } else if (!in_group(share.owner) && actor_for(share.owner) == rank_) {
      receives.push_back({share.owner, local_->at(0, share.range.begin), bytes_of(share.range)});
    }
  }
  return exchange(std::move(sends), std::move(receives), piece);
}

void PieceReduction::take_shared(size_t index) {
  if (groups_.size() == 1 || !two_levels()) return;
  for (const Share& share : layout_.pieces[index].shares) {
    if (!in_group(share.owner) && actor_for(share.owner) == rank_) spread(share.range);
  }
}

}  // namespace lockstep
