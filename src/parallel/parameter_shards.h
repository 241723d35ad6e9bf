// Which worker is responsible for which elements of the flat parameter array, and what the workers do
// together about them: a sharded optimizer (Rajbhandari et al. 2020, ZeRO stage 1) keeps state for its own
// elements only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Elements [begin, end) of a flat array.
struct ElementRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const ElementRange&) const = default;
};
// What two ranges have in common; of size 0 when that is nothing.
ElementRange overlap(const ElementRange& a, const ElementRange& b);
int64_t total_size(std::span<const ElementRange> ranges);

// A range and the worker that is responsible for it. A list of shares ascends and covers its array without
// gaps.
struct Share {
  ElementRange range;
  int owner = 0;
  bool operator==(const Share&) const = default;
};

// Stripes of equal length, dealt out in turn: workers get the same to within a stripe, and each has a part of
// every bucket, so that no worker's link is a bottleneck while a bucket is reduced.
std::vector<Share> striped_shares(int64_t extent, int world_size);
// Parameters in one piece, with the gap behind them. offsets: where they start, ascending from 0. The largest
// goes first, to the worker that has least so far.
// loads: what each parameter counts, in any unit; empty: its elements.
std::vector<Share> whole_shares(std::span<const int64_t> offsets, int64_t extent, int world_size,
                                std::span<const double> loads = {});

class ParameterShards {
 public:
  // shares: over [0, extent), owners are ranks of the communicator, which must outlive the object. A run that
  // is not sharded has a communicator of one, which owns everything.
  ParameterShards(Communicator& communicator, std::vector<Share> shares);

  const std::vector<Share>& shares() const { return shares_; }
  // This worker's, neighbours merged.
  const std::vector<ElementRange>& mine() const { return mine_; }
  int64_t extent() const { return shares_.empty() ? 0 : shares_.back().range.end; }
  int workers() const { return communicator_->world_size(); }
  Communicator& communicator() const { return *communicator_; }

  // array (>= extent): each worker has its own elements right; afterwards all have all of [0, extent).
  // Collective.
  void gather(Tensor& array, const std::string& label) const;

  // array (>= extent): each worker has its own elements right -> (blocks) fp64 on the array's backend, the
  // sums of squares of [0, extent) over blocks of Backend::kNormBlock elements, the same bits as on one
  // worker, on every worker. Collective; waits for no device.
  Tensor block_square_sums(const Tensor& array) const;

  // Whether this worker is the one that collect() gives to.
  bool collects() const { return communicator_->rank() == 0; }

  // An array over any shares of which each worker stores its own elements only, one share behind the other:
  // moves elements `range` of the whole array into `bytes` (host memory, on worker 0, or everywhere; ignored
  // elsewhere), or back from there to their owners. Collective; the workers agree on shares and range.
  void collect(std::span<const Share> shares, const Tensor& stored, const ElementRange& range,
               std::byte* bytes, const std::string& label, bool everywhere = false) const;
  void distribute(std::span<const Share> shares, Tensor& stored, const ElementRange& range,
                  const std::byte* bytes, const std::string& label) const;

 private:
  // A norm block that shares cut: the owner of its first element gets the rest from the others.
  struct CutBlock {
    int64_t block = 0;
    std::vector<Share> parts;
  };

  ElementRange elements_of(int64_t block) const;
  void exchange(Backend& backend, std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                const std::string& label) const;

  Communicator* communicator_;
  std::vector<Share> shares_;
  std::vector<ElementRange> mine_;
  std::vector<ElementRange> whole_blocks_;              // block numbers, within mine_
  std::vector<CutBlock> cut_blocks_;                    // of all workers
  std::vector<std::vector<int64_t>> blocks_of_worker_;  // whose sums it computes, in a fixed order
  // Of sums that travel: which of all blocks this worker packs, and where each block then lies in what all
  // have packed. int32 on the device, made when they are first needed.
  mutable Tensor packed_blocks_, places_of_blocks_;
};

}  // namespace lockstep
