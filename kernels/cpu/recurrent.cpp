// Recurrent layers over a whole sequence: each thread takes some rows of the batch through all steps.
//
// Rows do not meet before the weights' gradient, so threads wait for each other once a sequence, not once a
// step; and the products of a row have the same bits however the rows are divided (matmul_block.h).
#include "lockstep/kernels/math/recurrent.h"

#include <algorithm>
#include <vector>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/matmul_block.h"
#include "lockstep/kernels/cpu/matrix_copy.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// Multiply-adds of a part below which another thread does not pay.
constexpr int64_t kPartWork = int64_t{1} << 18;
// Fewest rows of a part: fewer leave the multiply units waiting for their own results.
constexpr int64_t kPartRows = 8;

// function(begin, end) over ranges of rows; they may depend on the number of threads.
template <class F>
void parallel_rows(const RecurrentArguments& a, const F& function) {
  const int64_t work = a.steps * a.rows * a.units * a.gates();
  const int64_t most = std::min(work / kPartWork, a.rows / kPartRows);
  const int64_t parts = std::clamp<int64_t>(most, 1, thread_pool().threads());
  parallel_ranges(a.rows, (a.rows + parts - 1) / parts, function);
}

// Where a step finds its rows.
template <class T>
struct Sequence {
  explicit Sequence(const RecurrentArguments& arguments)
      : a(arguments), zeros(static_cast<size_t>(arguments.units)) {}
  // The `i`th step in the order of computation.
  int64_t at(int64_t i) const { return a.reverse ? a.steps - 1 - i : i; }
  template <class U>
  U* row(U* array, int64_t i, int64_t r, int64_t width) const {
    return array + (at(i) * a.rows + r) * width;
  }
  // The same row of the step before, in an array (steps, rows, units); zeros before the first.
  const T* before(const T* array, int64_t i, int64_t r) const {
    return i == 0 ? zeros.data() : row(array, i - 1, r, a.units);
  }

  const RecurrentArguments& a;
  std::vector<T> zeros;
};

// Calls function with the functor of a cell of one gate.
template <class F>
void visit_simple(RecurrentCell cell, const F& function) {
  if (cell == RecurrentCell::kTanh) return function(math::SimpleCell<math::Tanh>{});
  function(math::SimpleCell<math::Relu>{});
}

// z holds s and becomes the gates' activations.
template <class T>
void lstm_row(int64_t units, const T* x, const T* before, T* z, T* c, T* h) {
  simd_for<T>(units, [=](int64_t j) {
    const int64_t f = units + j, g = 2 * units + j, o = 3 * units + j;
    const auto gates = math::LstmCell::gates(x[j] + z[j], x[f] + z[f], x[g] + z[g], x[o] + z[o]);
    const T cell = math::LstmCell::memory(gates, before[j]);
    z[j] = gates.i;
    z[f] = gates.f;
    z[g] = gates.g;
    z[o] = gates.o;
    c[j] = cell;
    h[j] = math::LstmCell::state(gates, cell);
  });
}

template <class T>
void gru_row(int64_t units, const T* x, const T* bias, const T* before, T* z, T* memory, T* h) {
  simd_for<T>(units, [=](int64_t j) {
    const int64_t u = units + j, n = 2 * units + j;
    const T product = z[n] + bias[j];
    const auto gates = math::GruCell::gates(x[j] + z[j], x[u] + z[u], x[n], product);
    z[j] = gates.r;
    z[u] = gates.u;
    z[n] = gates.n;
    memory[j] = product;
    h[j] = math::GruCell::state(gates, before[j]);
  });
}

template <class T>
void lstm_row_backward(int64_t units, const T* gates, const T* c, const T* before, const T* dy,
                       const T* product, T* carry, T* dz) {
  simd_for<T>(units, [=](int64_t j) {
    const int64_t f = units + j, g = 2 * units + j, o = 3 * units + j;
    T later = carry[j];
    const auto d = math::LstmCell::derivative(math::LstmGates<T>{gates[j], gates[f], gates[g], gates[o]},
                                              c[j], before[j], dy[j] + product[j], later);
    carry[j] = later;
    dz[j] = d.i;
    dz[f] = d.f;
    dz[g] = d.g;
    dz[o] = d.o;
  });
}

template <class T>
void gru_row_backward(int64_t units, const T* gates, const T* memory, const T* before, const T* dy,
                      const T* product, T* carry, T* dz, T* ds) {
  simd_for<T>(units, [=](int64_t j) {
    const int64_t u = units + j, n = 2 * units + j;
    T direct = carry[j];
    const auto d = math::GruCell::derivative(math::GruGates<T>{gates[j], gates[u], gates[n]}, memory[j],
                                             before[j], dy[j] + product[j] + direct, direct);
    carry[j] = direct;
    dz[j] = ds[j] = d.r;
    dz[u] = ds[u] = d.u;
    dz[n] = d.n;
    ds[n] = d.n * gates[j];
  });
}

