// A worker that goes wrong on purpose, in the way that its first argument names: start it with mpirun. With a
// second argument "nccl" arrays travel between GPUs, with "staged" between GPUs through host memory. Failures
// are handled as the command does: one line on stderr, then abort with the exit code of the failure.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/comm/device_communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/nn/module.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/parallel/gradient_exchange.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/trainer.h"

namespace {

using namespace lockstep;

void sleep_forever() {
  std::this_thread::sleep_for(std::chrono::hours(1));
}

// Steps of an exchange of ones.
class Steps {
 public:
  Steps(Communicator& communicator, int64_t elements)
      : communicator_(communicator),
        backend_(&communicator.device() != &communicator ? cuda_backend(0) : cpu_backend()),
        ones_(Tensor::full({elements}, DType::kF32, backend_, 1.0)),
        exchange_(communicator, backend_, DType::kF32, elements, {0},
                  ExchangeOptions{.micro_batches = communicator.world_size()}) {}

  Backend& backend() { return backend_; }
  // A step as recorded work, which has yet to run.
  std::unique_ptr<Recording> record() {
    backend_.begin_recording();
    issue();
    return backend_.end_recording();
  }

  void step(const std::function<void()>& before_finish = {}) {
    issue(before_finish);
    if (exchange_.result().to_vector<float>().back() != static_cast<float>(communicator_.world_size())) {
      fail(ErrorKind::kInternal, "the exchange is wrong");
    }
  }

 private:
  void issue(const std::function<void()>& before_finish = {}) {
    exchange_.begin_step();
    exchange_.begin_micro_batch(communicator_.rank());
    exchange_.add(0, ones_.elements(), ones_.data());
    exchange_.end_micro_batch();
    if (before_finish) before_finish();
    exchange_.finish();
  }

  Communicator& communicator_;
  Backend& backend_;
  Tensor ones_;
  GradientExchange exchange_;
};

// A linear model on a machine that computes wrongly: at the fifth micro-batch of the drifting worker one bit
// of one weight changes.
class Drifting final : public Module {
 public:
  Drifting(const ModuleBuilder& builder, const DataShape& data, bool drifts)
      : weight_(builder.parameter("weight", {data.sample.elements(), data.outputs()}, {})), drifts_(drifts) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    if (context.training && ++calls_ == 5 && drifts_) {
      Tensor weight = context.parameters[static_cast<size_t>(weight_)].detach();
      weight.mutable_data_as<float>()[3] += 1e-6f;
    }
    return matmul(x, context.parameter(weight_));
  }

 private:
  int weight_;
  bool drifts_;
  mutable int calls_ = 0;
};

// Trains on points that lie in the current directory.
void train_drifting(Communicator& communicator, int drifting_rank) {
  register_model("drifting", [&communicator, drifting_rank](Section&, const DataShape& data,
                                                            const ModuleBuilder& builder) {
    return std::make_unique<Drifting>(builder, data, communicator.rank() == drifting_rank);
  });
  Configuration configuration = Configuration::parse(
      "[run]\noutput = 'out'\n[data]\ntrain = 'points.csv'\n[model]\ntype = 'drifting'\n"
      "[train]\nsteps = 50\nmicro_batches = 3\nmicro_batch_size = 2\n[parallel]\ndigest_every = 2\n",
      "drifting.toml", {});
  const StopSignal stop;
  TrainOptions options;
  options.overwrite = true;
  options.progress = false;
  train(configuration, options, stop, communicator);
}

