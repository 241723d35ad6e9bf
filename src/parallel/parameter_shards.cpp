// Cutting the flat array into shares, and moving shares between workers.
#include "lockstep/parallel/parameter_shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "lockstep/core/error.h"
#include "lockstep/core/shape.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {
namespace {

constexpr int64_t kNormBlock = Backend::kNormBlock;

const std::byte* at(const Tensor& array, int64_t element) {
  return static_cast<const std::byte*>(array.data()) + element * static_cast<int64_t>(size_of(array.dtype()));
}
std::byte* at(Tensor& array, int64_t element) {
  return static_cast<std::byte*>(array.mutable_data()) +
         element * static_cast<int64_t>(size_of(array.dtype()));
}

// A part of `range` that one worker stores, and where.
struct StoredPart {
  int owner;
  ElementRange range;  // of the whole array
  int64_t position;    // in the owner's storage
};

std::vector<StoredPart> stored_parts(std::span<const Share> shares, const ElementRange& range,
                                     int world_size) {
  std::vector<StoredPart> parts;
  std::vector<int64_t> stored(static_cast<size_t>(world_size), 0);
  for (const Share& share : shares) {
    int64_t& position = stored[static_cast<size_t>(share.owner)];
    const ElementRange common = overlap(share.range, range);
    if (common.size() > 0)
      parts.push_back({share.owner, common, position + common.begin - share.range.begin});
    position += share.range.size();
  }
  return parts;
}

}  // namespace

ElementRange overlap(const ElementRange& a, const ElementRange& b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

int64_t total_size(std::span<const ElementRange> ranges) {
  int64_t total = 0;
  for (const ElementRange& range : ranges) total += range.size();
  return total;
}

std::vector<Share> striped_shares(int64_t extent, int world_size) {
  // Long enough that a kernel call and a message are worth their start, short enough that a 4 MiB piece of
  // the gradient exchange belongs to several workers.
  constexpr int64_t kLongestStripe = 1 << 18;
  const int64_t rounds = divide_up(extent, world_size * kLongestStripe);
  if (rounds == 0) return {};
  const int64_t even = divide_up(extent, world_size * rounds);
  // Cuts between norm blocks save moving parts of blocks; where that would make workers uneven they fall
  // elsewhere.
  const int64_t alignment = even >= 16 * kNormBlock ? kNormBlock : ParameterStore::kParameterAlignment;
  const int64_t stripe = divide_up(even, alignment) * alignment;
  std::vector<Share> shares;
  for (int64_t begin = 0; begin < extent; begin += stripe) {
    shares.push_back(
        {{begin, std::min(begin + stripe, extent)}, static_cast<int>(begin / stripe % world_size)});
  }
  return shares;
}

std::vector<Share> whole_shares(std::span<const int64_t> offsets, int64_t extent, int world_size,
                                std::span<const double> loads) {
  std::vector<Share> shares;
  std::vector<double> of_share(loads.begin(), loads.end());
  for (size_t i = 0; i < offsets.size(); ++i) {
    shares.push_back({{offsets[i], i + 1 < offsets.size() ? offsets[i + 1] : extent}, 0});
    if (loads.empty()) of_share.push_back(static_cast<double>(shares[i].range.size()));
  }
  std::vector<size_t> order(shares.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t x, size_t y) { return of_share[x] > of_share[y]; });
  std::vector<double> load(static_cast<size_t>(world_size), 0.0);
  for (const size_t i : order) {
    const auto least = std::ranges::min_element(load);
    *least += of_share[i];
    shares[i].owner = static_cast<int>(least - load.begin());
  }
  return shares;
}

