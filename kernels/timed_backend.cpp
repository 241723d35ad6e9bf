// What each entry of the table takes at least, and how it is called in a list of times.
#include "lockstep/kernels/timed_backend.h"

#include <array>
#include <initializer_list>
#include <map>
#include <string_view>

namespace lockstep {

namespace {

double bytes_of(DType dtype, int64_t elements) {
  return static_cast<double>(size_of(dtype)) * static_cast<double>(elements);
}

KernelWork moved(double bytes) {
  return {.bytes = bytes};
}

// "64x784x128"
std::string extents(std::initializer_list<int64_t> numbers) {
  std::string text;
  for (const int64_t number : numbers) text += (text.empty() ? "" : "x") + std::to_string(number);
  return text;
}

std::string named(std::string_view name, DType dtype, std::initializer_list<int64_t> numbers) {
  return std::string(name) + " " + std::string(name_of(dtype)) + " " + extents(numbers);
}

std::string_view name_of(UnaryOp op) {
  static constexpr std::array<std::string_view, 16> kNames = {
      "negate", "exp",       "log", "sqrt",   "tanh",       "sigmoid", "softplus", "relu",
      "gelu",   "gelu_tanh", "abs", "square", "reciprocal", "sign",    "erf",      "relu_squared"};
  return kNames[static_cast<size_t>(op)];
}

std::string_view name_of(BinaryOp op) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "add", "subtract", "multiply", "divide", "maximum", "minimum", "equal", "greater", "greater_equal"};
  return kNames[static_cast<size_t>(op)];
}

// Elements of an operand that a broadcast reads.
int64_t elements_of(const BroadcastPlan& plan, const int64_t* strides) {
  int64_t elements = 1;
  for (int i = 0; i < plan.rank; ++i)
    if (strides == nullptr || strides[i] != 0) elements *= plan.extents[i];
  return elements;
}

int64_t input_elements(const ConvolutionArguments& a) {
  return a.n * a.h * a.w * a.c;
}
int64_t output_elements(const ConvolutionArguments& a) {
  return a.n * a.oh * a.ow * a.o;
}
KernelWork work_of(const ConvolutionArguments& a) {
  const int64_t weights = a.o * a.kh * a.kw * a.c;
  return {
      .bytes = bytes_of(a.dtype, input_elements(a) + weights + output_elements(a)),
      .operations = 2.0 * static_cast<double>(output_elements(a)) * static_cast<double>(a.kh * a.kw * a.c),
      .operands = a.dtype};
}
std::string name_of(std::string_view name, const ConvolutionArguments& a) {
  return named(name, a.dtype, {a.n, a.h, a.w, a.c}) + " by " + extents({a.o, a.kh, a.kw});
}

int64_t input_elements(const PoolArguments& a) {
  return a.n * a.h * a.w * a.c;
}
int64_t output_elements(const PoolArguments& a) {
  return a.n * a.oh * a.ow * a.c;
}
std::string name_of(std::string_view name, const PoolArguments& a) {
  return named(name, a.dtype, {a.n, a.h, a.w, a.c}) + " by " + extents({a.kh, a.kw});
}

std::string name_of(std::string_view name, const NormArguments& a) {
  std::string text = a.kind == NormArguments::Kind::kLayer ? "layer " : "rms ";
  text += named(name, a.dtype, {a.rows, a.columns});
  return a.narrow == a.dtype ? text : text + ", " + std::string(lockstep::name_of(a.narrow));
}

// Of the forward pass: two products of pairs of queries and keys.
KernelWork work_of(const AttentionArguments& a) {
  const double queries = static_cast<double>(a.queries), keys = static_cast<double>(a.keys);
  const double pairs =
      a.causal ? queries * (keys - queries) + queries * (queries + 1.0) / 2.0 : queries * keys;
  const int64_t of_queries = a.batch * a.queries * a.heads * a.size;
  const int64_t of_keys = a.batch * a.keys * a.key_heads() * a.size;
  return {.bytes = bytes_of(a.dtype, 2 * of_queries + 2 * of_keys),
          .operations = 4.0 * static_cast<double>(a.batch * a.heads * a.size) * pairs,
          .operands = a.dtype};
}
std::string name_of(std::string_view name, const AttentionArguments& a) {
  std::string text = named(name, a.dtype, {a.batch, a.heads, a.queries, a.keys, a.size});
  if (a.group() > 1) text += ", " + std::to_string(a.key_heads()) + " key heads";
  if (a.causal) text += ", causal";
  if (a.first_keys != nullptr) text += ", from first keys";
  return text;
}