void run(Communicator& communicator, const std::string& fault) {
  const bool last = communicator.rank() == communicator.world_size() - 1;
  const int next = (communicator.rank() + 1) % communicator.world_size();
  const int previous = (communicator.rank() + communicator.world_size() - 1) % communicator.world_size();
  std::vector<float> buffer(1 << 20, 1.0f), other(1 << 20);
  Steps steps(communicator, 300000);
  steps.step();  // everything works at first
  if (fault == "none" || fault == "late for the start") {
    communicator.barrier("end");
  } else if (fault == "none, with a recording") {
    const std::unique_ptr<Recording> recording = steps.record();
    steps.step();
    communicator.barrier("end");
  } else if (fault == "a device that breaks") {
    // What goes on its way out takes a moment.
    struct Leaving {
      ~Leaving() { std::this_thread::sleep_for(std::chrono::milliseconds(500)); }
    } const leaving;
    for (int step = 0; step < 100; ++step) steps.step();
  } else if (fault == "a device that is stuck") {
    for (int step = 0; step < 100; ++step) steps.step();
  } else if (fault == "absent from a recorded exchange") {
    const std::unique_ptr<Recording> recording = steps.record();
    if (last) sleep_forever();
    communicator.device().reissue(
        steps.backend().native_queue(), [&] { recording->replay(); }, "step 7");
    communicator.barrier("step 7");
  } else if (fault == "stopped within the exchange") {
    // Longer than anyone waits; the last one comes a moment after the others have gone on.
    const std::string self = std::to_string(::getpid());
    if (!last &&
        std::system(("(sleep 0.3; kill -STOP " + self + "; sleep 12; kill -CONT " + self + ") &").c_str()) !=
            0)
      fail(ErrorKind::kInternal, "no shell");
    if (last) std::this_thread::sleep_for(std::chrono::milliseconds(13000));
    steps.step();
    communicator.barrier("end");
  } else if (fault == "absent from the exchange") {
    if (last) sleep_forever();
    steps.step();
  } else if (fault == "absent from a barrier") {
    if (last) sleep_forever();
    communicator.barrier("step 7");
  } else if (fault == "absent from an all-reduce") {
    if (last) sleep_forever();
    communicator.all_reduce_sum(buffer.data(), 1 << 20, DType::kF32, "bucket 3")->wait();
  } else if (fault == "killed") {
    if (last) std::raise(SIGKILL);
    steps.step();
  } else if (fault == "killed within a step") {
    steps.step([&] {
      if (last) std::raise(SIGKILL);
    });
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
  } else if (fault.rfind("drifts on rank ", 0) == 0) {
    train_drifting(communicator, std::stoi(fault.substr(15)));
  } else {
    fail(ErrorKind::kUsage, "no such fault: " + fault);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CommunicatorOptions options;
  options.timeout_seconds = 1.5;
  const auto communicator = make_communicator(options);
  log_to_stderr(communicator->rank(), communicator->world_size(), false);
  try {
    const std::string arrays = argc > 2 ? argv[2] : "mpi";
    if (arrays != "mpi") {
      if (std::string(argv[1]) == "a device that breaks" && communicator->rank() > 0)
        ::setenv("LOCKSTEP_CUDA_ON_CPU", "broken=30", 1);
      if (std::string(argv[1]) == "a device that is stuck" && communicator->rank() == 1)
        ::setenv("LOCKSTEP_CUDA_ON_CPU", "stuck=30", 1);
      // NCCL takes its time to start, longer than anyone waits in a step.
      if (std::string(argv[1]) == "late for the start" && communicator->rank() > 0)
        std::this_thread::sleep_for(std::chrono::seconds(3));
      CommunicatorOptions limits = options;
      limits.start_timeout_seconds = 30.0;
      void* const lane = cuda_backend(0).lane().native_queue();
      communicator->use_device(arrays == "staged" ? make_staged_communicator(*communicator, lane)
                                                  : make_nccl_communicator(*communicator, lane, limits));
    }
    // As a run does, on its way out too.
    struct Device {
      Communicator& communicator;
      ~Device() { communicator.use_device(nullptr); }
    } const device{*communicator};
    run(*communicator, argc > 1 ? argv[1] : "none");
  } catch (const AgreedFailure& failure) {
    if (failure.speaks()) std::fprintf(stderr, "error: %s\n", failure.what());
    communicator->barrier("failure");
    return exit_code(failure.kind());
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    communicator->abort(exit_code(error.kind()));
  }
  return 0;
}