ParameterShards::ParameterShards(Communicator& communicator, std::vector<Share> shares)
    : communicator_(&communicator), shares_(std::move(shares)) {
  int64_t end = 0;
  for (const Share& share : shares_) {
    if (share.range.begin != end || share.range.size() <= 0 || share.owner < 0 || share.owner >= workers()) {
      fail(ErrorKind::kInternal,
           fmt::format("parameter shards: shares must cover the array in order, owned by workers below {}: "
                       "[{}, {}) of "
                       "worker {} behind {}",
                       workers(), share.range.begin, share.range.end, share.owner, end));
    }
    end = share.range.end;
    if (share.owner != communicator.rank()) continue;
    if (!mine_.empty() && mine_.back().end == share.range.begin) {
      mine_.back().end = share.range.end;
    } else {
      mine_.push_back(share.range);
    }
  }

  blocks_of_worker_.resize(static_cast<size_t>(workers()));
  size_t next = 0;  // the share in which the block begins
  for (int64_t block = 0; block * kNormBlock < extent(); ++block) {
    const ElementRange elements = elements_of(block);
    while (shares_[next].range.end <= elements.begin) ++next;
    const int owner = shares_[next].owner;
    blocks_of_worker_[static_cast<size_t>(owner)].push_back(block);
    CutBlock cut{block, {}};
    for (size_t i = next; i < shares_.size() && shares_[i].range.begin < elements.end; ++i) {
      cut.parts.push_back({overlap(shares_[i].range, elements), shares_[i].owner});
    }
    if (std::ranges::any_of(cut.parts, [&](const Share& part) { return part.owner != owner; })) {
      cut_blocks_.push_back(std::move(cut));
    } else if (owner != communicator.rank()) {
      continue;
    } else if (!whole_blocks_.empty() && whole_blocks_.back().end == block) {
      ++whole_blocks_.back().end;
    } else {
      whole_blocks_.push_back({block, block + 1});
    }
  }
}

ElementRange ParameterShards::elements_of(int64_t block) const {
  return {block * kNormBlock, std::min((block + 1) * kNormBlock, extent())};
}

void ParameterShards::gather(Tensor& array, const std::string& label) const {
  std::vector<SendBlock> sends;
  std::vector<ReceiveBlock> receives;
  const int rank = communicator_->rank();
  for (const Share& share : shares_) {
    std::byte* data = at(array, share.range.begin);
    const size_t bytes = static_cast<size_t>(share.range.size()) * size_of(array.dtype());
    if (share.owner != rank) {
      receives.push_back({share.owner, data, bytes});
      continue;
    }
    // Each turns to its right neighbour first, so that nobody has to take from all at once.
    for (int i = 1; i < workers(); ++i) sends.push_back({(rank + i) % workers(), data, bytes});
  }
  exchange(array.backend(), std::move(sends), std::move(receives), label);
}

// Between what the backend was told before and what it is told afterwards.
void ParameterShards::exchange(Backend& backend, std::vector<SendBlock> sends,
                               std::vector<ReceiveBlock> receives, const std::string& label) const {
  backend.lane().wait_for(backend);
  communicator_->device().exchange(std::move(sends), std::move(receives), label)->wait();
  backend.wait_for(backend.lane());
}

Tensor ParameterShards::block_square_sums(const Tensor& array) const {
  const int rank = communicator_->rank();
  const DType dtype = array.dtype();
  Backend& backend = array.backend();
  const int64_t blocks = divide_up(extent(), kNormBlock);
  Tensor sums = Tensor::zeros({blocks}, DType::kF64, backend);
  if (blocks == 0) return sums;

  std::vector<const CutBlock*> assembled;
  for (const CutBlock& cut : cut_blocks_) {
    if (cut.parts.front().owner == rank) assembled.push_back(&cut);
  }
  Tensor scratch = Tensor::empty({static_cast<int64_t>(assembled.size()) * kNormBlock}, dtype, backend);
  if (!cut_blocks_.empty()) {
    std::vector<SendBlock> sends;
    std::vector<ReceiveBlock> receives;
    int64_t slot = 0;
    for (const CutBlock& cut : cut_blocks_) {
      const int owner = cut.parts.front().owner;
      for (const Share& part : cut.parts) {
        const size_t bytes = static_cast<size_t>(part.range.size()) * size_of(dtype);
        const int64_t place = slot * kNormBlock + part.range.begin - elements_of(cut.block).begin;
        if (owner != rank) {
          if (part.owner == rank) sends.push_back({owner, at(array, part.range.begin), bytes});
        } else if (part.owner == rank) {
          backend.copy(at(scratch, place), at(array, part.range.begin), bytes);
        } else {
          receives.push_back({part.owner, at(scratch, place), bytes});
        }
      }
      if (owner == rank) ++slot;
    }
    exchange(backend, std::move(sends), std::move(receives), "norm blocks");
  }

  auto* to = sums.mutable_data_as<double>();
  for (const ElementRange& run : whole_blocks_) {
    const int64_t begin = run.begin * kNormBlock;
    backend.block_square_sums(dtype, elements_of(run.end - 1).end - begin, at(array, begin), to + run.begin);
  }
  for (size_t i = 0; i < assembled.size(); ++i) {
    const int64_t block = assembled[i]->block;
    backend.block_square_sums(dtype, elements_of(block).size(),
                              at(scratch, static_cast<int64_t>(i) * kNormBlock), to + block);
  }
  if (workers() == 1) return sums;

  // Blocks of an all-gather are equal: as long as the most that a worker has.
  size_t most = 0;
  for (const std::vector<int64_t>& theirs : blocks_of_worker_) most = std::max(most, theirs.size());
  const auto all_packed = static_cast<int64_t>(most) * workers();
  if (!packed_blocks_.defined()) {
    const std::vector<int64_t>& own = blocks_of_worker_[static_cast<size_t>(rank)];
    std::vector<int32_t> packs(most, 0), places(static_cast<size_t>(blocks), 0);
    std::ranges::copy(own, packs.begin());
    for (size_t worker = 0; worker < blocks_of_worker_.size(); ++worker) {
      const std::vector<int64_t>& theirs = blocks_of_worker_[worker];
      for (size_t i = 0; i < theirs.size(); ++i)
        places[static_cast<size_t>(theirs[i])] = static_cast<int32_t>(worker * most + i);
    }
    packed_blocks_ = Tensor::from(Shape{static_cast<int64_t>(most)}, packs, backend);
    places_of_blocks_ = Tensor::from(Shape{blocks}, places, backend);
  }
  // A look-up of rows of one element.
  Tensor packed = Tensor::empty({static_cast<int64_t>(most)}, DType::kF64, backend);
  Tensor all = Tensor::empty({all_packed}, DType::kF64, backend);
  backend.embedding(DType::kF64, packed.elements(), 1, sums.data(), packed_blocks_.data_as<int32_t>(),
                    packed.mutable_data());
  backend.lane().wait_for(backend);
  communicator_->device().all_gather(packed.data(), packed.bytes(), all.mutable_data(), "norm")->wait();
  backend.wait_for(backend.lane());
  backend.embedding(DType::kF64, blocks, 1, all.data(), places_of_blocks_.data_as<int32_t>(), to);
  return sums;
}

