// Matrix products: our op against the bare oneDNN primitive on the same shapes and number of threads, in
// turns.
//
// Usage: matmul_benchmark [fp32|bf16|fp16] [threads...] [MxKxN...]   (default fp32 1 2, and the shapes of
// kExtents). The library has no fp16 on CPUs: its side is bf16 then. Figures are GFLOP/s of the fastest and
// of the median slice. Both sides' matrices lie in the backend's memory, as tensors do.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <dnnl.hpp>
#include <iterator>
#include <string>
#include <unordered_map>
#include <vector>

#include "alternate.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace {

using namespace lockstep;  // NOLINT: a program, not a header

struct Extents {
  int64_t m, k, n;
};
constexpr Extents kExtents[] = {{32, 64, 128},    {32, 128, 10},     {64, 512, 512},
                                {256, 768, 768},  {256, 768, 3072},  {256, 3072, 768},
                                {2048, 768, 768}, {128, 2048, 2048}, {256, 2048, 2048}};

// n elements of the backend's memory.
class Matrix {
 public:
  Matrix(DType dtype, int64_t n)
      : bytes_(static_cast<size_t>(n) * size_of(dtype)), data_(cpu_backend().allocate(bytes_)) {}
  ~Matrix() { cpu_backend().release(data_, bytes_); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  void* data() const { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

// Uniform in [-1/2, 1/2), converted to the dtype of y.
void draw(DType dtype, int64_t n, uint32_t stream, const Matrix& y) {
  std::vector<float> x(static_cast<size_t>(n));
  const PhiloxKey key = philox_key(1, RandomPurpose::kTest);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = uniform_float(philox(key, {static_cast<uint32_t>(i), stream, 0, 0}).r[0]) - 0.5f;
  }
  cpu_backend().cast(DType::kF32, dtype, n, x.data(), y.data());
}

void compare(DType dtype, const Extents& e, bool transpose_a, bool transpose_b, int threads) {
  const DType library_dtype = dtype == DType::kF16 ? DType::kBF16 : dtype;
  const Matrix a(dtype, e.m * e.k), b(dtype, e.k * e.n), ours(dtype, e.m * e.n);
  const Matrix left_values(library_dtype, e.m * e.k), right_values(library_dtype, e.k * e.n),
      theirs(library_dtype, e.m * e.n);
  draw(dtype, e.m * e.k, 1, a);
  draw(dtype, e.k * e.n, 2, b);
  draw(library_dtype, e.m * e.k, 1, left_values);
  draw(library_dtype, e.k * e.n, 2, right_values);

  // The library's primitive is created once, outside of the timed part, under the number of threads that it
  // runs with.
  using dnnl::memory;
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const auto type = dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
  const memory::desc left({e.m, e.k}, type, transpose_a ? memory::dims{1, e.m} : memory::dims{e.k, 1});
  const memory::desc right({e.k, e.n}, type, transpose_b ? memory::dims{1, e.k} : memory::dims{e.n, 1});
  const memory::desc result({e.m, e.n}, type, memory::dims{e.n, 1});
  const dnnl::matmul primitive(dnnl::matmul::primitive_desc(dnnl::matmul::desc(left, right, result), engine));
  const std::unordered_map<int, memory> memories = {{DNNL_ARG_SRC, {left, engine, left_values.data()}},
                                                    {DNNL_ARG_WEIGHTS, {right, engine, right_values.data()}},
                                                    {DNNL_ARG_DST, {result, engine, theirs.data()}}};
  MatmulArguments arguments;
  arguments.dtype = arguments.output = dtype;
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
  DType dtype = DType::kF32;
  int next = 1;
  for (const DType named : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (next < argc && argv[next] == name_of(named)) {
      dtype = named;
      ++next;
    }
  }
  std::vector<int> counts;
  std::vector<Extents> shapes;
  for (; next < argc; ++next) {
    const std::string word = argv[next];
    Extents e{};
    if (word.find('x') == std::string::npos) {
      counts.push_back(std::max(1, std::atoi(argv[next])));
    } else if (std::sscanf(argv[next], "%" SCNd64 "x%" SCNd64 "x%" SCNd64, &e.m, &e.k, &e.n) == 3 &&
               std::min({e.m, e.k, e.n}) > 0) {
      shapes.push_back(e);
    } else {
      fmt::print(stderr, "matmul_benchmark: a shape is MxKxN, three positive numbers, got {}\n", word);
      return 2;
    }
  }
  if (counts.empty()) counts = {1, 2};
  if (shapes.empty()) shapes.assign(std::begin(kExtents), std::end(kExtents));
  fmt::print("{}, {}\n\n", cpu_backend().description(), name_of(dtype));
  fmt::print("                              fastest slice              median slice\n");
  fmt::print("    m     k     n  AB threads oneDNN     ours  ratio     oneDNN     ours  ratio    ours us\n");
  for (const int threads : counts) {
    set_threads(threads);
    omp_set_num_threads(threads);
    for (const Extents& e : shapes) {
      compare(dtype, e, false, false, threads);
      compare(dtype, e, false, true, threads);
      compare(dtype, e, true, false, threads);
    }
  }
}
