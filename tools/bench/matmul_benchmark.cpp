// Matrix products: our op against the bare oneDNN primitive on the same shapes and number of threads, in
// turns.
//
// Usage: matmul_benchmark [threads...]   (default 1 2). Figures are GFLOP/s of the fastest and of the median
// slice.
#include <fmt/format.h>
#include <omp.h>

#include <cstdlib>
#include <dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "alternate.h"
#include "core/philox.h"
#include "core/thread_pool.h"
#include "kernels/backend.h"

namespace {

using namespace lockstep;  // NOLINT: a program, not a header

struct Extents {
  int64_t m, k, n;
};
constexpr Extents kExtents[] = {{32, 64, 128},    {32, 128, 10},    {64, 512, 512},   {256, 768, 768},
                                {256, 768, 3072}, {256, 3072, 768}, {2048, 768, 768}, {128, 2048, 2048}};

std::vector<float> values(int64_t n, uint32_t stream) {
  std::vector<float> x(static_cast<size_t>(n));
  const PhiloxKey key = philox_key(1, RandomPurpose::kTest);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = uniform_float(philox(key, {static_cast<uint32_t>(i), stream, 0, 0}).r[0]) - 0.5f;
  }
  return x;
}

void compare(const Extents& e, bool transpose_a, bool transpose_b, int threads) {
  const std::vector<float> a = values(e.m * e.k, 1), b = values(e.k * e.n, 2);
  std::vector<float> ours(static_cast<size_t>(e.m * e.n)), theirs(ours.size());

  // The library's primitive is created once, outside of the timed part, under the number of threads that it
  // runs with.
  using dnnl::memory;
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const auto type = memory::data_type::f32;
  const memory::desc left({e.m, e.k}, type, transpose_a ? memory::dims{1, e.m} : memory::dims{e.k, 1});
  const memory::desc right({e.k, e.n}, type, transpose_b ? memory::dims{1, e.k} : memory::dims{e.n, 1});
  const memory::desc result({e.m, e.n}, type, memory::dims{e.n, 1});
  const dnnl::matmul primitive(dnnl::matmul::primitive_desc(dnnl::matmul::desc(left, right, result), engine));
  const std::unordered_map<int, memory> memories = {
      {DNNL_ARG_SRC, {left, engine, const_cast<float*>(a.data())}},
      {DNNL_ARG_WEIGHTS, {right, engine, const_cast<float*>(b.data())}},
      {DNNL_ARG_DST, {result, engine, theirs.data()}}};
  MatmulArguments arguments;
  arguments.m = e.m;
  arguments.n = e.n;
  arguments.k = e.k;
  arguments.transpose_a = transpose_a;
  arguments.transpose_b = transpose_b;
  arguments.a = a.data();
  arguments.b = b.data();
  arguments.c = ours.data();

  const auto [library, own] = alternate([&] { primitive.execute(stream, memories); },
                                        [&] { cpu_backend().matmul(arguments); }, threads, 15, 0.005);
  const double work = 2e-9 * static_cast<double>(e.m * e.n * e.k);
  fmt::print("{:5} {:5} {:5}  {}{}  {:2}   {:8.1f} {:8.1f} {:6.2f}   {:8.1f} {:8.1f} {:6.2f}   {:10.2f}\n",
             e.m, e.k, e.n, transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', threads, work / library.fastest,
             work / own.fastest, library.fastest / own.fastest, work / library.median, work / own.median,
             library.median / own.median, own.fastest * 1e6);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> counts = {1, 2};
  if (argc > 1) counts.clear();
  for (int i = 1; i < argc; ++i) counts.push_back(std::max(1, std::atoi(argv[i])));
  fmt::print("{}\n\n", cpu_backend().description());
  fmt::print("                              fastest slice              median slice\n");
  fmt::print("    m     k     n  AB threads oneDNN     ours  ratio     oneDNN     ours  ratio    ours us\n");
  for (const int threads : counts) {
    set_threads(threads);
    omp_set_num_threads(threads);
    for (const Extents& e : kExtents) {
      compare(e, false, false, threads);
      compare(e, false, true, threads);
      compare(e, true, false, threads);
    }
  }
}
