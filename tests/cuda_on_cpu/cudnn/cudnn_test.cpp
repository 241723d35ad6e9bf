// cuDNN through its stand-in: which engines are used, that what they compute is what own kernels compute, and
// that the stand-in refuses what the library would. Needs LOCKSTEP_CUDA_ON_CPU=cudnn=1.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "device_array.h"
#include "kernels/arrays.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/cuda/with_cudnn/attention.h"
#include "lockstep/kernels/cuda/with_cudnn/convolution.h"
#include "lockstep/kernels/cuda/with_cudnn/engines.h"
#include "lockstep/kernels/plan_table.h"
#include "lockstep/train/device.h"

namespace lockstep::test {
namespace {

using cuda_on_cpu::cudnn_executions;
using cuda_on_cpu::DeviceArray;

ConvolutionArguments window(DType dtype, int64_t n, int64_t side, int64_t c, int64_t o, int64_t kernel,
                            int64_t stride, int64_t pad) {
  ConvolutionArguments a;
  a.dtype = dtype;
  a.n = n, a.h = a.w = side, a.c = c, a.o = o, a.kh = a.kw = kernel;
  a.stride_h = a.stride_w = stride, a.pad_h = a.pad_w = pad;
  a.oh = a.ow = (side + 2 * pad - kernel) / stride + 1;
  return a;
}

// ---- the interface

class CudnnInterface : public ::testing::Test {
 protected:
  CudnnInterface() : library(*cudnn_library()) {
    library.create(&handle);
    cudaMalloc(&workspace, 1 << 16);
  }
  ~CudnnInterface() override {
    cudaFree(workspace);
    library.destroy(handle);
  }

  // The plan of an engine for y = x * w, fp32, whatever its notes.
  CudnnDescriptor plan_of(int64_t index) {
    CudnnGraph graph(library);
    build_convolution(a, false, graph);
    CudnnDescriptor engine(library, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph.finalize(handle));
    engine.set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, index);
    engine.finalize();
    CudnnDescriptor configuration(library, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    configuration.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    configuration.finalize();
    CudnnDescriptor plan(library, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
    plan.finalize();
    return plan;
  }
  cudnnStatus_t execute(const CudnnDescriptor& plan, const std::vector<int64_t>& names,
                        const std::vector<void*>& pointers, void* working_memory) {
    CudnnDescriptor pack(library, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, names);
    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pointers);
    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, working_memory);
    pack.finalize();
    const cudnnStatus_t status = library.execute(handle, plan.handle(), pack.handle());
    cudaDeviceSynchronize();
    return status;
  }

