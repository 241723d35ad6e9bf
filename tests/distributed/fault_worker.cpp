// A worker that goes wrong on purpose, in the way that its argument names: start it with mpirun. Failures are
// handled as the command does: one line on stderr, then abort with the exit code of the failure.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "parallel/gradient_exchange.h"

namespace {

using namespace lockstep;

void sleep_forever() {
  std::this_thread::sleep_for(std::chrono::hours(1));
}

void exchange_step(Communicator& communicator, int64_t elements) {
  ExchangeOptions options;
  options.micro_batches = communicator.world_size();
  GradientExchange exchange(communicator, cpu_backend(), DType::kF32, elements, {0}, options);
  const std::vector<float> values(static_cast<size_t>(elements), 1.0f);
  exchange.begin_step();
  exchange.begin_micro_batch(communicator.rank());
  exchange.add(0, elements, values.data());
  exchange.end_micro_batch();
  exchange.finish();
}

void run(Communicator& communicator, const std::string& fault) {
  const bool last = communicator.rank() == communicator.world_size() - 1;
  const int next = (communicator.rank() + 1) % communicator.world_size();
  const int previous = (communicator.rank() + communicator.world_size() - 1) % communicator.world_size();
  std::vector<float> buffer(1 << 20, 1.0f), other(1 << 20);
  exchange_step(communicator, 1000);  // everything works at first
  if (fault == "none") {
    communicator.barrier("end");
  } else if (fault == "absent from the exchange") {
    if (last) sleep_forever();
    exchange_step(communicator, 300000);
  } else if (fault == "absent from a barrier") {
    if (last) sleep_forever();
    communicator.barrier("step 7");
  } else if (fault == "absent from an all-reduce") {
    if (last) sleep_forever();
    communicator.all_reduce_sum(buffer.data(), 1 << 20, DType::kF32, "bucket 3")->wait();
  } else if (fault == "killed") {
    if (last) std::raise(SIGKILL);
    exchange_step(communicator, 300000);
  } else if (fault == "killed under way") {
    // Dies with large messages half sent.
    const size_t bytes = buffer.size() * sizeof(float);
    const auto request =
        communicator.exchange({{next, buffer.data(), bytes}}, {{previous, other.data(), bytes}}, "ring");
    if (last) std::raise(SIGKILL);
    request->wait();
    communicator.barrier("after");
  } else if (fault == "throws") {
    if (last) fail(ErrorKind::kData, "row 7: label 12 is out of range");
    communicator.barrier("never complete");
  } else if (fault == "leaves without finalizing") {
    if (last) std::exit(3);
    communicator.barrier("never complete");
  } else if (fault == "other order") {
    if (last) {
      communicator.barrier("one collective more");
    }
    communicator.exchange({{next, buffer.data(), 4}}, {{previous, other.data(), 4}}, "ring")->wait();
    communicator.barrier("end");
  } else if (fault == "sends too much" || fault == "sends too little") {
    const size_t sent = !last ? 400 : fault == "sends too much" ? 800 : 200;
    communicator.exchange({{next, buffer.data(), sent}}, {{previous, other.data(), 400}}, "ring")->wait();
    communicator.barrier("end");
  } else {
    fail(ErrorKind::kUsage, "no such fault: " + fault);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CommunicatorOptions options;
  options.timeout_seconds = 1.5;
  const auto communicator = make_communicator(options);
  try {
    run(*communicator, argc > 1 ? argv[1] : "none");
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    communicator->abort(exit_code(error.kind()));
  }
  return 0;
}
