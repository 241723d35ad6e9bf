// The communicator of a worker that is alone: every collective is a copy, done when the call returns.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "comm/communicator.h"
#include "core/error.h"

namespace lockstep {

namespace {

class DoneRequest final : public Request {
 public:
  bool test() override { return true; }
  void wait() override {}
};

class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  HostPlace host_place() const override { return {}; }
  std::string description() const override { return "self: 1 worker"; }

  std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                    std::string label) override {
    std::erase_if(sends, [](const SendBlock& block) { return block.bytes == 0; });
    std::erase_if(receives, [](const ReceiveBlock& block) { return block.bytes == 0; });
    for (const SendBlock& block : sends) check_rank(block.rank, label);
    for (const ReceiveBlock& block : receives) check_rank(block.rank, label);
    if (sends.size() != receives.size()) {
      fail(ErrorKind::kCommunication,
           fmt::format("exchange ({}) on rank 0: {} blocks sent to rank 0, {} awaited", label, sends.size(),
                       receives.size()));
    }
    for (size_t i = 0; i < sends.size(); ++i) {
      if (sends[i].bytes != receives[i].bytes) {
        fail(ErrorKind::kCommunication,
             fmt::format("exchange ({}) on rank 0: {} bytes sent by rank 0, {} awaited", label,
                         sends[i].bytes, receives[i].bytes));
      }
      copy(receives[i].data, sends[i].data, sends[i].bytes);
    }
    return done();
  }

  std::unique_ptr<Request> all_reduce_sum(void*, int64_t, DType, std::string) override { return done(); }
  std::unique_ptr<Request> all_reduce_max(int64_t*, int64_t, std::string) override { return done(); }
  std::unique_ptr<Request> all_gather(const void* data, size_t bytes, void* received, std::string) override {
    copy(received, data, bytes);
    return done();
  }
  std::unique_ptr<Request> broadcast(void*, size_t, int root, std::string label) override {
    check_rank(root, label);
    return done();
  }
  void barrier(std::string) override {}

  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }

 private:
  static std::unique_ptr<Request> done() { return std::make_unique<DoneRequest>(); }

  static void copy(void* to, const void* from, size_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
  }

  static void check_rank(int rank, const std::string& label) {
    if (rank != 0)
      fail(ErrorKind::kInternal, fmt::format("communicator ({}): no rank {} among 1", label, rank));
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
  return std::make_unique<SelfCommunicator>();
}

}  // namespace lockstep