// Products of a state with the recurrent weights, step by step.
KernelWork work_of(const RecurrentArguments& a, int64_t arrays_of_gates, int64_t arrays_of_units) {
  const int64_t rows = a.steps * a.rows;
  return {.bytes = bytes_of(a.dtype, rows * (arrays_of_gates * a.gates() + arrays_of_units * a.units) +
                                         a.units * a.gates()),
          .operations = 2.0 * static_cast<double>(rows) * static_cast<double>(a.units * a.gates()),
          .operands = a.dtype};
}

}  // namespace

TimedBackend::TimedBackend(Backend& inner) : TimedBackend(inner, std::make_shared<Log>()) {}

std::vector<KernelTime> TimedBackend::times() const {
  std::vector<KernelTime> times;
  std::map<std::string, size_t> places;
  for (const Call& call : log_->calls) {
    const auto [place, added] = places.insert({call.name, times.size()});
    if (added) times.push_back({call.name, call.work, 0, 0.0});
    KernelTime& time = times[place->second];
    call.end->wait();
    ++time.calls;
    time.seconds += call.end->seconds_since(*call.begin);
  }
  return times;
}

Backend& TimedBackend::beside(Backend& inner, std::unique_ptr<TimedBackend>& instance) {
  if (&inner == &inner_) return *this;
  if (!instance) instance.reset(new TimedBackend(inner, log_));
  return *instance;
}

void TimedBackend::wait_for(Backend& other) {
  auto* const timed = dynamic_cast<TimedBackend*>(&other);
  inner_.wait_for(timed == nullptr ? other : timed->inner_);
}

template <class Name, class Run>
void TimedBackend::timed(const Name& name, const KernelWork& work, const Run& run) {
  if (!log_->on) return run();
  Call call{name(), work, inner_.marker(true), inner_.marker(true)};
  call.begin->set();
  run();
  call.end->set();
  log_->calls.push_back(std::move(call));
}

// ---- memory

void TimedBackend::copy(void* destination, const void* source, size_t bytes) {
  timed([&] { return named("copy", DType::kU8, {static_cast<int64_t>(bytes)}); },
        moved(2.0 * static_cast<double>(bytes)), [&] { inner_.copy(destination, source, bytes); });
}

void TimedBackend::fill(DType dtype, int64_t n, void* y, double value) {
  timed([&] { return named("fill", dtype, {n}); }, moved(bytes_of(dtype, n)),
        [&] { inner_.fill(dtype, n, y, value); });
}

void TimedBackend::cast(DType from, DType to, int64_t n, const void* x, void* y) {
  timed([&] { return named("cast", from, {n}) + " to " + std::string(lockstep::name_of(to)); },
        moved(bytes_of(from, n) + bytes_of(to, n)), [&] { inner_.cast(from, to, n, x, y); });
}

// ---- elementwise, movement, reductions

void TimedBackend::unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  timed([&] { return named(name_of(op), dtype, {n}); }, moved(2.0 * bytes_of(dtype, n)),
        [&] { inner_.unary(op, dtype, n, x, y); });
}

void TimedBackend::unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y,
                                  const void* dy, void* dx) {
  timed([&] { return named(std::string(name_of(op)) + " backward", dtype, {n}); },
        moved(3.0 * bytes_of(dtype, n)), [&] { inner_.unary_backward(op, dtype, n, x, y, dy, dx); });
}

void TimedBackend::binary(BinaryOp op, DType dtype, const BroadcastPlan& plan, const void* a, const void* b,
                          void* y) {
  const int64_t n = elements_of(plan, nullptr);
  const int64_t read = elements_of(plan, plan.strides_a) + elements_of(plan, plan.strides_b);
  timed([&] { return named(name_of(op), dtype, {n}) + (read < 2 * n ? ", repeated" : ""); },
        moved(bytes_of(dtype, read + n)), [&] { inner_.binary(op, dtype, plan, a, b, y); });
}

void TimedBackend::scale_shift(DType dtype, int64_t n, const void* x, double scale, double shift, void* y) {
  timed([&] { return named("scale_shift", dtype, {n}); }, moved(2.0 * bytes_of(dtype, n)),
        [&] { inner_.scale_shift(dtype, n, x, scale, shift, y); });
}

