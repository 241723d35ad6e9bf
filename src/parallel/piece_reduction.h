// The lockstep reduction of one piece of the gradient after the other: each worker gathers its share of a
// piece from all workers, adds in tree order, and shares the sum.
//
// Workers of a host that see each other's arrays (comm/host_group.h) need no messages for that. Once all of
// them have a bucket's local sums, every element of it belongs, in the arrays of all, to the one of them that
// adds it up: the worker whose share it is, or who acts for that one on this host. That one adds in place,
// and writes the total to everyone's first array. Between hosts travel the sums of hosts, from who acts for a
// worker to that worker, and the totals back. A worker that sees nobody's arrays is a host of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/comm/host_group.h"
#include "lockstep/parallel/exchange_layout.h"
#include "lockstep/parallel/local_sums.h"
#include "lockstep/parallel/reduction_plan.h"

namespace lockstep {

class PieceReduction {
 public:
  // All of these must outlive the object.
  PieceReduction(Communicator& communicator, Backend& backend, DType dtype, const ExchangeLayout& layout,
                 const ExchangeOptions& options);

  // Of this worker; the first array becomes the result. In library mode one array, of all that it owns.
  LocalSums& local() { return *local_; }
  const LocalSums& local() const { return *local_; }
  size_t bytes() const;

  // Finds out who sees whose arrays, the first time. Collective; not part of the constructor since workers
  // that are still being set up may fail where the others do not.
  void begin_step();
  // Whether all of this host have the local sums of a bucket that this worker has; in the order of the
  // buckets. waits: until they have.
  bool have_met(int64_t bucket, bool waits);
  // Sends and receives what travels to the shares of a piece. Null where nothing does.
  std::unique_ptr<Request> gather(size_t piece);
  // Once that is done: adds up this worker's shares.
  void combine(size_t piece);
  // Sends and receives the sums. Null where nothing travels.
  std::unique_ptr<Request> share(size_t piece);
  // Once that is done: hands them on.
  void take_shared(size_t piece);
  // Once all is done: waits until it is so on this host.
  void finish_step();

 private:
  using Piece = ExchangeLayout::Piece;
  // A share of a piece for whose owner this worker acts in its group, and the first element of it in what is
  // received from other groups.
  struct Part {
    ElementRange range;
    int owner;
    int64_t from_outside;
    Part at(const ElementRange& block) const;
  };

  std::vector<Tensor> make_arrays(int count);
  void make_plan();
  std::byte* array_of(int worker, int array, int64_t element);
  std::byte* inside(int number, const Part& part);
  std::byte* sum_of(size_t piece, int number, const Part& part);
  // Whether any group is more than one worker.
  bool two_levels() const { return static_cast<int>(groups_.size()) < world_size_; }
  bool in_group(int worker) const { return groups_[group_].contains(worker); }
  // Who acts for `owner` in this worker's group.
  int actor_for(int owner) const { return delegate_of(groups_, group_, owner); }
  bool is_sum_of_group(int number) const { return number >= plan_.begin && number < plan_.end; }
  void add_inside(const Part& part);
  void spread(const ElementRange& range);
  template <class Add>
  void for_blocks(const Part& part, const Add& add);
  std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                    const Piece& piece);
  size_t bytes_of(const ElementRange& range) const {
    return static_cast<size_t>(range.size() * element_size_);
  }

  Communicator& communicator_;
  Backend& backend_;
  Backend& lane_;
  const DType dtype_;
  const int64_t element_size_;
  const ExchangeLayout& layout_;
  const ExchangeOptions& options_;
  const int rank_, world_size_;

  std::shared_ptr<SharedMemory> memory_;  // of the local sums, where others may see them
  std::string why_not_;                   // there is none
  const size_t array_bytes_;              // from one array in it to the next
  std::optional<LocalSums> local_;

  RankGroups groups_;              // by the names of hosts until the first step
  std::optional<HostGroup> host_;  // where some workers see each other's arrays
  bool met_ = false;
  size_t group_ = 0;  // this worker's
  TwoLevelPlan plan_;
  std::vector<std::vector<Part>> parts_;  // of each piece
  // Received: (gathers in flight, sums of other groups, most elements of a piece's parts).
  Tensor from_outside_;
  int64_t outside_stride_ = 0;

  int64_t buckets_met_ = 0;           // in this step
  std::unique_ptr<Request> meeting_;  // of the next one
};

}  // namespace lockstep
