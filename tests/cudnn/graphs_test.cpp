// Every graph that is built for cuDNN has an engine that Lockstep may use, on a GPU described by a file:
// asked of the library itself, which needs no GPU to make plans. Prints what it offers. LOCKSTEP_TEST_GPU
// names the file.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "lockstep/kernels/cuda/with_cudnn/attention.h"
#include "lockstep/kernels/cuda/with_cudnn/convolution.h"
#include "lockstep/kernels/cuda/with_cudnn/engines.h"

namespace lockstep {
namespace {

constexpr size_t kWorkspaceLimit = size_t{256} << 20;

class CudnnGraphs : public ::testing::Test {
 protected:
  void SetUp() override {
    library_ = cudnn_library();
    if (library_ == nullptr) GTEST_SKIP() << "this machine has no cuDNN 9";
    const char* const file = std::getenv("LOCKSTEP_TEST_GPU");
    if (file == nullptr) GTEST_SKIP() << "LOCKSTEP_TEST_GPU names no description of a GPU";
    std::ifstream stream(file);
    const std::vector<char> text{std::istreambuf_iterator<char>(stream), {}};
    ASSERT_FALSE(text.empty()) << file;
    try {
      properties_.emplace(*library_, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
      properties_->set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, text);
      properties_->finalize();
    } catch (const CudnnUnsupported& error) {
      GTEST_SKIP() << "this cuDNN makes no plans for GPUs that are not there: " << error.what();
    }
  }

  // The number of choices that the rules leave, of which one at least has a plan within the limit; it is the
  // same plan from its text.
  void expect_plan(const std::string& name, DType dtype, const std::function<void(CudnnGraph&)>& build) {
    SCOPED_TRACE(name);
    const CudnnDevice device{nullptr, &*properties_};
    auto graph = std::make_unique<CudnnGraph>(*library_);
    build(*graph);
    const CudnnDescriptor& finalized = graph->finalize(nullptr);
    const std::vector<CudnnChoice> choices = cudnn_choices(*library_, device, finalized, dtype);
    size_t tried = 0;
    std::optional<CudnnPlan> plan;
    while (!plan && tried < choices.size())
      plan = cudnn_plan(*library_, device, graph, finalized, dtype, choices[tried++], kWorkspaceLimit);
    ASSERT_TRUE(plan) << choices.size() << " choices, none has a plan";
    const std::string text = plan->choice.text();
    fmt::print("{:34} {:5} {:3} choices, number {}: {:28} {:9.3f} MiB\n", name, name_of(dtype),
               choices.size(), tried, text, static_cast<double>(plan->workspace_bytes) / 1048576.0);
    const std::optional<CudnnChoice> again = CudnnChoice::parse(text);
    ASSERT_TRUE(again);
    graph = std::move(plan->graph);
    const std::optional<CudnnPlan> same =
        cudnn_plan(*library_, device, graph, finalized, dtype, *again, kWorkspaceLimit);
    ASSERT_TRUE(same);
    EXPECT_EQ(same->workspace_bytes, plan->workspace_bytes);
  }

  const CudnnLibrary* library_ = nullptr;
  std::optional<CudnnDescriptor> properties_;
};

ConvolutionArguments convolution(DType dtype, int64_t n, int64_t side, int64_t c, int64_t o, int64_t kernel,
                                 int64_t stride, int64_t pad) {
  ConvolutionArguments a;
  a.dtype = dtype;
  a.n = n, a.h = a.w = side, a.c = c, a.o = o, a.kh = a.kw = kernel;
  a.stride_h = a.stride_w = stride, a.pad_h = a.pad_w = pad;
  a.oh = a.ow = (side + 2 * pad - kernel) / stride + 1;
  return a;
}

TEST_F(CudnnGraphs, OfConvolutionsHavePlans) {
  struct Shape {
    const char* name;
    int64_t n, side, c, o, kernel, stride, pad;
  };
  for (const Shape& s : {Shape{"3x3, 64 to 128", 32, 28, 64, 128, 3, 1, 1},
                         {"3x3 by 2, 64 to 64", 32, 28, 64, 64, 3, 2, 1},
                         {"3x3, 3 to 16", 32, 32, 3, 16, 3, 1, 1}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const ConvolutionArguments a = convolution(dtype, s.n, s.side, s.c, s.o, s.kernel, s.stride, s.pad);
      const std::string name = s.name;
      expect_plan("convolution " + name, dtype, [&](CudnnGraph& g) { build_convolution(a, false, g); });
      expect_plan("with bias " + name, dtype, [&](CudnnGraph& g) { build_convolution(a, true, g); });
      expect_plan("by data " + name, dtype, [&](CudnnGraph& g) { build_convolution_backward_data(a, g); });
      // Gradients of channels that do not fill vectors are left to own kernels in 16 bits.
      if (dtype != DType::kF32 && s.c % 8 != 0) continue;
      expect_plan("by weights " + name, dtype,
                  [&](CudnnGraph& g) { build_convolution_backward_weights(a, g); });
    }
  }
}

TEST_F(CudnnGraphs, OfAttentionHavePlans) {
  struct Shape {
    int64_t batch, heads, queries, keys, size;
    bool causal;
  };
  for (const Shape& s : {Shape{8, 12, 1024, 1024, 64, true},
                         {4, 4, 100, 100, 32, true},
                         {2, 3, 48, 128, 128, false},
                         {4, 4, 64, 64, 40, false}}) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      AttentionArguments a;
      a.dtype = dtype;
      a.causal = s.causal;
      a.batch = s.batch, a.heads = s.heads, a.queries = s.queries, a.keys = s.keys, a.size = s.size;
      a.q_row = a.k_row = a.v_row = (s.queries == s.keys ? 3 : 1) * s.heads * s.size;
      const std::string name =
          fmt::format("{}x{}x{}x{} {}", s.heads, s.queries, s.keys, s.size, s.causal ? "causal" : "");
      expect_plan("attention " + name, dtype, [&](CudnnGraph& g) { build_attention(a, g); });
      expect_plan("its backward " + name, dtype, [&](CudnnGraph& g) { build_attention_backward(a, g); });
    }
  }
}

}  // namespace
}  // namespace lockstep
