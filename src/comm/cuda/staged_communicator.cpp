// The communicator between GPUs that goes through pinned host memory.
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <utility>

#include "lockstep/comm/device_communicator.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

void check(cudaError_t code, const char* where) {
  if (code == cudaSuccess) return;
  fail(ErrorKind::kCommunication, fmt::format("{}: CUDA failed: {}", where, cudaGetErrorString(code)));
}

// Pinned memory. After a collective the device still reads it: `read` is recorded behind those copies.
struct PinnedBlock {
  std::byte* data = nullptr;
  size_t bytes = 0;
  cudaEvent_t read = nullptr;
};

class PinnedPool {
 public:
  PinnedPool() = default;
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;
  ~PinnedPool() {
    for (const PinnedBlock& block : free_) {
      cudaEventSynchronize(block.read);
      cudaEventDestroy(block.read);
      cudaFreeHost(block.data);
    }
  }

  // The smallest free block of at least `bytes`, which the device has read to the end, or a new one.
  PinnedBlock take(size_t bytes) {
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->bytes >= bytes && (best == free_.end() || it->bytes < best->bytes)) best = it;
    }
    PinnedBlock block;
    if (best != free_.end()) {
      block = *best;
      free_.erase(best);
      check(cudaEventSynchronize(block.read), "staged communicator");
      return block;
    }
    block.bytes = bytes;
    void* data = nullptr;
    check(cudaMallocHost(&data, bytes), "staged communicator: pinned memory");
    block.data = static_cast<std::byte*>(data);
    check(cudaEventCreateWithFlags(&block.read, cudaEventDisableTiming), "staged communicator");
    return block;
  }

  void give_back(const PinnedBlock& block) { free_.push_back(block); }

 private:
  std::vector<PinnedBlock> free_;
};

// Bytes on the device and their place in the pinned block.
struct StagedPart {
  void* device;
  size_t bytes, place;
};

// Copies the results to the device once the host's request is done.
class StagedRequest final : public Request {
 public:
  StagedRequest(std::unique_ptr<Request> request, PinnedPool& pool, const PinnedBlock& block,
                std::vector<StagedPart> results, cudaStream_t stream)
      : request_(std::move(request)),
        pool_(pool),
        block_(block),
        results_(std::move(results)),
        stream_(stream) {}
  // A request that was given up keeps its memory: messages may still come.

  bool test() override {
    if (request_ == nullptr) return true;
    if (!request_->test()) return false;
    finish();
    return true;
  }

  void wait() override {
    if (request_ == nullptr) return;
    request_->wait();
    finish();
  }

 private:
  void finish() {
    for (const StagedPart& part : results_) {
      if (part.bytes == 0) continue;
      check(
          cudaMemcpyAsync(part.device, block_.data + part.place, part.bytes, cudaMemcpyHostToDevice, stream_),
          "staged communicator");
    }
    check(cudaEventRecord(block_.read, stream_), "staged communicator");
    pool_.give_back(block_);
    request_.reset();
  }

