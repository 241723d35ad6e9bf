// Buckets of slices, pieces of buckets, and the list of operations on pieces.
#include "lockstep/parallel/exchange_layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"
#include "lockstep/core/shape.h"

namespace lockstep {

namespace {

// Smaller pieces stay in nearer caches but make workers wait for each other more often, which costs most when
// they share cores; larger ones only cost memory.
constexpr int64_t kPieceBytes = 4 << 20;
// Shares start at multiples of this many elements, so that additions run on whole vectors.
constexpr int64_t kShareAlignment = 64;
// Sums of fp64 that fit behind a gradient of fp32, whatever the shares.
constexpr int64_t kMostSums = kShareAlignment / 2;

class Layout {
 public:
  Layout(DType dtype, const ExchangeOptions& options, int world_size)
      : element_size_(static_cast<int64_t>(size_of(dtype))),
        options_(options),
        kept_(options.shares.empty() ? 0 : options.shares.back().range.end),
        world_size_(world_size) {}

  ExchangeLayout of(int64_t extent, std::vector<int64_t> offsets) {
    made_.extent = made_.sums_begin = extent;
    if (options_.sums > 0) {
      made_.sums_begin = divide_up(extent, kShareAlignment) * kShareAlignment;
      made_.extent = made_.sums_begin + kShareAlignment;
      offsets.push_back(made_.sums_begin);
    }
    if (kept_ > made_.extent ||
        (kept_ > 0 && kept_ < made_.extent && !std::ranges::binary_search(offsets, kept_))) {
      fail(ErrorKind::kInternal,
           fmt::format("gradient exchange: shares must end with a slice of the {} elements: at {}",
                       made_.extent, kept_));
    }
    cut_buckets(offsets);
    if (world_size_ > 1) lay_down_operations();
    return std::move(made_);
  }

 private:
  // Buckets are filled from the end of the array.
  void cut_buckets(const std::vector<int64_t>& offsets) {
    int64_t end = made_.extent, bucket_bytes = 0;
    std::vector<int64_t>& buckets = made_.slices_in_bucket;
    made_.slices.resize(offsets.size());
    for (size_t i = offsets.size(); i-- > 0;) {
      const int64_t capacity = end - offsets[i];
      if (offsets[i] < 0 || capacity <= 0) {
        fail(ErrorKind::kInternal,
             fmt::format("gradient exchange: slices must ascend within {} elements: slice {} at {}",
                         made_.extent, i, offsets[i]));
      }
      const int64_t bytes = capacity * element_size_;
      if (buckets.empty() || bucket_bytes + bytes > options_.bucket_bytes || end == kept_) {
        buckets.push_back(0);
        bucket_bytes = 0;
      }
      bucket_bytes += bytes;
      ++buckets.back();
      made_.slices[i] = {offsets[i], capacity, static_cast<int64_t>(buckets.size()) - 1};
      end = offsets[i];
    }
  }

  void lay_down_operations() {
    size_t last_slice = made_.slices.size();
    for (size_t bucket = 0; bucket < made_.slices_in_bucket.size(); ++bucket) {
      const size_t first_slice = last_slice - static_cast<size_t>(made_.slices_in_bucket[bucket]);
      const ExchangeLayout::Slice& last = made_.slices[last_slice - 1];
      const ElementRange range{made_.slices[first_slice].offset, last.offset + last.capacity};
      last_slice = first_slice;
      if (options_.mode == ReductionMode::kLibrary) {
        reduce(range, static_cast<int64_t>(bucket));
      } else {
        gather_and_share(range, static_cast<int64_t>(bucket));
      }
    }
  }

  // The sums by themselves: they are of another type.
  void reduce(const ElementRange& bucket, int64_t number) {
    for (const ElementRange& range : {ElementRange{bucket.begin, std::min(bucket.end, made_.sums_begin)},
                                      ElementRange{std::max(bucket.begin, made_.sums_begin), bucket.end}}) {
      if (range.size() <= 0) continue;
      made_.operations.push_back({ExchangeLayout::Operation::Kind::kAllReduce, made_.pieces.size()});
      made_.pieces.push_back({range, {}, false, number});
    }
  }

  void gather_and_share(const ElementRange& bucket, int64_t number) {
    // Pieces of equal size, so that no bucket ends with a tiny one.
    const int64_t count = divide_up(bucket.size() * element_size_, kPieceBytes);
    const int64_t stripe =
        divide_up(divide_up(bucket.size(), count * world_size_), kShareAlignment) * kShareAlignment;
    const size_t first = made_.pieces.size();
    for (int64_t at = bucket.begin; at < bucket.end; at += stripe * world_size_) {
      const ElementRange range{at, std::min(at + stripe * world_size_, bucket.end)};
      made_.pieces.push_back({range, shares_of(range, stripe), bucket.begin < kept_, number});
    }
    for (size_t piece = first; piece < made_.pieces.size() + kGathersInFlight; ++piece) {
      if (piece >= first + kGathersInFlight) {
        made_.operations.push_back({ExchangeLayout::Operation::Kind::kShare, piece - kGathersInFlight});
      }
      if (piece < made_.pieces.size()) {
        made_.operations.push_back({ExchangeLayout::Operation::Kind::kGather, piece});
      }
    }
  }

  // Who adds up what of a piece: options.shares, or else a part of `stripe` elements each.
  std::vector<Share> shares_of(const ElementRange& piece, int64_t stripe) const {
    std::vector<Share> shares;
    for (const Share& share : options_.shares) {
      const ElementRange common = overlap(share.range, piece);
      if (common.size() > 0) shares.push_back({common, share.owner});
    }
    for (int worker = 0; piece.begin >= kept_ && worker < world_size_; ++worker) {
      const int64_t begin = piece.begin + worker * stripe;
      const ElementRange range = overlap({begin, begin + stripe}, piece);
      if (range.size() > 0) shares.push_back({range, worker});
    }
    return shares;
  }

  const int64_t element_size_;
  const ExchangeOptions& options_;
  const int64_t kept_;  // elements that stay with the workers of options.shares
  const int world_size_;
  ExchangeLayout made_;
};

}  // namespace

ExchangeLayout lay_out_exchange(int64_t extent, std::vector<int64_t> slice_offsets, DType dtype,
                                const ExchangeOptions& options, int world_size) {
  if (options.bucket_bytes < 1) {
    fail(ErrorKind::kInternal, fmt::format("gradient exchange: bucket of {} bytes", options.bucket_bytes));
  }
  if (options.sums < 0 || options.sums > kMostSums) {
    fail(ErrorKind::kInternal, fmt::format("gradient exchange: {} sums", options.sums));
  }
  return Layout(dtype, options, world_size).of(extent, std::move(slice_offsets));
}

}  // namespace lockstep