  const CudnnLibrary& library;
  const ConvolutionArguments a = window(DType::kF32, 1, 4, 2, 3, 3, 1, 1);
  cudnnHandle_t handle = nullptr;
  void* workspace = nullptr;
  DeviceArray<float> x{std::vector<float>(32, 1.0f)}, w{std::vector<float>(54, 1.0f)}, y{48};
  const std::vector<int64_t> ids = {kConvolutionX, kConvolutionWeights, kConvolutionY};
};

TEST_F(CudnnInterface, TakesWhatIsFinalizedAlone) {
  CudnnDescriptor tensor(library, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  CudnnDescriptor operation(library, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  const cudnnBackendDescriptor_t value = tensor.handle();
  EXPECT_EQ(library.set_attribute(operation.handle(), CUDNN_ATTR_OPERATION_RESHAPE_XDESC,
                                  CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value),
            CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
  int64_t count = 0;
  EXPECT_EQ(library.get_attribute(value, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 0, &count, nullptr),
            CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
  EXPECT_EQ(library.finalize(value), CUDNN_STATUS_BAD_PARAM) << "nothing is set";
}

TEST_F(CudnnInterface, DoesNotKnowEveryAttributeAndObject) {
  CudnnDescriptor tensor(library, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const int64_t one = 1;
  EXPECT_EQ(library.set_attribute(tensor.handle(), CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &one),
            CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(library.set_attribute(tensor.handle(), CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_FLOAT, 1, &one),
            CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
  EXPECT_THROW(CudnnDescriptor(library, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR), CudnnUnsupported);
}

TEST_F(CudnnInterface, ChecksWhatAPlanIsRunOn) {
  const CudnnDescriptor plan = plan_of(70);
  EXPECT_GT(plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE).at(0), 0);
  EXPECT_EQ(execute(plan, ids, {x.data(), w.data(), y.data()}, workspace), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(execute(plan, {ids[0], ids[2]}, {x.data(), y.data()}, workspace), CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(execute(plan, ids, {x.data() + 1, w.data(), y.data()}, workspace),
            CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER);
  alignas(16) float host[54] = {};
  EXPECT_EQ(execute(plan, ids, {x.data(), host, y.data()}, workspace), CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(execute(plan, ids, {x.data(), w.data(), y.data()}, nullptr),
            CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT);
}

// Engines that must not be used are offered first, and show when they are.
TEST_F(CudnnInterface, OffersEnginesThatComputeSomethingElse) {
  for (const int64_t engine : {0, 25, 40, 41, 62, 63}) {
    EXPECT_EQ(execute(plan_of(engine), ids, {x.data(), w.data(), y.data()}, workspace), CUDNN_STATUS_SUCCESS);
    EXPECT_EQ(y.to_host()[3 * 5], engine == 0 ? 18.0f : 27.0f) << engine;
  }
}

// ---- choices

TEST_F(CudnnInterface, ChoicesAreThoseOfEnginesWithoutRefusedNotes) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    ConvolutionArguments of_type = a;
    of_type.dtype = dtype;
    CudnnGraph graph(library);
    build_convolution(of_type, false, graph);
    std::vector<std::string> texts;
    for (const CudnnChoice& choice : cudnn_choices(library, {handle, nullptr}, graph.finalize(handle), dtype))
      texts.push_back(choice.text());
    EXPECT_EQ(texts, (std::vector<std::string>{"50 2:1", "51 2:1", "70 2:3", "70 2:2", "0 2:1"}))
        << name_of(dtype);
  }
}

TEST(CudnnChoices, AreTextAndBack) {
  for (const CudnnChoice& choice : {CudnnChoice{7, {}}, {70, {{2, 5}, {24, -1}}}}) {
    EXPECT_EQ(CudnnChoice::parse(choice.text()), choice) << choice.text();
  }
  for (const char* text : {"", "own", "7 ", "7 2", "7 2:", "7 2:1x", "7:1"})
    EXPECT_FALSE(CudnnChoice::parse(text)) << text;
}

// ---- the backend

class CudnnBackend : public ::testing::Test {
 protected:
  CudnnBackend() : backend(cuda_backend(0)) {}
  ~CudnnBackend() override {
    backend.use_cudnn(true);
    backend.plans()->replace({});
  }

  // Results of `call` with cuDNN, which must run so many plans, and without, which must run none.
  template <class R, class Call>
  std::pair<std::vector<R>, std::vector<R>> with_and_without(int64_t plans, int64_t results,
                                                             const Call& call) {
    std::vector<R> found[2];
    for (const bool use : {true, false}) {
      backend.use_cudnn(use);
      DeviceArray<R> out(static_cast<size_t>(results));
      const int64_t before = cudnn_executions();
      call(out.data());
      backend.synchronize();
      EXPECT_EQ(cudnn_executions() - before, use ? plans : 0);
      found[use ? 0 : 1] = out.to_host();
    }
    return {found[0], found[1]};
  }
  template <class R>
  static void expect_close(const std::pair<std::vector<R>, std::vector<R>>& results, double relative,
                           double absolute) {
    const auto& [a, b] = results;
    for (size_t i = 0; i < a.size(); ++i) {
      const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
      ASSERT_LE(std::fabs(x - y), relative * std::fabs(y) + absolute)
          << "element " << i << ": " << x << ", " << y;
    }
  }

  Backend& backend;
};

template <class S>
constexpr double kRounding = std::is_same_v<S, BFloat16>  ? 0x1p-7
                             : std::is_same_v<S, Float16> ? 0x1p-10
                                                          : 0x1p-21;

template <class S>
class CudnnConvolutions : public CudnnBackend {};
using ServedTypes = ::testing::Types<float, BFloat16, Float16>;
TYPED_TEST_SUITE(CudnnConvolutions, ServedTypes);

TYPED_TEST(CudnnConvolutions, AreWhatOwnKernelsCompute) {
  using S = TypeParam;
  using T = Accumulation<S>;
  for (const ConvolutionArguments& a :
       {window(dtype_of<S>, 2, 6, 8, 16, 3, 1, 1), window(dtype_of<S>, 1, 7, 5, 3, 3, 2, 0),
        window(dtype_of<S>, 3, 4, 16, 8, 1, 1, 0), window(dtype_of<S>, 1, 8, 1, 4, 5, 1, 2)}) {
    SCOPED_TRACE(std::to_string(a.c) + " to " + std::to_string(a.o) + " channels");
    const int64_t inputs = a.n * a.h * a.w * a.c, taps = a.kh * a.kw * a.c, outputs = a.n * a.oh * a.ow * a.o;
    DeviceArray<S> x(random_values<S>(inputs, 1)), w(random_values<S>(a.o * taps, 2)),
        dy(random_values<S>(outputs, 3));
    DeviceArray<T> bias(random_values<T>(a.o + 1, 4));
    // A bias of 16 bits; one more rounding where it is added apart.
    const double absolute = sizeof(S) == 4 ? 0x1p-16 : 4 * kRounding<S>;
    // None; one that the library adds; one that it does not where it stands, in fp32.
    for (const T* added : {static_cast<const T*>(nullptr), static_cast<const T*>(bias.data()),
                           static_cast<const T*>(bias.data() + 1)}) {
      this->expect_close(
          this->template with_and_without<S>(
              1, outputs, [&](S* y) { this->backend.convolution(a, x.data(), w.data(), added, y); }),
          2 * kRounding<S>, absolute);
    }
    this->expect_close(
        this->template with_and_without<S>(
            1, inputs, [&](S* dx) { this->backend.convolution_backward_data(a, dy.data(), w.data(), dx); }),
        2 * kRounding<S>, absolute);
    // The library has fp32 gradients of 16-bit inputs where channels fill vectors.
    const bool served = sizeof(S) == 4 || (a.c % 8 == 0 && a.o % 8 == 0);
    this->expect_close(
        this->template with_and_without<T>(
            served ? 1 : 0, a.o * taps,
            [&](T* dw) { this->backend.convolution_backward_weights(a, x.data(), dy.data(), dw); }),
        0x1p-18, 0x1p-14);
  }
}

TEST_F(CudnnBackend, LeavesDoublesAndNothingToOwnKernels) {
  const ConvolutionArguments a = window(DType::kF64, 1, 4, 2, 3, 3, 1, 1);
  DeviceArray<double> x(random_values<double>(32, 1)), w(random_values<double>(54, 2));
  with_and_without<double>(0, 48, [&](double* y) { backend.convolution(a, x.data(), w.data(), nullptr, y); });
  ConvolutionArguments none = window(DType::kF32, 0, 4, 2, 3, 3, 1, 1);
  with_and_without<float>(
      0, 54, [&](float* dw) { backend.convolution_backward_weights(none, x.data(), x.data(), dw); });
}

TEST_F(CudnnBackend, SaysWhatBitsDependOn) {
  EXPECT_NE(backend.description().find(", cuDNN 9.19.0, "), std::string::npos) << backend.description();
  EXPECT_NE(backend.plans()->device().find("cuDNN 9.19.0"), std::string::npos) << backend.plans()->device();
  backend.use_cudnn(false);
  EXPECT_NE(backend.description().find(", no cuDNN, "), std::string::npos) << backend.description();
}

TEST_F(CudnnBackend, IsASettingOfRuns) {
  const auto communicator = make_communicator({});
  RunSettings settings;
  settings.device = "cuda";
  for (const bool use : {false, true}) {
    settings.cudnn = use;
    const std::string text = WorkerDevice(settings, *communicator).description();
    EXPECT_EQ(text.find(", no cuDNN, ") == std::string::npos, use) << text;
  }
}

// The table of plans decides, and what it says that cannot be is forgotten.
TEST_F(CudnnBackend, FollowsTheTableOfPlans) {
  const ConvolutionArguments a = window(DType::kF32, 2, 6, 8, 4, 3, 1, 1);
  const std::string call = "convolution fp32 2x6x6x8 o4 k3x3 s1x1 p1x1";
  DeviceArray<float> x(random_values<float>(2 * 36 * 8, 1)), w(random_values<float>(4 * 72, 2)),
      y(2 * 36 * 4);
  constexpr int64_t kTimed = -1;  // as often as measuring takes
  const auto run = [&](const char* choice, int64_t plans) {
    backend.plans()->replace(choice == nullptr ? Plans{} : Plans{{call, choice}});
    const int64_t before = cudnn_executions();
    backend.convolution(a, x.data(), w.data(), nullptr, y.data());
    backend.synchronize();
    const int64_t executions = cudnn_executions() - before;
    if (plans == kTimed) {
      EXPECT_GE(executions, 1 + 3 * 3) << "each of three candidates: at first, timed, recorded";
    } else {
      EXPECT_EQ(executions, plans) << choice;
    }
    return y.to_host();
  };
  const std::vector<float> first = run(nullptr, 1), plain = run("0 2:1", 1), own = run("own", 0);
  EXPECT_EQ(run("70 2:3", 1), first);
  EXPECT_NE(run("70 2:2", 1), first);
  EXPECT_NE(plain, first);
  EXPECT_EQ(backend.plans()->find(call), "70 2:2");
  // An engine that there is none of, a knob, an engine that cannot be finalized, one that is not allowed.
  for (const char* bad : {"99 2:1", "70 2:9", "50 2:1", "25 2:1", "nonsense"}) {
    EXPECT_EQ(run(bad, 1), first) << bad;
    EXPECT_FALSE(backend.plans()->find(call)) << bad;
  }
  backend.plans()->replace({});
  backend.plans()->set_search({.candidate = 2});
  EXPECT_EQ(run(nullptr, 1), plain);
  backend.plans()->set_search({.candidate = 3});
  EXPECT_EQ(run(nullptr, 1), first) << "there are three candidates that can be finalized";
  // The fastest is one of them, and stands in the table from then on.
  backend.plans()->set_search({.tune = true});
  const std::vector<float> tuned = run(nullptr, kTimed);
  const std::optional<std::string> choice = backend.plans()->find(call);
  ASSERT_TRUE(choice);
  backend.plans()->set_search({});
  EXPECT_EQ(run(choice->c_str(), 1), tuned);
}

TEST_F(CudnnBackend, IsCapturedInGraphs) {
  const ConvolutionArguments a = window(DType::kBF16, 2, 6, 8, 8, 3, 1, 1);
  DeviceArray<BFloat16> x(random_values<BFloat16>(2 * 36 * 8, 1)), w(random_values<BFloat16>(8 * 72, 2)),
      y(2 * 36 * 8);
  DeviceArray<float> bias(random_values<float>(8, 3));
  backend.convolution(a, x.data(), w.data(), bias.data(), y.data());
  backend.synchronize();
  const auto expected = y.to_host();
  const auto stream = static_cast<cudaStream_t>(backend.native_queue());
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  backend.convolution(a, x.data(), w.data(), bias.data(), y.data());
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphExec_t program = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&program, graph, 0), cudaSuccess);
  for (int i = 0; i < 2; ++i) {
    cudaMemset(y.data(), 0, expected.size() * sizeof(BFloat16));
    ASSERT_EQ(cudaGraphLaunch(program, stream), cudaSuccess);
    backend.synchronize();
    const auto found = y.to_host();
    EXPECT_TRUE(std::equal(found.begin(), found.end(), expected.begin(),
                           [](BFloat16 p, BFloat16 q) { return p.bits == q.bits; }));
  }
  cudaGraphExecDestroy(program);
  cudaGraphDestroy(graph);
}

// ---- attention

struct Heads {
  int64_t batch, heads, queries, keys, size;
  bool causal;
  int64_t plans = 1;  // run for each pass
};

template <class S>
class CudnnAttention : public CudnnBackend {};
using NarrowTypes = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(CudnnAttention, NarrowTypes);

TYPED_TEST(CudnnAttention, IsWhatOwnKernelsCompute) {
  using S = TypeParam;
  for (const Heads& h :
       {Heads{2, 3, 20, 20, 16, true}, Heads{1, 2, 9, 33, 8, false}, Heads{1, 1, 40, 40, 128, true},
        Heads{2, 1, 7, 9, 8, true, 0},        // causal queries that see more than their own number
        Heads{1, 1, 5, 5, 12, false, 0},      // numbers of a head that do not fill vectors
        Heads{1, 1, 5, 5, 136, false, 0}}) {  // heads too large
    SCOPED_TRACE(std::to_string(h.queries) + " queries of " + std::to_string(h.size));
    const int64_t width = h.heads * h.size;
    const bool packed = h.queries == h.keys;
    AttentionArguments a;
    a.dtype = dtype_of<S>;
    a.causal = h.causal;
    a.batch = h.batch, a.heads = h.heads, a.queries = h.queries, a.keys = h.keys, a.size = h.size;
    a.q_row = a.k_row = a.v_row = packed ? 3 * width : width;
    a.scale = 1.0 / std::sqrt(static_cast<double>(h.size));
    const int64_t of_queries = h.batch * h.queries * width, of_keys = h.batch * h.keys * width;
    const int64_t rows = h.batch * h.heads * h.queries;
    DeviceArray<S> qkv(random_values<S>(of_queries + 2 * of_keys, 1)), dy(random_values<S>(of_queries, 2));
    S* const q = qkv.data();
    S *const k = q + (packed ? width : of_queries), *const v = k + (packed ? width : of_keys);
    DeviceArray<float> log_sums(static_cast<size_t>(rows));
    DeviceArray<S> y(static_cast<size_t>(of_queries));
    const double relative = 4 * kRounding<S>, absolute = 4 * kRounding<S>;
    this->expect_close(
        this->template with_and_without<S>(
            h.plans, of_queries, [&](S* out) { this->backend.attention(a, q, k, v, out, log_sums.data()); }),
        relative, absolute);
    this->expect_close(
        this->template with_and_without<float>(
            h.plans, rows, [&](float* sums) { this->backend.attention(a, q, k, v, y.data(), sums); }),
        1e-5, 1e-5);
    this->expect_close(this->template with_and_without<S>(
                           h.plans, of_queries + 2 * of_keys,
                           [&](S* dq) {
                             S *const dk = dq + (k - q), *const dv = dq + (v - q);
                             this->backend.attention_backward(a, q, k, v, y.data(), log_sums.data(),
                                                              dy.data(), dq, dk, dv);
                           }),
                       relative, 2 * absolute);
  }
}

// The working memory holds 125 of these samples.
TEST_F(CudnnBackend, SplitsBatchesThatNeedMoreWorkingMemoryThanThereIs) {
  AttentionArguments a;
  a.dtype = DType::kBF16;
  a.causal = true;
  a.batch = 130, a.heads = 64, a.queries = a.keys = 4, a.size = 8;
  const int64_t width = a.heads * a.size, sample = a.queries * width, rows = a.heads * a.queries;
  a.q_row = a.k_row = a.v_row = width;
  const auto values = [&](uint32_t salt) { return random_values<BFloat16>(a.batch * sample, salt); };
  DeviceArray<BFloat16> q(values(1)), k(values(2)), v(values(3)), y(values(4)), dy(values(5));
  DeviceArray<float> log_sums(random_values<float>(a.batch * rows, 6, 3.0, 4.0));
  const auto gradients_of = [&](const AttentionArguments& arguments, int64_t first, int64_t plans) {
    const int64_t begin = first * sample, n = arguments.batch * sample;
    DeviceArray<BFloat16> dq(static_cast<size_t>(n)), dk(static_cast<size_t>(n)), dv(static_cast<size_t>(n));
    const int64_t before = cudnn_executions();
    backend.attention_backward(arguments, q.data() + begin, k.data() + begin, v.data() + begin,
                               y.data() + begin, log_sums.data() + first * rows, dy.data() + begin, dq.data(),
                               dk.data(), dv.data());
    backend.synchronize();
    EXPECT_EQ(cudnn_executions() - before, plans);
    return std::vector{dq.to_host(), dk.to_host(), dv.to_host()};
  };
  const auto all = gradients_of(a, 0, 2);
  AttentionArguments one = a;
  one.batch = 1;
  for (const int64_t first : {0, 124, 125, 129}) {
    const auto alone = gradients_of(one, first, 1);
    for (size_t i = 0; i < all.size(); ++i) {
      const auto begin = all[i].begin() + first * sample;
      EXPECT_TRUE(same_bits(alone[i], std::vector(begin, begin + sample)))
          << "sample " << first << ", gradient " << i;
    }
  }
}

TEST_F(CudnnBackend, LeavesAttentionInFp32ToOwnKernels) {
  AttentionArguments a;
  a.batch = a.heads = 1, a.queries = a.keys = 4, a.size = 8;
  a.q_row = a.k_row = a.v_row = 8;
  DeviceArray<float> q(random_values<float>(32, 1)), sums(4);
  with_and_without<float>(
      0, 32, [&](float* y) { backend.attention(a, q.data(), q.data(), q.data(), y, sums.data()); });
}

}  // namespace
}  // namespace lockstep::test