void TimedBackend::accumulate(DType dtype, int64_t n, const void* x, void* y) {
  timed([&] { return named("accumulate", dtype, {n}); }, moved(3.0 * bytes_of(dtype, n)),
        [&] { inner_.accumulate(dtype, n, x, y); });
}

void TimedBackend::permute(size_t element_size, int rank, const int64_t* shape, const int* permutation,
                           const void* x, void* y) {
  double bytes = static_cast<double>(element_size);
  for (int i = 0; i < rank; ++i) bytes *= static_cast<double>(shape[i]);
  timed([&] { return "permute of " + std::to_string(static_cast<int64_t>(bytes)) + " bytes"; },
        moved(2.0 * bytes), [&] { inner_.permute(element_size, rank, shape, permutation, x, y); });
}

void TimedBackend::copy_rows(int64_t outer, size_t bytes, const void* x, size_t x_row_bytes, void* y,
                             size_t y_row_bytes) {
  const auto row = static_cast<int64_t>(bytes);
  timed(
      [&] {
        return named("copy_rows", DType::kU8, {outer, row});
      },
      moved(2.0 * static_cast<double>(outer) * static_cast<double>(row)),
      [&] { inner_.copy_rows(outer, bytes, x, x_row_bytes, y, y_row_bytes); });
}

void TimedBackend::reduce(ReduceOp op, DType dtype, int64_t outer, int64_t extent, int64_t inner,
                          const void* x, void* y) {
  timed(
      [&] {
        return named("reduce", dtype, {outer, extent, inner});
      },
      moved(bytes_of(dtype, outer * extent * inner + outer * inner)),
      [&] { inner_.reduce(op, dtype, outer, extent, inner, x, y); });
}

void TimedBackend::block_square_sums(DType dtype, int64_t n, const void* x, double* sums) {
  timed([&] { return named("block_square_sums", dtype, {n}); }, moved(bytes_of(dtype, n)),
        [&] { inner_.block_square_sums(dtype, n, x, sums); });
}

bool TimedBackend::all_finite(DType dtype, int64_t n, const void* x) {
  bool finite = true;
  timed([&] { return named("all_finite", dtype, {n}); }, moved(bytes_of(dtype, n)),
        [&] { finite = inner_.all_finite(dtype, n, x); });
  return finite;
}

// ---- products and windows

void TimedBackend::matmul(const MatmulArguments& arguments) {
  const MatmulArguments& a = arguments;
  const auto matrices = [&](int64_t stride) { return stride == 0 ? 1 : a.batch; };
  const int64_t results = a.batch * a.m * a.n;
  const int64_t beside = (a.argument != nullptr ? 1 : 0) + (a.derivative_at != nullptr ? 1 : 0);
  const KernelWork work{.bytes = bytes_of(a.dtype, matrices(a.batch_stride_a) * a.m * a.k +
                                                       matrices(a.batch_stride_b) * a.k * a.n) +
                                 bytes_of(a.output, results * (1 + beside)),
                        .operations = 2.0 * static_cast<double>(results) * static_cast<double>(a.k),
                        .operands = a.dtype};
  timed(
      [&] {
        std::string text = a.batch == 1 ? named("matmul", a.dtype, {a.m, a.n, a.k})
                                        : named("matmul", a.dtype, {a.batch, a.m, a.n, a.k});
        if (a.transpose_a) text += ", left transposed";
        if (a.transpose_b) text += ", right transposed";
        if (a.output != a.dtype) text += ", to " + std::string(lockstep::name_of(a.output));
        if (a.bias != nullptr) text += ", bias";
        if (a.column_sums != nullptr) text += ", column sums";
        if (a.activation != Activation::kNone) {
          text += ", " + std::string(name_of(unary_of(a.activation)));
          if (a.derivative_at != nullptr) text += "'";
        }
        return text;
      },
      work, [&] { inner_.matmul(arguments); });
}

void TimedBackend::convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                               const void* bias, void* y) {
  timed([&] { return name_of("convolution", arguments); }, work_of(arguments),
        [&] { inner_.convolution(arguments, x, weights, bias, y); });
}

void TimedBackend::convolution_backward_data(const ConvolutionArguments& arguments, const void* dy,
                                             const void* weights, void* dx) {
  timed([&] { return name_of("convolution_backward_data", arguments); }, work_of(arguments),
        [&] { inner_.convolution_backward_data(arguments, dy, weights, dx); });
}