void ParameterShards::collect(std::span<const Share> shares, const Tensor& stored, const ElementRange& range,
                              std::byte* bytes, const std::string& label, bool everywhere) const {
  const int rank = communicator_->rank();
  const auto takes = [&](int worker) { return everywhere || worker == 0; };
  const auto size = static_cast<int64_t>(size_of(stored.dtype()));
  std::vector<std::vector<std::byte>> sent;  // copies in host memory
  std::vector<SendBlock> sends;
  std::vector<ReceiveBlock> receives;
  for (const StoredPart& part : stored_parts(shares, range, workers())) {
    const auto count = static_cast<size_t>(part.range.size() * size);
    std::byte* place = takes(rank) ? bytes + (part.range.begin - range.begin) * size : nullptr;
    if (part.owner != rank) {
      if (takes(rank)) receives.push_back({part.owner, place, count});
      continue;
    }
    if (!takes(rank)) place = sent.emplace_back(count).data();
    stored.backend().copy_to_host(place, at(stored, part.position), count);
    // Each turns to its right neighbour first, so that nobody has to take from all at once.
    for (int i = 1; i < workers(); ++i) {
      const int other = (rank + i) % workers();
      if (takes(other)) sends.push_back({other, place, count});
    }
  }
  communicator_->exchange(std::move(sends), std::move(receives), label)->wait();
}

void ParameterShards::distribute(std::span<const Share> shares, Tensor& stored, const ElementRange& range,
                                 const std::byte* bytes, const std::string& label) const {
  const int rank = communicator_->rank();
  const auto size = static_cast<int64_t>(size_of(stored.dtype()));
  std::vector<SendBlock> sends;
  std::vector<ReceiveBlock> receives;
  std::vector<std::pair<int64_t, std::vector<std::byte>>> received;  // position in storage, host memory
  for (const StoredPart& part : stored_parts(shares, range, workers())) {
    const auto count = static_cast<size_t>(part.range.size() * size);
    if (rank == 0 && part.owner != 0) {
      sends.push_back({part.owner, bytes + (part.range.begin - range.begin) * size, count});
    } else if (part.owner == rank && rank == 0) {
      stored.backend().copy_from_host(at(stored, part.position),
                                      bytes + (part.range.begin - range.begin) * size, count);
    } else if (part.owner == rank) {
      received.emplace_back(part.position, std::vector<std::byte>(count));
      receives.push_back({0, received.back().second.data(), count});
    }
  }
  communicator_->exchange(std::move(sends), std::move(receives), label)->wait();
  for (const auto& [position, host] : received) {
    stored.backend().copy_from_host(at(stored, position), host.data(), host.size());
  }
}

}  // namespace lockstep
