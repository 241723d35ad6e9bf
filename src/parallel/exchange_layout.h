// What a gradient exchange communicates, and in which order: laid down once, the same on every worker, since
// collectives must be issued in the same order everywhere, whatever the timing.
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "parallel/gradient_exchange.h"

namespace lockstep {

// Gathers under way at a time, so that bytes move while others are added. Also bounds the memory that they
// need.
inline constexpr int kGathersInFlight = 2;

struct ExchangeLayout {
  // A slice of the gradient that GradientExchange::add is called with; capacity: up to the next one.
  struct Slice {
    int64_t offset = 0, capacity = 0;
    int64_t bucket = 0;
  };
  // What is gathered, added and shared as a unit, and who adds up which elements of it.
  struct Piece {
    ElementRange range;
    std::vector<Share> shares;
    bool keep = false;  // the sums stay with the workers that made them
    int64_t bucket = 0;
  };
  // Is issued when its input is there and all operations before it have been issued.
  struct Operation {
    enum class Kind { kGather, kShare, kAllReduce } kind = Kind::kGather;
    size_t piece = 0;
  };

  int64_t extent = 0;         // elements of an array, options.sums included
  int64_t sums_begin = 0;     // of options.sums, behind the gradient; everything when there are none
  std::vector<Slice> slices;  // ascending
  std::vector<int64_t> slices_in_bucket;  // bucket 0 is the one that a backward sweep completes first
  std::vector<Piece> pieces;
  std::vector<Operation> operations;  // none for a worker alone
};

// Of `extent` elements in slices that start at slice_offsets. Error (kInternal) where they do not ascend
// within the array, or shares do not end with a slice.
ExchangeLayout lay_out_exchange(int64_t extent, std::vector<int64_t> slice_offsets, DType dtype,
                                const ExchangeOptions& options, int world_size);

}  // namespace lockstep