template <class T>
void run_forward(const RecurrentArguments& a, const T* inputs, const T* weight, const T* bias, T* activations,
                 T* memory, T* states) {
  const int64_t units = a.units, width = a.gates();
  const Sequence<T> sequence(a);
  if (bias == nullptr) bias = sequence.zeros.data();
  T* const sums = activations != nullptr ? activations : states;  // where s goes
  parallel_rows(a, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < a.steps; ++i) {
      T* const z = sequence.row(sums, i, begin, width);
      if (i == 0) {
        std::fill_n(z, (end - begin) * width, T(0));
      } else {
        Product<T> product;
        product.m = end - begin;
        product.n = width;
        product.k = units;
        product.a = sequence.row(states, i - 1, begin, units);
        product.lda = units;
        product.b = weight;
        product.ldb = width;
        product.c = z;
        product.ldc = width;
        multiply(product);
      }
      for (int64_t r = begin; r < end; ++r) {
        const T* x = sequence.row(inputs, i, r, width);
        T* const row = sequence.row(sums, i, r, width);
        T* const h = sequence.row(states, i, r, units);
        switch (a.cell) {
          case RecurrentCell::kLstm:
            lstm_row(units, x, sequence.before(memory, i, r), row, sequence.row(memory, i, r, units), h);
            break;
          case RecurrentCell::kGru:
            gru_row(units, x, bias, sequence.before(states, i, r), row, sequence.row(memory, i, r, units), h);
            break;
          default:
            visit_simple(a.cell, [=]<class Cell>(Cell) {
              simd_for<T>(units, [=](int64_t j) { h[j] = Cell::state(x[j], h[j]); });
            });
        }
      }
    }
  });
}

template <class T>
void run_backward(const RecurrentArguments& a, const T* weight, const T* activations, const T* memory,
                  const T* states, const T* dstates, T* dinputs, T* dproducts) {
  const int64_t units = a.units, width = a.gates();
  const Sequence<T> sequence(a);
  T* const ds = dproducts != nullptr ? dproducts : dinputs;
  // R' once for all steps; and a row's dL/ds R' from the step behind it, and what its cell carries.
  thread_local Scratch scratch;
  T* const turned = scratch.get<T>(width * units + 2 * a.rows * units);
  T* const products = turned + width * units;
  T* const carries = products + a.rows * units;
  transpose_matrix(units, width, weight, width, turned, units);
  parallel_rows(a, [&](int64_t begin, int64_t end) {
    std::fill_n(products + begin * units, (end - begin) * units, T(0));
    std::fill_n(carries + begin * units, (end - begin) * units, T(0));
    for (int64_t i = a.steps - 1; i >= 0; --i) {
      for (int64_t r = begin; r < end; ++r) {
        const T* dy = sequence.row(dstates, i, r, units);
        const T* product = products + r * units;
        T* const dz = sequence.row(dinputs, i, r, width);
        switch (a.cell) {
          case RecurrentCell::kLstm:
            lstm_row_backward(units, sequence.row(activations, i, r, width),
                              sequence.row(memory, i, r, units), sequence.before(memory, i, r), dy, product,
                              carries + r * units, dz);
            break;
          case RecurrentCell::kGru:
            gru_row_backward(units, sequence.row(activations, i, r, width), sequence.row(memory, i, r, units),
                             sequence.before(states, i, r), dy, product, carries + r * units, dz,
                             sequence.row(ds, i, r, width));
            break;
          default: {
            const T* h = sequence.row(states, i, r, units);
            visit_simple(a.cell, [=]<class Cell>(Cell) {
              simd_for<T>(units, [=](int64_t j) { dz[j] = Cell::derivative(h[j], dy[j] + product[j]); });
            });
          }
        }
      }
      if (i == 0) break;
      Product<T> product;
      product.m = end - begin;
      product.n = units;
      product.k = width;
      product.a = sequence.row(ds, i, begin, width);
      product.lda = width;
      product.b = turned;
      product.ldb = units;
      product.c = products + begin * units;
      product.ldc = units;
      multiply(product);
    }
  });
}

}  // namespace

void CpuBackend::recurrent(const RecurrentArguments& arguments, const void* inputs, const void* weight,
                           const void* bias, void* activations, void* memory, void* states) {
  dispatch_accumulation("recurrent", arguments.dtype, [&]<class T>(T) {
    run_forward(arguments, static_cast<const T*>(inputs), static_cast<const T*>(weight),
                static_cast<const T*>(bias), static_cast<T*>(activations), static_cast<T*>(memory),
                static_cast<T*>(states));
  });
}

void CpuBackend::recurrent_backward(const RecurrentArguments& arguments, const void* weight,
                                    const void* activations, const void* memory, const void* states,
                                    const void* dstates, void* dinputs, void* dproducts) {
  dispatch_accumulation("recurrent_backward", arguments.dtype, [&]<class T>(T) {
    run_backward(arguments, static_cast<const T*>(weight), static_cast<const T*>(activations),
                 static_cast<const T*>(memory), static_cast<const T*>(states), static_cast<const T*>(dstates),
                 static_cast<T*>(dinputs), static_cast<T*>(dproducts));
  });
}

}  // namespace lockstep
