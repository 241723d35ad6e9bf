// Which of cuDNN's engines runs a graph, as the library's heuristics propose and Lockstep's rules allow.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/kernels/cuda/with_cudnn/graph.h"

namespace lockstep {

// The device that plans are for: of a handle, or as a description of its properties says, which needs no GPU.
struct CudnnDevice {
  cudnnHandle_t handle = nullptr;
  const CudnnDescriptor* properties = nullptr;
};

// An engine and what may be chosen about it: a plain value, good on the same model of GPU with the same
// library.
struct CudnnChoice {
  int64_t engine = 0;
  std::vector<std::pair<int64_t, int64_t>> knobs;  // type, value; by type

  std::string text() const;  // "7 2:4 12:1"
  // None when the text is not of that form.
  static std::optional<CudnnChoice> parse(std::string_view text);
  friend bool operator==(const CudnnChoice&, const CudnnChoice&) = default;
};

// A graph ready to run.
struct CudnnPlan {
  std::unique_ptr<CudnnGraph> graph;
  std::vector<CudnnDescriptor> configuration;  // what `plan` refers to
  std::optional<CudnnDescriptor> plan;
  CudnnChoice choice;
  size_t workspace_bytes = 0;
};

// The choices for a graph whose inputs are of type `inputs`, best first, that give the same bits every time,
// sum in fp32 and, with fp32 inputs, compute in IEEE fp32: heuristics first, then what cuDNN falls back to.
// `graph` is finalized.
std::vector<CudnnChoice> cudnn_choices(const CudnnLibrary& library, const CudnnDevice& device,
                                       const CudnnDescriptor& graph, DType inputs);

// The plan of a choice, or none when cuDNN cannot carry it out within so much workspace, or the rules above
// do not allow it. Takes the graph when there is one.
std::optional<CudnnPlan> cudnn_plan(const CudnnLibrary& library, const CudnnDevice& device,
                                    std::unique_ptr<CudnnGraph>& graph, const CudnnDescriptor& finalized,
                                    DType inputs, const CudnnChoice& choice, size_t workspace_limit);

}  // namespace lockstep