void TimedBackend::convolution_backward_weights(const ConvolutionArguments& arguments, const void* x,
                                                const void* dy, void* dweights) {
  timed([&] { return name_of("convolution_backward_weights", arguments); }, work_of(arguments),
        [&] { inner_.convolution_backward_weights(arguments, x, dy, dweights); });
}

void TimedBackend::max_pool(const PoolArguments& arguments, const void* x, void* y, int32_t* indices) {
  timed([&] { return name_of("max_pool", arguments); },
        moved(bytes_of(arguments.dtype, input_elements(arguments) + output_elements(arguments)) +
              bytes_of(DType::kI32, output_elements(arguments))),
        [&] { inner_.max_pool(arguments, x, y, indices); });
}

void TimedBackend::max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                                     void* dx) {
  timed([&] { return name_of("max_pool_backward", arguments); },
        moved(bytes_of(arguments.dtype, input_elements(arguments) + output_elements(arguments)) +
              bytes_of(DType::kI32, output_elements(arguments))),
        [&] { inner_.max_pool_backward(arguments, indices, dy, dx); });
}

void TimedBackend::max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                                   void* y) {
  timed([&] { return name_of("max_pool_gather", arguments); },
        moved(bytes_of(arguments.dtype, 2 * output_elements(arguments)) +
              bytes_of(DType::kI32, output_elements(arguments))),
        [&] { inner_.max_pool_gather(arguments, indices, x, y); });
}

void TimedBackend::average_pool(const PoolArguments& arguments, const void* x, void* y) {
  timed([&] { return name_of("average_pool", arguments); },
        moved(bytes_of(arguments.dtype, input_elements(arguments) + output_elements(arguments))),
        [&] { inner_.average_pool(arguments, x, y); });
}

void TimedBackend::average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) {
  timed([&] { return name_of("average_pool_backward", arguments); },
        moved(bytes_of(arguments.dtype, input_elements(arguments) + output_elements(arguments))),
        [&] { inner_.average_pool_backward(arguments, dy, dx); });
}

// ---- normalization and losses

void TimedBackend::softmax(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* x,
                           void* y) {
  timed(
      [&] {
        return named("softmax", dtype, {rows, columns});
      },
      moved(2.0 * bytes_of(dtype, rows * columns)),
      [&] { inner_.softmax(log_form, dtype, rows, columns, x, y); });
}

void TimedBackend::softmax_backward(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* y,
                                    const void* dy, void* dx) {
  timed(
      [&] {
        return named("softmax_backward", dtype, {rows, columns});
      },
      moved(3.0 * bytes_of(dtype, rows * columns)),
      [&] { inner_.softmax_backward(log_form, dtype, rows, columns, y, dy, dx); });
}

void TimedBackend::cross_entropy(DType dtype, int64_t rows, int64_t columns, const void* logits,
                                 const int32_t* labels, const void* weights, void* losses,
                                 void* probabilities) {
  timed(
      [&] {
        return named("cross_entropy", dtype, {rows, columns});
      },
      moved(2.0 * bytes_of(dtype, rows * columns)),
      [&] { inner_.cross_entropy(dtype, rows, columns, logits, labels, weights, losses, probabilities); });
}

void TimedBackend::cross_entropy_backward(DType dtype, int64_t rows, int64_t columns,
                                          const void* probabilities, const int32_t* labels,
                                          const void* weights, const void* dlosses, void* dlogits) {
  timed(
      [&] {
        return named("cross_entropy_backward", dtype, {rows, columns});
      },
      moved(2.0 * bytes_of(dtype, rows * columns)),
      [&] {
        inner_.cross_entropy_backward(dtype, rows, columns, probabilities, labels, weights, dlosses, dlogits);
      });
}

void TimedBackend::cross_entropy_gradient(DType dtype, int64_t rows, int64_t columns, const void* logits,
                                          const int32_t* labels, const void* weights, const void* dlosses,
                                          void* losses, void* dlogits) {
  timed(
      [&] {
        return named("cross_entropy_gradient", dtype, {rows, columns});
      },
      moved(bytes_of(accumulation_type(dtype), rows * columns) + bytes_of(dtype, rows * columns)),
      [&] {
        inner_.cross_entropy_gradient(dtype, rows, columns, logits, labels, weights, dlosses, losses,
                                      dlogits);
      });
}

