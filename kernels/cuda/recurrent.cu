// Recurrent layers over a whole sequence: a product a step through cuBLASLt, then one fused kernel for the
// cells.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/division.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/recurrent.h"

namespace lockstep {

namespace {

constexpr int kThreads = 256;

// What the kernels of one step see, each array at the rows of this step. `before` is null at the first one
// computed.
template <class T>
struct Step {
  int64_t cells;  // rows * units
  Divisor units;

  struct Place {
    int64_t unit, gate;  // in arrays (rows, units), and of the first gate in arrays (rows, gates)
    int64_t column;
  };
  template <int kGates>
  LOCKSTEP_DEVICE Place place(int64_t i) const {
    const int64_t width = static_cast<int64_t>(units.divisor);
    const int64_t row = static_cast<int64_t>(units.quotient(static_cast<uint32_t>(i)));
    return {i, row * kGates * width + (i - row * width), i - row * width};
  }
  LOCKSTEP_DEVICE int64_t width() const { return static_cast<int64_t>(units.divisor); }
};

// h holds s.
template <class Cell, class T>
__global__ void __launch_bounds__(kThreads) simple_kernel(Step<T> step, const T* x, T* h) {
  const int64_t i = global_thread();
  if (i < step.cells) h[i] = Cell::state(x[i], h[i]);
}

template <class Cell, class T>
__global__ void __launch_bounds__(kThreads)
    simple_backward_kernel(Step<T> step, const T* h, const T* dy, const T* product, T* dz) {
  const int64_t i = global_thread();
  if (i < step.cells) dz[i] = Cell::derivative(h[i], dy[i] + product[i]);
}

// z holds s and becomes the gates' activations.
template <class T>
__global__ void __launch_bounds__(kThreads)
    lstm_kernel(Step<T> step, const T* x, const T* before, T* z, T* c, T* h) {
  const int64_t thread = global_thread();
  if (thread >= step.cells) return;
  const auto [unit, i, column] = step.template place<4>(thread);
  const int64_t f = i + step.width(), g = f + step.width(), o = g + step.width();
  const auto gates = math::LstmCell::gates(x[i] + z[i], x[f] + z[f], x[g] + z[g], x[o] + z[o]);
  const T cell = math::LstmCell::memory(gates, before != nullptr ? before[unit] : T(0));
  z[i] = gates.i;
  z[f] = gates.f;
  z[g] = gates.g;
  z[o] = gates.o;
  c[unit] = cell;
  h[unit] = math::LstmCell::state(gates, cell);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    lstm_backward_kernel(Step<T> step, const T* z, const T* c, const T* before, const T* dy, const T* product,
                         T* carry, T* dz) {
  const int64_t thread = global_thread();
  if (thread >= step.cells) return;
  const auto [unit, i, column] = step.template place<4>(thread);
  const int64_t f = i + step.width(), g = f + step.width(), o = g + step.width();
  T later = carry[unit];
  const auto d =
      math::LstmCell::derivative(math::LstmGates<T>{z[i], z[f], z[g], z[o]}, c[unit],
                                 before != nullptr ? before[unit] : T(0), dy[unit] + product[unit], later);
  carry[unit] = later;
  dz[i] = d.i;
  dz[f] = d.f;
  dz[g] = d.g;
  dz[o] = d.o;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gru_kernel(Step<T> step, const T* x, const T* bias, const T* before, T* z, T* memory, T* h) {
  const int64_t thread = global_thread();
  if (thread >= step.cells) return;
  const auto [unit, r, column] = step.template place<3>(thread);
  const int64_t u = r + step.width(), n = u + step.width();
  const T product = z[n] + (bias != nullptr ? bias[column] : T(0));
  const auto gates = math::GruCell::gates(x[r] + z[r], x[u] + z[u], x[n], product);
  z[r] = gates.r;
  z[u] = gates.u;
  z[n] = gates.n;
  memory[unit] = product;
  h[unit] = math::GruCell::state(gates, before != nullptr ? before[unit] : T(0));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gru_backward_kernel(Step<T> step, const T* z, const T* memory, const T* before, const T* dy,
                        const T* product, T* carry, T* dz, T* ds) {
  const int64_t thread = global_thread();
  if (thread >= step.cells) return;
  const auto [unit, r, column] = step.template place<3>(thread);
  const int64_t u = r + step.width(), n = u + step.width();
  T direct = carry[unit];
  const auto d = math::GruCell::derivative(math::GruGates<T>{z[r], z[u], z[n]}, memory[unit],
                                           before != nullptr ? before[unit] : T(0),
                                           dy[unit] + product[unit] + direct, direct);
  carry[unit] = direct;
  dz[r] = ds[r] = d.r;
  dz[u] = ds[u] = d.u;
  dz[n] = d.n;
  ds[n] = d.n * z[r];
}

// Rows of the i-th step in the order of computation, in an array (steps, rows, width); null for a null array
// and before the first step.
template <class T>
T* rows_of(const RecurrentArguments& a, T* array, int64_t i, int64_t width) {
  if (array == nullptr || i < 0) return nullptr;
  return array + (a.reverse ? a.steps - 1 - i : i) * a.rows * width;
}

template <class T>
Step<T> step_of(const RecurrentArguments& a) {
  if (a.rows * a.units > kLongestWalk) {
    fail(ErrorKind::kInternal, "recurrent: " + std::to_string(a.rows) + " rows of " +
                                   std::to_string(a.units) + " units are more than a launch can count");
  }
  return {a.rows * a.units, Divisor(a.units)};
}

MatmulArguments product_of(const RecurrentArguments& a) {
  MatmulArguments product;
  product.dtype = product.output = a.dtype;
  product.m = a.rows;
  return product;
}

}  // namespace

void CudaBackend::recurrent(const RecurrentArguments& arguments, const void* inputs, const void* weight,
                            const void* bias, void* activations, void* memory, void* states) {
  const RecurrentArguments& a = arguments;
  if (a.rows * a.units == 0) return;
  dispatch_accumulation("recurrent", a.dtype, [&]<class T>(T) {
    const Step<T> step = step_of<T>(a);
    const unsigned blocks = blocks_for(step.cells, kThreads);
    const int64_t width = a.gates();
    for (int64_t i = 0; i < a.steps; ++i) {
      const T* const x = rows_of(a, static_cast<const T*>(inputs), i, width);
      T* const h = rows_of(a, static_cast<T*>(states), i, a.units);
      T* const c = rows_of(a, static_cast<T*>(memory), i, a.units);
      T* const gates = rows_of(a, static_cast<T*>(activations), i, width);
      T* const z = gates != nullptr ? gates : h;  // where s goes
      const T* const h_before = rows_of(a, static_cast<const T*>(states), i - 1, a.units);
      const T* const c_before = rows_of(a, static_cast<const T*>(memory), i - 1, a.units);
      MatmulArguments product = product_of(a);
      product.n = width;
      product.k = i == 0 ? 0 : a.units;
      product.a = h_before;
      product.b = weight;
      product.c = z;
      matmul(product);
      switch (a.cell) {
        case RecurrentCell::kTanh:
          LOCKSTEP_LAUNCH((simple_kernel<math::SimpleCell<math::Tanh>, T>), blocks, kThreads, 0, stream(),
                          step, x, h);
          break;
        case RecurrentCell::kRelu:
          LOCKSTEP_LAUNCH((simple_kernel<math::SimpleCell<math::Relu>, T>), blocks, kThreads, 0, stream(),
                          step, x, h);
          break;
        case RecurrentCell::kLstm:
          LOCKSTEP_LAUNCH(lstm_kernel<T>, blocks, kThreads, 0, stream(), step, x, c_before, z, c, h);
          break;
        case RecurrentCell::kGru:
          LOCKSTEP_LAUNCH(gru_kernel<T>, blocks, kThreads, 0, stream(), step, x, static_cast<const T*>(bias),
                          h_before, z, c, h);
          break;
      }
    }
  });
}

void CudaBackend::recurrent_backward(const RecurrentArguments& arguments, const void* weight,
                                     const void* activations, const void* memory, const void* states,
                                     const void* dstates, void* dinputs, void* dproducts) {
  const RecurrentArguments& a = arguments;
  if (a.rows * a.units == 0) return;
  dispatch_accumulation("recurrent_backward", a.dtype, [&]<class T>(T) {
    const Step<T> step = step_of<T>(a);
    const unsigned blocks = blocks_for(step.cells, kThreads);
    const int64_t width = a.gates();
    // dL/ds R' from the step behind, and what its cells carry; zero at the last step.
    T* const product = scratch<T>(2 * step.cells);
    T* const carry = product + step.cells;
    check_cuda(cudaMemsetAsync(product, 0, static_cast<size_t>(2 * step.cells) * sizeof(T), stream()),
               "recurrent");
    for (int64_t i = a.steps - 1; i >= 0; --i) {
      const T* const z = rows_of(a, static_cast<const T*>(activations), i, width);
      const T* const h = rows_of(a, static_cast<const T*>(states), i, a.units);
      const T* const h_before = rows_of(a, static_cast<const T*>(states), i - 1, a.units);
      const T* const c = rows_of(a, static_cast<const T*>(memory), i, a.units);
      const T* const c_before = rows_of(a, static_cast<const T*>(memory), i - 1, a.units);
      const T* const dy = rows_of(a, static_cast<const T*>(dstates), i, a.units);
      T* const dz = rows_of(a, static_cast<T*>(dinputs), i, width);
      T* const ds = dproducts != nullptr ? rows_of(a, static_cast<T*>(dproducts), i, width) : dz;
      switch (a.cell) {
        case RecurrentCell::kTanh:
          LOCKSTEP_LAUNCH((simple_backward_kernel<math::SimpleCell<math::Tanh>, T>), blocks, kThreads, 0,
                          stream(), step, h, dy, product, dz);
          break;
        case RecurrentCell::kRelu:
          LOCKSTEP_LAUNCH((simple_backward_kernel<math::SimpleCell<math::Relu>, T>), blocks, kThreads, 0,
                          stream(), step, h, dy, product, dz);
          break;
        case RecurrentCell::kLstm:
          LOCKSTEP_LAUNCH(lstm_backward_kernel<T>, blocks, kThreads, 0, stream(), step, z, c, c_before, dy,
                          product, carry, dz);
          break;
        case RecurrentCell::kGru:
          LOCKSTEP_LAUNCH(gru_backward_kernel<T>, blocks, kThreads, 0, stream(), step, z, c, h_before, dy,
                          product, carry, dz, ds);
          break;
      }
      if (i == 0) break;
      MatmulArguments back = product_of(a);
      back.n = a.units;
      back.k = width;
      back.a = ds;
      back.b = weight;
      back.transpose_b = true;
      back.c = product;
      matmul(back);
    }
  });
}

}  // namespace lockstep
