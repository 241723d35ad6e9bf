// A communicator whose workers are threads of one process: it lets tests run any number of workers without a
// launcher.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"

namespace lockstep::testing {

// Who of several workers works, where they may not at the same time: a worker that waits for messages lets
// the others.
class Turn {
 public:
  explicit Turn(std::mutex* mutex) : mutex_(mutex) { take(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() { leave(); }
  void take() {
    if (mutex_ != nullptr) mutex_->lock();
  }
  void leave() {
    if (mutex_ != nullptr) mutex_->unlock();
  }

 private:
  std::mutex* mutex_;  // null where all work at once
};

// The messages that have come for one worker, by (sender, sequence number of the collective).
struct Mailbox {
  std::mutex mutex;
  std::condition_variable arrival;
  std::map<std::pair<int, uint64_t>, std::deque<std::vector<std::byte>>> messages;
  bool aborted = false;
};

class ThreadedCommunicator final : public Communicator {
 public:
  // hosts: the name of each worker's; empty: all are on this one.
  ThreadedCommunicator(std::vector<Mailbox>& mailboxes, Turn& turn, int rank, double timeout_seconds,
                       std::vector<std::string> hosts = {})
      : mailboxes_(mailboxes),
        turn_(turn),
        rank_(rank),
        world_size_(static_cast<int>(mailboxes.size())),
        timeout_seconds_(timeout_seconds),
        hosts_(std::move(hosts)) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  HostPlace host_place() const override { return {rank_, world_size_}; }
  std::string description() const override { return "threads"; }
  std::string host_of(int rank) const override {
    return hosts_.empty() ? Communicator::host_of(rank) : hosts_[static_cast<size_t>(rank)];
  }

  std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                    std::string) override {
    return start(sends, std::move(receives), {});
  }

  std::unique_ptr<Request> all_reduce_sum(void* data, int64_t count, DType dtype, std::string) override {
    if (dtype == DType::kF32)
      return reduce(static_cast<float*>(data), count, [](float a, float b) { return a + b; });
    return reduce(static_cast<double*>(data), count, [](double a, double b) { return a + b; });
  }

  std::unique_ptr<Request> all_reduce_max(int64_t* data, int64_t count, std::string) override {
    return reduce(data, count, [](int64_t a, int64_t b) { return a < b ? b : a; });
  }

  std::unique_ptr<Request> all_gather(const void* data, size_t bytes, void* received, std::string) override {
    return from_all(data, bytes, received, {});
  }

  std::unique_ptr<Request> broadcast(void* data, size_t bytes, int root, std::string) override {
    std::vector<SendBlock> sends;
    std::vector<ReceiveBlock> receives;
    for (int r = 0; rank_ == root && r < world_size_; ++r) {
      if (r != root) sends.push_back({r, data, bytes});
    }
    if (rank_ != root) receives.push_back({root, data, bytes});
    return start(sends, std::move(receives), {});
  }

  void barrier(std::string) override {
    std::vector<std::byte> all(static_cast<size_t>(world_size_));
    const std::byte token{};
    from_all(&token, 1, all.data(), {})->wait();
  }

  std::unique_ptr<Request> until(std::function<bool()> came, std::string) override {
    return std::make_unique<ThreadedCondition>(*this, std::move(came));
  }

  // Bytes that this worker has sent so far to workers of other hosts, and to others of its own.
  size_t sent_away() const { return sent_away_; }
  size_t sent_at_home() const { return sent_at_home_; }

  [[noreturn]] void abort(int) override {
    for (Mailbox& mailbox : mailboxes_) {
      const std::lock_guard lock(mailbox.mutex);
      mailbox.aborted = true;
      mailbox.arrival.notify_all();
    }
    fail(ErrorKind::kCommunication, "aborted");
  }

 private:
  class ThreadedRequest final : public Request {
   public:
    ThreadedRequest(ThreadedCommunicator& communicator, uint64_t sequence, std::vector<ReceiveBlock> receives,
                    std::function<void()> when_done)
        : communicator_(communicator),
          sequence_(sequence),
          receives_(std::move(receives)),
          when_done_(std::move(when_done)) {}

    bool test() override {
      const std::lock_guard lock(communicator_.mailbox(communicator_.rank_).mutex);
      return advance();
    }

    void wait() override {
      Mailbox& mailbox = communicator_.mailbox(communicator_.rank_);
      const auto deadline =
          std::chrono::steady_clock::now() + std::chrono::duration<double>(communicator_.timeout_seconds_);
      std::unique_lock lock(mailbox.mutex);
      while (!advance()) {
        communicator_.turn_.leave();
        const bool ends =
            mailbox.aborted || mailbox.arrival.wait_until(lock, deadline) == std::cv_status::timeout;
        lock.unlock();  // whose turn it is may want to leave a message
        communicator_.turn_.take();
        lock.lock();
        if (ends) {
          fail(ErrorKind::kCommunication, "thread " + std::to_string(communicator_.rank_) + ": not finished");
        }
      }
    }

   private:
    // The mailbox's mutex is held.
    bool advance() {
      for (; next_ < receives_.size(); ++next_) {
        const ReceiveBlock& block = receives_[next_];
        auto& messages = communicator_.mailbox(communicator_.rank_).messages;
        const auto found = messages.find({block.rank, sequence_});
        if (found == messages.end()) return false;
        if (found->second.front().size() != block.bytes) {
          fail(ErrorKind::kCommunication, "threads disagree about a size");
        }
        std::memcpy(block.data, found->second.front().data(), block.bytes);
        found->second.pop_front();
        if (found->second.empty()) messages.erase(found);
      }
      if (when_done_) std::exchange(when_done_, {})();
      return true;
    }

    ThreadedCommunicator& communicator_;
    uint64_t sequence_;
    std::vector<ReceiveBlock> receives_;
    std::function<void()> when_done_;
    size_t next_ = 0;
  };

  class ThreadedCondition final : public Request {
   public:
    ThreadedCondition(ThreadedCommunicator& communicator, std::function<bool()> came)
        : communicator_(communicator), came_(std::move(came)) {}
    bool test() override { return came_(); }
    void wait() override {
      const auto deadline =
          std::chrono::steady_clock::now() + std::chrono::duration<double>(communicator_.timeout_seconds_);
      while (!came_()) {
        if (std::chrono::steady_clock::now() > deadline) {
          fail(ErrorKind::kCommunication, "thread " + std::to_string(communicator_.rank_) + ": not finished");
        }
        communicator_.turn_.leave();
        std::this_thread::yield();
        communicator_.turn_.take();
      }
    }

   private:
    ThreadedCommunicator& communicator_;
    std::function<bool()> came_;
  };

  std::unique_ptr<Request> start(const std::vector<SendBlock>& sends, std::vector<ReceiveBlock> receives,
                                 std::function<void()> when_done) {
    const uint64_t sequence = sequence_++;
    std::erase_if(receives, [](const ReceiveBlock& block) { return block.bytes == 0; });
    for (const SendBlock& block : sends) {
      if (block.bytes == 0) continue;
      const auto* data = static_cast<const std::byte*>(block.data);
      if (block.rank != rank_) {
        (host_of(block.rank) == host_of(rank_) ? sent_at_home_ : sent_away_) += block.bytes;
      }
      Mailbox& target = mailbox(block.rank);
      const std::lock_guard lock(target.mutex);
      target.messages[{rank_, sequence}].emplace_back(data, data + block.bytes);
      target.arrival.notify_one();
    }
    return std::make_unique<ThreadedRequest>(*this, sequence, std::move(receives), std::move(when_done));
  }

  std::unique_ptr<Request> from_all(const void* data, size_t bytes, void* received,
                                    std::function<void()> when_done) {
    std::vector<SendBlock> sends;
    std::vector<ReceiveBlock> receives;
    for (int r = 0; r < world_size_; ++r) {
      sends.push_back({r, data, bytes});
      receives.push_back({r, static_cast<std::byte*>(received) + static_cast<size_t>(r) * bytes, bytes});
    }
    return start(sends, std::move(receives), std::move(when_done));
  }

  // Everyone gathers everything and folds it in rank order.
  template <class T, class Operation>
  std::unique_ptr<Request> reduce(T* data, int64_t count, Operation operation) {
    const auto n = static_cast<size_t>(count);
    auto all = std::make_shared<std::vector<T>>(n * static_cast<size_t>(world_size_));
    return from_all(data, n * sizeof(T), all->data(), [=] {
      for (size_t i = 0; i < n; ++i) {
        T value = (*all)[i];
        for (size_t r = 1; r < all->size() / n; ++r) value = operation(value, (*all)[r * n + i]);
        data[i] = value;
      }
    });
  }

  Mailbox& mailbox(int rank) { return mailboxes_[static_cast<size_t>(rank)]; }

  std::vector<Mailbox>& mailboxes_;
  Turn& turn_;
  int rank_, world_size_;
  double timeout_seconds_;
  std::vector<std::string> hosts_;
  uint64_t sequence_ = 0;
  size_t sent_away_ = 0, sent_at_home_ = 0;
};

// Runs work(communicator) on every one of `world_size` workers; rethrows the first worker's failure after all
// have ended. in_turn: one at a time, as those have to who share a device.
inline void run_threaded(int world_size, const std::function<void(Communicator&)>& work,
                         double timeout_seconds = 20.0, bool in_turn = false,
                         const std::vector<std::string>& hosts = {}) {
  std::mutex turns;
  std::vector<Mailbox> mailboxes(static_cast<size_t>(world_size));
  std::vector<std::exception_ptr> failures(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      Turn turn(in_turn ? &turns : nullptr);
      ThreadedCommunicator communicator(mailboxes, turn, rank, timeout_seconds, hosts);
      try {
        work(communicator);
      } catch (...) {
        failures[static_cast<size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace lockstep::testing