void TimedBackend::norm(const NormArguments& arguments, const void* x, const void* change, const void* beta,
                        void* sum, void* y, void* mean, void* rstd) {
  const NormArguments& a = arguments;
  const int64_t n = a.rows * a.columns, sums = change == nullptr ? 0 : 1;
  timed([&] { return name_of(sums > 0 ? "norm of a sum" : "norm", a); },
        moved(bytes_of(a.dtype, n * (1 + sums)) + bytes_of(a.narrow, n * (1 + sums))),
        [&] { inner_.norm(arguments, x, change, beta, sum, y, mean, rstd); });
}

void TimedBackend::norm_backward(const NormArguments& arguments, const void* s, const void* mean,
                                 const void* rstd, const void* dy, const void* added, void* dx,
                                 void* dx_narrow, void* dgamma, void* dbeta) {
  const NormArguments& a = arguments;
  const int64_t n = a.rows * a.columns;
  const int64_t wide = added == nullptr ? 2 : 3, narrow = dx_narrow == nullptr ? 1 : 2;
  timed(
      [&] {
        return name_of("norm_backward", a) + (added != nullptr ? ", added" : "") +
               (dx_narrow != nullptr ? ", with a copy" : "");
      },
      moved(bytes_of(a.dtype, wide * n) + bytes_of(a.narrow, narrow * n)),
      [&] { inner_.norm_backward(arguments, s, mean, rstd, dy, added, dx, dx_narrow, dgamma, dbeta); });
}

void TimedBackend::add_narrow(DType narrow, int64_t n, const void* x, const void* change, void* y) {
  timed([&] { return named("add_narrow", narrow, {n}); },
        moved(8.0 * static_cast<double>(n) + bytes_of(narrow, n)),
        [&] { inner_.add_narrow(narrow, n, x, change, y); });
}

// Statistics of a channel need all of it, which is read once more then.
void TimedBackend::batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                              const void* beta, double epsilon, void* y, void* mean, void* variance,
                              void* rstd) {
  timed(
      [&] {
        return named("batch_norm", dtype, {rows, channels});
      },
      moved(3.0 * bytes_of(dtype, rows * channels)),
      [&] { inner_.batch_norm(dtype, rows, channels, x, gamma, beta, epsilon, y, mean, variance, rstd); });
}

void TimedBackend::batch_norm_backward(DType dtype, int64_t rows, int64_t channels, const void* x,
                                       const void* gamma, const void* mean, const void* rstd, const void* dy,
                                       void* dx, void* dgamma, void* dbeta) {
  timed(
      [&] {
        return named("batch_norm_backward", dtype, {rows, channels});
      },
      moved(5.0 * bytes_of(dtype, rows * channels)),
      [&] {
        inner_.batch_norm_backward(dtype, rows, channels, x, gamma, mean, rstd, dy, dx, dgamma, dbeta);
      });
}

// ---- models

void TimedBackend::embedding(DType dtype, int64_t count, int64_t width, const void* table,
                             const int32_t* indices, void* y) {
  timed(
      [&] {
        return named("embedding", dtype, {count, width});
      },
      moved(2.0 * bytes_of(dtype, count * width) + bytes_of(DType::kI32, count)),
      [&] { inner_.embedding(dtype, count, width, table, indices, y); });
}

void TimedBackend::embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width,
                                      const int32_t* indices, const void* dy, bool adds, void* dtable) {
  timed(
      [&] {
        return named(adds ? "embedding_backward, added" : "embedding_backward", dtype, {count, rows, width});
      },
      // Where it adds, of the rows that are named, which are `count` at most.
      moved(bytes_of(dtype, (count + (adds ? 2 * std::min(count, rows) : rows)) * width) +
            bytes_of(DType::kI32, count)),
      [&] { inner_.embedding_backward(dtype, count, rows, width, indices, dy, adds, dtable); });
}

void TimedBackend::recurrent(const RecurrentArguments& arguments, const void* inputs, const void* weight,
                             const void* bias, void* activations, void* memory, void* states) {
  const RecurrentArguments& a = arguments;
  timed(
      [&] {
        return named("recurrent", a.dtype, {a.steps, a.rows, a.units});
      },
      work_of(a, activations == nullptr ? 1 : 2, memory == nullptr ? 1 : 2),
      [&] { inner_.recurrent(a, inputs, weight, bias, activations, memory, states); });
}

