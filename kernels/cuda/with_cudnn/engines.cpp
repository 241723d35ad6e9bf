// Engines of cuDNN: the heuristics' proposals, the rules, and plans out of choices.
#include "lockstep/kernels/cuda/with_cudnn/engines.h"

#include <algorithm>
#include <charconv>

namespace lockstep {

namespace {

// More than there are kinds of, in this version and the next ones.
constexpr int64_t kMostNotes = 64, kMostKnobs = 128;

// What an engine of such a note computes is not what Lockstep promises: sums in any order, inputs or sums in
// a type of fewer bits, transformed inputs whose rounding errors are larger.
bool is_refused(cudnnBackendNumericalNote_t note, DType inputs) {
  switch (note) {
    case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
    case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
    case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
    case CUDNN_NUMERICAL_NOTE_FFT:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13:
      return true;
    case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
      return inputs == DType::kF32;  // as TF32
    default:
      return false;
  }
}

bool is_allowed(const CudnnDescriptor& engine, DType inputs) {
  const auto notes = engine.get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, kMostNotes);
  return std::none_of(notes.begin(), notes.end(), [&](auto note) { return is_refused(note, inputs); });
}

CudnnChoice choice_of(const CudnnDescriptor& engine, const CudnnDescriptor& configuration) {
  CudnnChoice choice;
  choice.engine = engine.get<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX).at(0);
  for (const CudnnDescriptor& knob : configuration.get(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                                       CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, kMostKnobs)) {
    choice.knobs.emplace_back(knob.get<cudnnBackendKnobType_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE).at(0),
                              knob.get<int64_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE).at(0));
  }
  std::sort(choice.knobs.begin(), choice.knobs.end());
  return choice;
}

// Reads a number from the front of `text`.
std::optional<int64_t> take_number(std::string_view& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

std::string CudnnChoice::text() const {
  std::string result = std::to_string(engine);
  for (const auto& [type, value] : knobs) result += " " + std::to_string(type) + ":" + std::to_string(value);
  return result;
}

std::optional<CudnnChoice> CudnnChoice::parse(std::string_view text) {
  CudnnChoice choice;
  const auto engine = take_number(text);
  if (!engine) return std::nullopt;
  choice.engine = *engine;
  while (!text.empty()) {
    if (!take(text, ' ')) return std::nullopt;
    const auto type = take_number(text);
    if (!type || !take(text, ':')) return std::nullopt;
    const auto value = take_number(text);
    if (!value) return std::nullopt;
    choice.knobs.emplace_back(*type, *value);
  }
  return choice;
}

std::vector<CudnnChoice> cudnn_choices(const CudnnLibrary& library, const CudnnDevice& device,
                                       const CudnnDescriptor& graph, DType inputs) {
  std::vector<CudnnChoice> choices;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    CudnnDescriptor heuristic(library, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, mode);
    if (device.properties != nullptr) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device.properties);
    if (!heuristic.try_finalize()) continue;
    const int64_t proposals = heuristic.count(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR);
    for (const CudnnDescriptor& configuration :
         heuristic.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, proposals)) {
      const std::vector<CudnnDescriptor> engines =
          configuration.get(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
      if (engines.size() != 1 || !is_allowed(engines[0], inputs)) continue;
      const CudnnChoice choice = choice_of(engines[0], configuration);
      if (std::find(choices.begin(), choices.end(), choice) == choices.end()) choices.push_back(choice);
    }
  }
  return choices;
}

std::optional<CudnnPlan> cudnn_plan(const CudnnLibrary& library, const CudnnDevice& device,
                                    std::unique_ptr<CudnnGraph>& graph, const CudnnDescriptor& finalized,
                                    DType inputs, const CudnnChoice& choice, size_t workspace_limit) {
  CudnnPlan result;
  result.choice = choice;
  CudnnDescriptor engine(library, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, finalized);
  engine.set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, choice.engine);
  if (device.properties != nullptr) engine.set(CUDNN_ATTR_ENGINE_DEVICEPROP, *device.properties);
  if (!engine.try_finalize() || !is_allowed(engine, inputs)) return std::nullopt;
  std::vector<CudnnDescriptor> knobs;
  std::vector<const CudnnDescriptor*> pointers;
  knobs.reserve(choice.knobs.size());
  for (const auto& [type, value] : choice.knobs) {
    CudnnDescriptor& knob = knobs.emplace_back(library, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, static_cast<cudnnBackendKnobType_t>(type));
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, value);
    if (!knob.try_finalize()) return std::nullopt;
    pointers.push_back(&knob);
  }
  CudnnDescriptor configuration(library, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  configuration.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
  if (!pointers.empty()) configuration.set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, pointers);
  if (!configuration.try_finalize()) return std::nullopt;
  CudnnDescriptor plan(library, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
  if (device.handle != nullptr) plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, device.handle);
  if (device.properties != nullptr) plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *device.properties);
  if (!plan.try_finalize()) return std::nullopt;
  const int64_t workspace = plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE).at(0);
  if (workspace < 0 || static_cast<size_t>(workspace) > workspace_limit) return std::nullopt;
  result.workspace_bytes = static_cast<size_t>(workspace);
  result.configuration = std::move(knobs);
  result.configuration.push_back(std::move(engine));
  result.configuration.push_back(std::move(configuration));
  result.plan.emplace(std::move(plan));
  result.graph = std::move(graph);
  return result;
}

}  // namespace lockstep
