// Plans of cuDNN for one queue: chosen once a call, run as often as asked.
#include "lockstep/kernels/cuda/with_cudnn/operations.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/kernels/cuda/stopwatch.h"
#include "lockstep/kernels/plan_table.h"

namespace lockstep {

namespace {

// What the plan table holds for a call that own kernels serve.
constexpr std::string_view kOwn = "own";

// As many are timed where the fastest is looked for.
constexpr size_t kMostCandidates = 8;

}  // namespace

bool cudnn_aligned(std::initializer_list<const void*> arrays) {
  return std::all_of(arrays.begin(), arrays.end(), [](const void* array) {
    return reinterpret_cast<uintptr_t>(array) % kCudnnAlignment == 0;
  });
}

CudnnOperations::CudnnOperations(const CudnnLibrary& library, CudnnQueue queue)
    : library_(library), queue_(std::move(queue)), handle_(nullptr, DestroyHandle{&library}) {
  cudnnHandle_t handle = nullptr;
  check(library_.create(&handle), "start");
  handle_.reset(handle);
  check(library_.set_stream(handle, queue_.stream), "stream");
}

void CudnnOperations::check(cudnnStatus_t status, const char* what) const {
  if (status == CUDNN_STATUS_SUCCESS) return;
  fail(ErrorKind::kInternal, "cuda: " + library_.name() + ": " + what + ": " + library_.explain(status) +
                                 ": device.cudnn = \"off\" does without it");
}

double CudnnOperations::seconds_of(const CudnnPlan& plan, const Run& run_by) const {
  Stopwatch stopwatch(queue_.stream, [&] { run_by(plan); });
  std::array<double, 3> seconds;
  for (double& time : seconds) time = stopwatch.seconds();
  std::nth_element(seconds.begin(), seconds.begin() + 1, seconds.end());
  return seconds[1];
}

std::optional<CudnnPlan> CudnnOperations::make_plan(const std::string& call, DType inputs, const Build& build,
                                                    const Run& run_by) {
  const CudnnDevice device{handle_.get(), nullptr};
  auto graph = std::make_unique<CudnnGraph>(library_);
  build(*graph);
  const CudnnDescriptor& finalized = graph->finalize(device.handle);
  const auto plan_of = [&](const CudnnChoice& choice) {
    return cudnn_plan(library_, device, graph, finalized, inputs, choice, kCudnnWorkspaceBytes);
  };
  if (const std::optional<std::string> held = queue_.plans->find(call)) {
    if (*held == kOwn) return std::nullopt;
    if (const std::optional<CudnnChoice> choice = CudnnChoice::parse(*held)) {
      if (auto plan = plan_of(*choice)) return plan;
    }
    log_warning("plans: not an engine that cuDNN can use, and left out: \"" + *held + "\" for " + call);
    queue_.plans->erase(call);
  }
  // The candidates are the first choices that have plans, as many as are asked for.
  const PlanTable::Search search = queue_.plans->search();
  const size_t most = search.tune ? kMostCandidates : static_cast<size_t>(search.candidate) + 1;
  std::vector<CudnnChoice> candidates;
  std::vector<double> seconds;
  for (const CudnnChoice& choice : cudnn_choices(library_, device, finalized, inputs)) {
    if (candidates.size() == most) break;
    std::optional<CudnnPlan> plan = plan_of(choice);
    if (!plan) continue;
    candidates.push_back(choice);
    if (search.tune) seconds.push_back(seconds_of(*plan, run_by));
    graph = std::move(plan->graph);
  }
  if (candidates.empty()) return std::nullopt;
  size_t number = candidates.size() == most ? most - 1 : 0;
  if (search.tune) {
    number = fastest(seconds.data(), seconds.size());
    queue_.plans->insert(call, candidates[number].text());
  }
  return plan_of(candidates[number]);
}

const CudnnPlan* CudnnOperations::plan_for(const std::string& call, DType inputs, const Build& build,
                                           const Run& run_by) {
  if (const uint64_t generation = queue_.plans->generation(); generation != generation_) {
    plans_.clear();
    generation_ = generation;
  }
  const auto found = plans_.find(call);
  if (found != plans_.end()) return found->second ? &*found->second : nullptr;
  std::optional<CudnnPlan> plan;
  try {
    plan = make_plan(call, inputs, build, run_by);
  } catch (const CudnnUnsupported&) {  // own kernels serve
  }
  std::optional<CudnnPlan>& kept = plans_[call];
  kept = std::move(plan);
  return kept ? &*kept : nullptr;
}

bool CudnnOperations::serve(const std::string& call, DType inputs, const Build& build, const Run& run_by) {
  const CudnnPlan* const plan = plan_for(call, inputs, build, run_by);
  if (plan != nullptr) run_by(*plan);
  return plan != nullptr;
}

void CudnnOperations::run(const CudnnPlan& plan, const std::vector<Binding>& bindings, void* workspace) {
  std::vector<int64_t> ids;
  std::vector<void*> pointers;
  for (const Binding& binding : bindings) {
    if (!plan.graph->has(binding.id)) continue;
    ids.push_back(binding.id);
    pointers.push_back(const_cast<void*>(binding.memory));
  }
  CudnnDescriptor pack(library_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pointers);
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, workspace);
  pack.finalize();
  check(library_.execute(handle_.get(), plan.plan->handle(), pack.handle()), "run");
}

std::string cudnn_name() {
  const CudnnLibrary* const library = cudnn_library();
  return library == nullptr ? std::string() : library->name();
}

std::unique_ptr<Cudnn> make_cudnn(CudnnQueue queue) {
  const CudnnLibrary* const library = cudnn_library();
  if (library == nullptr) return nullptr;
  return std::make_unique<CudnnOperations>(*library, std::move(queue));
}

}  // namespace lockstep
