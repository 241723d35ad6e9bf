// Convolution and its derivatives: our op against the bare oneDNN primitives, in turns, on the layers of
// small image models.
//
// Usage: convolution_benchmark [threads...]   (default 1 2). oneDNN chooses its own blocked layouts (format
// any) and is not charged for reordering into them; we work on plain NHWC. Figures are microseconds of the
// fastest and the median slice.
#include <fmt/format.h>
#include <omp.h>

#include <cstdio>
#include <cstdlib>
#include <dnnl.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

#include "alternate.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace {

using namespace lockstep;  // NOLINT: a program, not a header
using dnnl::memory;

struct Layer {
  int64_t n, h, c, o, kernel, stride, pad;
};
constexpr Layer kLayers[] = {
    {64, 8, 1, 16, 3, 1, 1},   {64, 8, 1, 32, 3, 1, 1},   {64, 8, 16, 16, 3, 1, 1}, {64, 8, 32, 32, 3, 1, 1},
    {64, 8, 32, 64, 3, 2, 1},  {64, 8, 32, 64, 1, 2, 0},  {64, 4, 64, 64, 3, 1, 1}, {64, 32, 3, 32, 3, 1, 1},
    {64, 32, 32, 32, 3, 1, 1}, {64, 16, 64, 64, 3, 1, 1},
};

std::vector<float> values(int64_t n, uint32_t stream) {
  std::vector<float> x(static_cast<size_t>(n));
  const PhiloxKey key = philox_key(1, RandomPurpose::kTest);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = uniform_float(philox(key, {static_cast<uint32_t>(i), stream, 0, 0}).r[0]) - 0.5f;
  }
  return x;
}

// A oneDNN primitive and its memories.
struct Execution {
  dnnl::primitive primitive;
  std::unordered_map<int, memory> memories;
};

// Memory of the layout that a primitive asked for; values do not matter for its speed, as long as they are
// ordinary.
memory ordinary(const memory::desc& description, const dnnl::engine& engine) {
  memory result(description, engine);
  std::fill_n(static_cast<float*>(result.get_data_handle()), description.get_size() / sizeof(float), 0.5f);
  return result;
}

void compare(const Layer& layer, int threads) {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const auto any = memory::format_tag::any;
  const auto type = memory::data_type::f32;
  ConvolutionArguments a;
  a.n = layer.n;
  a.h = a.w = layer.h;
  a.c = layer.c;
  a.o = layer.o;
  a.kh = a.kw = layer.kernel;
  a.stride_h = a.stride_w = layer.stride;
  a.pad_h = a.pad_w = layer.pad;
  a.oh = a.ow = (layer.h + 2 * layer.pad - layer.kernel) / layer.stride + 1;

  const memory::desc x_any({a.n, a.c, a.h, a.w}, type, any), w_any({a.o, a.c, a.kh, a.kw}, type, any),
      y_any({a.n, a.o, a.oh, a.ow}, type, any);
  const memory::dims strides = {layer.stride, layer.stride}, pads = {layer.pad, layer.pad};
  const auto algorithm = dnnl::algorithm::convolution_direct;
  const dnnl::convolution_forward::primitive_desc forward(
      dnnl::convolution_forward::desc(dnnl::prop_kind::forward_training, algorithm, x_any, w_any, y_any,
                                      strides, pads, pads),
      engine);
  const dnnl::convolution_backward_data::primitive_desc data(
      dnnl::convolution_backward_data::desc(algorithm, x_any, w_any, y_any, strides, pads, pads), engine,
      forward);
  const dnnl::convolution_backward_weights::primitive_desc gradient(
      dnnl::convolution_backward_weights::desc(algorithm, x_any, w_any, y_any, strides, pads, pads), engine,
      forward);
  const Execution library[] = {{dnnl::convolution_forward(forward),
                                {{DNNL_ARG_SRC, ordinary(forward.src_desc(), engine)},
                                 {DNNL_ARG_WEIGHTS, ordinary(forward.weights_desc(), engine)},
                                 {DNNL_ARG_DST, ordinary(forward.dst_desc(), engine)}}},
                               {dnnl::convolution_backward_data(data),
                                {{DNNL_ARG_DIFF_DST, ordinary(data.diff_dst_desc(), engine)},
                                 {DNNL_ARG_WEIGHTS, ordinary(data.weights_desc(), engine)},
                                 {DNNL_ARG_DIFF_SRC, ordinary(data.diff_src_desc(), engine)}}},
                               {dnnl::convolution_backward_weights(gradient),
                                {{DNNL_ARG_SRC, ordinary(gradient.src_desc(), engine)},
                                 {DNNL_ARG_DIFF_DST, ordinary(gradient.diff_dst_desc(), engine)},
                                 {DNNL_ARG_DIFF_WEIGHTS, ordinary(gradient.diff_weights_desc(), engine)}}}};

  const std::vector<float> x = values(a.n * a.h * a.w * a.c, 1), weights = values(a.o * a.kh * a.kw * a.c, 2),
                           dy = values(a.n * a.oh * a.ow * a.o, 3);
  std::vector<float> y(dy.size()), dx(x.size()), dweights(weights.size());
  const auto ours = [&](int pass) {
    switch (pass) {
      case 0:
        return cpu_backend().convolution(a, x.data(), weights.data(), nullptr, y.data());
      case 1:
        return cpu_backend().convolution_backward_data(a, dy.data(), weights.data(), dx.data());
      default:
        return cpu_backend().convolution_backward_weights(a, x.data(), dy.data(), dweights.data());
    }
  };
  const double work = 2e-9 * static_cast<double>(dy.size()) * static_cast<double>(a.kh * a.kw * a.c);
  for (int pass = 0; pass < 3; ++pass) {
    const auto [bare, own] =
        alternate([&] { library[pass].primitive.execute(stream, library[pass].memories); },
                  [&] { ours(pass); }, threads, 15, 0.005);
    constexpr const char* kNames[] = {"y", "dx", "dw"};
    fmt::print(
        "{:3}x{:2}x{:2}x{:2} to {:2} {}x{}/{}  {:2}  {:2}   {:9.1f} {:9.1f} {:6.2f}   {:9.1f} {:9.1f} "
        "{:6.2f}   {:7.1f}\n",
        a.n, a.h, a.w, a.c, a.o, a.kh, a.kw, layer.stride, kNames[pass], threads, bare.fastest * 1e6,
        own.fastest * 1e6, bare.fastest / own.fastest, bare.median * 1e6, own.median * 1e6,
        bare.median / own.median, work / own.fastest);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> counts = {1, 2};
  if (argc > 1) counts.clear();
  for (int i = 1; i < argc; ++i) counts.push_back(std::max(1, std::atoi(argv[i])));
  fmt::print("{}\n\n", cpu_backend().description());
  fmt::print(
      "                                    fastest slice, us            median slice, us            our\n");
  fmt::print(
      "activations to channels  of threads  oneDNN      ours  ratio      oneDNN      ours  ratio   "
      "GFLOP/s\n");
  for (const int threads : counts) {
    set_threads(threads);
    omp_set_num_threads(threads);
    for (const Layer& layer : kLayers) compare(layer, threads);
  }
}