void TimedBackend::recurrent_backward(const RecurrentArguments& arguments, const void* weight,
                                      const void* activations, const void* memory, const void* states,
                                      const void* dstates, void* dinputs, void* dproducts) {
  const RecurrentArguments& a = arguments;
  timed(
      [&] {
        return named("recurrent_backward", a.dtype, {a.steps, a.rows, a.units});
      },
      work_of(a, 1 + (activations == nullptr ? 0 : 1) + (dproducts == nullptr ? 0 : 1),
              memory == nullptr ? 2 : 3),
      [&] {
        inner_.recurrent_backward(a, weight, activations, memory, states, dstates, dinputs, dproducts);
      });
}

void TimedBackend::attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                             void* y, void* log_sums) {
  timed([&] { return name_of("attention", arguments); }, work_of(arguments),
        [&] { inner_.attention(arguments, q, k, v, y, log_sums); });
}

// Five products in place of two; q, k, v, y and their gradients.
void TimedBackend::attention_backward(const AttentionArguments& arguments, const void* q, const void* k,
                                      const void* v, const void* y, const void* log_sums, const void* dy,
                                      void* dq, void* dk, void* dv) {
  KernelWork work = work_of(arguments);
  work.bytes *= 2.0;
  work.operations *= 2.5;
  timed([&] { return name_of("attention_backward", arguments); }, work,
        [&] { inner_.attention_backward(arguments, q, k, v, y, log_sums, dy, dq, dk, dv); });
}

void TimedBackend::rotary(DType dtype, int64_t rows, int64_t positions, int64_t heads, int64_t turned,
                          int64_t size, bool back, const void* x, const void* cosines, const void* sines,
                          void* y) {
  timed(
      [&] {
        return named(back ? "rotary_backward" : "rotary", dtype, {rows, heads, size});
      },
      moved(2.0 * bytes_of(dtype, rows * heads * size)),
      [&] { inner_.rotary(dtype, rows, positions, heads, turned, size, back, x, cosines, sines, y); });
}

void TimedBackend::first_keys(int64_t batch, int64_t positions, int64_t window, const int32_t* documents,
                              int32_t* first) {
  timed(
      [&] {
        return named("first_keys", DType::kI32, {batch, positions});
      },
      moved(bytes_of(DType::kI32, (documents == nullptr ? 1 : 2) * batch * positions)),
      [&] { inner_.first_keys(batch, positions, window, documents, first); });
}

void TimedBackend::swiglu(DType dtype, int64_t rows, int64_t columns, const void* h, void* y) {
  timed(
      [&] {
        return named("swiglu", dtype, {rows, columns});
      },
      moved(3.0 * bytes_of(dtype, rows * columns)), [&] { inner_.swiglu(dtype, rows, columns, h, y); });
}

void TimedBackend::swiglu_backward(DType dtype, int64_t rows, int64_t columns, const void* h, const void* dy,
                                   void* dh) {
  timed(
      [&] {
        return named("swiglu_backward", dtype, {rows, columns});
      },
      moved(5.0 * bytes_of(dtype, rows * columns)),
      [&] { inner_.swiglu_backward(dtype, rows, columns, h, dy, dh); });
}

void TimedBackend::dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                                void* mask) {
  timed([&] { return named("dropout_mask", dtype, {n}); }, moved(bytes_of(dtype, n)),
        [&] { inner_.dropout_mask(dtype, n, stream, probability, mask); });
}

// ---- optimizer

// Parameters and slots are read and written, gradients read.
void TimedBackend::update(UpdateFormula formula, const UpdateArguments& arguments) {
  const UpdateArguments& a = arguments;
  int64_t slots = 0;
  for (const void* slot : a.slots) slots += slot != nullptr ? 1 : 0;
  timed(
      [&] { return named("update", a.dtype, {a.n}) + (a.copy != nullptr ? ", with a copy" : ""); },
      moved(bytes_of(a.dtype, a.n * (3 + 2 * slots)) + (a.copy != nullptr ? bytes_of(a.copy_dtype, a.n) : 0)),
      [&] { inner_.update(formula, arguments); });
}

void TimedBackend::judge(const StepJudgement& judgement) {
  timed([&] { return named("judge", DType::kF64, {judgement.blocks}); },
        moved(bytes_of(DType::kF64, judgement.blocks)), [&] { inner_.judge(judgement); });
}

}  // namespace lockstep