  std::unique_ptr<Request> request_;
  PinnedPool& pool_;
  PinnedBlock block_;
  std::vector<StagedPart> results_;
  cudaStream_t stream_;
};

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(Communicator& host, cudaStream_t stream) : host_(host), stream_(stream) {}

  int rank() const override { return host_.rank(); }
  int world_size() const override { return host_.world_size(); }
  HostPlace host_place() const override { return host_.host_place(); }
  std::string host_of(int worker) const override { return host_.host_of(worker); }
  std::string description() const override { return "arrays through host memory"; }

  std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                    std::string label) override {
    Staging staging;
    for (const SendBlock& block : sends) staging.send(block.data, block.bytes);
    for (const ReceiveBlock& block : receives) staging.receive(block.data, block.bytes);
    return issue(staging, [&](std::byte* pinned) {
      for (size_t i = 0; i < sends.size(); ++i) sends[i].data = pinned + staging.sent[i].place;
      for (size_t i = 0; i < receives.size(); ++i) receives[i].data = pinned + staging.received[i].place;
      return host_.exchange(std::move(sends), std::move(receives), std::move(label));
    });
  }

  std::unique_ptr<Request> all_reduce_sum(void* data, int64_t count, DType dtype,
                                          std::string label) override {
    return in_place(data, static_cast<size_t>(count) * size_of(dtype), [&](std::byte* pinned) {
      return host_.all_reduce_sum(pinned, count, dtype, std::move(label));
    });
  }

  std::unique_ptr<Request> all_reduce_max(int64_t* data, int64_t count, std::string label) override {
    return in_place(data, static_cast<size_t>(count) * sizeof *data, [&](std::byte* pinned) {
      return host_.all_reduce_max(reinterpret_cast<int64_t*>(pinned), count, std::move(label));
    });
  }

  std::unique_ptr<Request> all_gather(const void* data, size_t bytes, void* received,
                                      std::string label) override {
    return between(data, bytes, received, bytes * workers(), [&](std::byte* in, std::byte* out) {
      return host_.all_gather(in, bytes, out, std::move(label));
    });
  }

  std::unique_ptr<Request> broadcast(void* data, size_t bytes, int root, std::string label) override {
    return in_place(data, bytes, [&](std::byte* pinned) {
      return host_.broadcast(pinned, bytes, root, std::move(label));
    });
  }

  void barrier(std::string label) override { host_.barrier(std::move(label)); }
  [[noreturn]] void abort(int exit_code) override {
    host_.abort(exit_code);
    std::_Exit(exit_code);  // not reached, but compilers forget what virtual functions promise
  }

 private:
  // What a collective reads and writes, laid out one behind the other.
  struct Staging {
    static constexpr size_t kAlignment = 64;
    std::vector<StagedPart> sent, received;
    size_t bytes = 0;

    size_t place(size_t part) {
      const size_t begin = bytes;
      bytes += (part + kAlignment - 1) / kAlignment * kAlignment;
      return begin;
    }
    // Device memory is only read, but copies take both directions through one type.
    void send(const void* data, size_t part) { sent.push_back({const_cast<void*>(data), part, place(part)}); }
    void receive(void* data, size_t part) { received.push_back({data, part, place(part)}); }
  };

  size_t workers() const { return static_cast<size_t>(host_.world_size()); }

  // start(pinned memory) issues the host's collective.
  std::unique_ptr<Request> issue(const Staging& staging,
                                 const std::function<std::unique_ptr<Request>(std::byte*)>& start) {
    const PinnedBlock block = pool_.take(std::max(staging.bytes, Staging::kAlignment));
    for (const StagedPart& part : staging.sent) {
      if (part.bytes == 0) continue;
      check(
          cudaMemcpyAsync(block.data + part.place, part.device, part.bytes, cudaMemcpyDeviceToHost, stream_),
          "staged communicator");
    }
    if (!staging.sent.empty()) check(cudaStreamSynchronize(stream_), "staged communicator");
    return std::make_unique<StagedRequest>(start(block.data), pool_, block, staging.received, stream_);
  }

  std::unique_ptr<Request> in_place(void* data, size_t bytes,
                                    const std::function<std::unique_ptr<Request>(std::byte*)>& start) {
    Staging staging;
    staging.send(data, bytes);
    staging.received = staging.sent;
    return issue(staging, start);
  }

  std::unique_ptr<Request> between(
      const void* data, size_t bytes, void* received, size_t received_bytes,
      const std::function<std::unique_ptr<Request>(std::byte*, std::byte*)>& start) {
    Staging staging;
    staging.send(data, bytes);
    staging.receive(received, received_bytes);
    return issue(staging, [&](std::byte* pinned) {
      return start(pinned + staging.sent[0].place, pinned + staging.received[0].place);
    });
  }

  Communicator& host_;
  cudaStream_t stream_;
  PinnedPool pool_;
};

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(Communicator& host, void* queue) {
  return std::make_unique<StagedCommunicator>(host, static_cast<cudaStream_t>(queue));
}

}  // namespace lockstep
