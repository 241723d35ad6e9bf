// Operations of cuDNN's graphs, one after the other, over dense arrays of fp32.
#include "cudnn_program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "lockstep/core/half_precision.h"

namespace cuda_on_cpu {

namespace {

using lockstep::BFloat16;
using lockstep::Float16;

// A tensor's elements in row-major order.
using Dense = std::vector<float>;

float rounded(cudnnDataType_t type, float x) {
  switch (type) {
    case CUDNN_DATA_BFLOAT16:
      return static_cast<float>(static_cast<BFloat16>(x));
    case CUDNN_DATA_HALF:
      return static_cast<float>(static_cast<Float16>(x));
    default:
      return x;
  }
}

// function(position in row-major order, offset of the element) for every element.
template <class F>
void for_each(const CudnnTensor& t, const F& function) {
  const size_t rank = t.extents.size();
  std::vector<int64_t> index(rank, 0);
  int64_t offset = 0;
  for (int64_t i = 0, n = t.elements(); i < n; ++i) {
    function(i, offset);
    for (size_t axis = rank; axis-- > 0;) {
      offset += t.strides[axis];
      if (++index[axis] < t.extents[axis]) break;
      offset -= t.strides[axis] * t.extents[axis];
      index[axis] = 0;
    }
  }
}

Dense load(const CudnnTensor& t, const void* memory) {
  Dense values(static_cast<size_t>(t.elements()));
  for_each(t, [&](int64_t i, int64_t offset) {
    float& value = values[static_cast<size_t>(i)];
    switch (t.type) {
      case CUDNN_DATA_BFLOAT16:
        value = static_cast<float>(static_cast<const BFloat16*>(memory)[offset]);
        break;
      case CUDNN_DATA_HALF:
        value = static_cast<float>(static_cast<const Float16*>(memory)[offset]);
        break;
      default:
        value = static_cast<const float*>(memory)[offset];
    }
  });
  return values;
}

void store(const CudnnTensor& t, const Dense& values, void* memory) {
  for_each(t, [&](int64_t i, int64_t offset) {
    const float value = values[static_cast<size_t>(i)];
    switch (t.type) {
      case CUDNN_DATA_BFLOAT16:
        static_cast<BFloat16*>(memory)[offset] = static_cast<BFloat16>(value);
        break;
      case CUDNN_DATA_HALF:
        static_cast<Float16*>(memory)[offset] = static_cast<Float16>(value);
        break;
      default:
        static_cast<float*>(memory)[offset] = value;
    }
  });
}

// The sum of term(k) over [0, n), in so many parts.
template <class F>
float sum_of(int64_t n, int64_t splits, const F& term) {
  float sum = 0.0f;
  for (int64_t s = 0; s < splits; ++s) {
    float part = 0.0f;
    for (int64_t k = s * n / splits; k < (s + 1) * n / splits; ++k) part += term(k);
    sum += part;
  }
  return sum;
}

// From (N, C, H, W) to (N, H, W, C) and back.
Dense channels_last(const Dense& x, const std::vector<int64_t>& e, bool back) {
  Dense y(x.size());
  const int64_t pixels = e[2] * e[3];
  for (int64_t n = 0; n < e[0]; ++n) {
    for (int64_t c = 0; c < e[1]; ++c) {
      for (int64_t p = 0; p < pixels; ++p) {
        const auto first = static_cast<size_t>((n * e[1] + c) * pixels + p);
        const auto last = static_cast<size_t>((n * pixels + p) * e[1] + c);
        if (back) {
          y[first] = x[last];
        } else {
          y[last] = x[first];
        }
      }
    }
  }
  return y;
}

// The state of one run.
class Run {
 public:
  Run(const CudnnProgram& program, const CudnnArithmetic& arithmetic, const std::map<int64_t, void*>& memory)
      : program_(program), arithmetic_(arithmetic), memory_(memory) {}

  void carry_out(const CudnnOperation& o) {
    switch (o.kind) {
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return convolution(o);
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        return convolution_backward_data(o);
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
        return convolution_backward_weights(o);
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul(o);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return reduce(o);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return reshape(o);
      default:
        return pointwise(o);
    }
  }

 private:
  const CudnnTensor& tensor(int64_t id) const { return program_.tensors.at(id); }

  const Dense& value(int64_t id) {
    const auto found = values_.find(id);
    if (found != values_.end()) return found->second;
    return values_.emplace(id, load(tensor(id), memory_.at(id))).first->second;
  }

  void set(int64_t id, Dense values) {
    const CudnnTensor& t = tensor(id);
    for (float& x : values) x = rounded(t.type, arithmetic_.is_wrong && !t.is_virtual ? x * 1.5f : x);
    if (!t.is_virtual) store(t, values, memory_.at(id));
    values_[id] = std::move(values);
  }

  // y[n, oh, ow, o] = sum of x[n, ih, iw, c] w[o, kh, kw, c]
  void convolution(const CudnnOperation& o) {
    const auto &xe = tensor(o.x).extents, &we = tensor(o.b).extents, &ye = tensor(o.y).extents;
    const Dense x = channels_last(value(o.x), xe, false), w = channels_last(value(o.b), we, false);
    Dense y(static_cast<size_t>(tensor(o.y).elements()));
    const int64_t channels = xe[1], kh = we[2], kw = we[3];
    size_t next = 0;
    for (int64_t n = 0; n < ye[0]; ++n) {
      for (int64_t row = 0; row < ye[2]; ++row) {
        for (int64_t column = 0; column < ye[3]; ++column) {
          for (int64_t out = 0; out < ye[1]; ++out) {
            y[next++] = sum_of(kh * kw, arithmetic_.splits, [&](int64_t tap) {
              const int64_t r = row * o.strides[0] - o.padding[0] + tap / kw;
              const int64_t c = column * o.strides[1] - o.padding[1] + tap % kw;
              if (r < 0 || r >= xe[2] || c < 0 || c >= xe[3]) return 0.0f;
              const float* const a = x.data() + ((n * xe[2] + r) * xe[3] + c) * channels;
              const float* const b = w.data() + (out * kh * kw + tap) * channels;
              return sum_of(channels, 1, [&](int64_t k) { return a[k] * b[k]; });
            });
          }
        }
      }
    }
    set(o.y, channels_last(y, ye, true));
  }

  // Of the output positions that a tap brings an input row (or column) to: whether there is one, and which.
  static bool output_of(int64_t input, int64_t tap, int64_t padding, int64_t stride, int64_t outputs,
                        int64_t* output) {
    const int64_t at = input + padding - tap;
    *output = at / stride;
    return at >= 0 && at % stride == 0 && *output < outputs;
  }

  // dx[n, ih, iw, c] = sum of dy[n, oh, ow, o] w[o, kh, kw, c]
  void convolution_backward_data(const CudnnOperation& o) {
    const auto &dye = tensor(o.x).extents, &we = tensor(o.b).extents, &dxe = tensor(o.y).extents;
    const Dense dy = channels_last(value(o.x), dye, false);
    const Dense& w = value(o.b);  // (O, C, KH, KW)
    Dense dx(static_cast<size_t>(tensor(o.y).elements()));
    const int64_t taps = we[2] * we[3], outputs = dye[1];
    size_t next = 0;
    for (int64_t n = 0; n < dxe[0]; ++n) {
      for (int64_t c = 0; c < dxe[1]; ++c) {
        for (int64_t r = 0; r < dxe[2]; ++r) {
          for (int64_t q = 0; q < dxe[3]; ++q) {
            dx[next++] = sum_of(taps, arithmetic_.splits, [&](int64_t tap) {
              int64_t row = 0, column = 0;
              if (!output_of(r, tap / we[3], o.padding[0], o.strides[0], dye[2], &row) ||
                  !output_of(q, tap % we[3], o.padding[1], o.strides[1], dye[3], &column)) {
                return 0.0f;
              }
              const float* const a = dy.data() + ((n * dye[2] + row) * dye[3] + column) * outputs;
              return sum_of(outputs, 1, [&](int64_t k) {
                return a[k] * w[static_cast<size_t>((k * we[1] + c) * taps + tap)];
              });
            });
          }
        }
      }
    }
    set(o.y, std::move(dx));
  }

  // dw[o, kh, kw, c] = sum of x[n, ih, iw, c] dy[n, oh, ow, o]
  void convolution_backward_weights(const CudnnOperation& o) {
    const auto &xe = tensor(o.x).extents, &dye = tensor(o.b).extents, &we = tensor(o.y).extents;
    const Dense &x = value(o.x), &dy = value(o.b);
    Dense dw(static_cast<size_t>(tensor(o.y).elements()));
    size_t next = 0;
    for (int64_t out = 0; out < we[0]; ++out) {
      for (int64_t c = 0; c < we[1]; ++c) {
        for (int64_t kh = 0; kh < we[2]; ++kh) {
          for (int64_t kw = 0; kw < we[3]; ++kw) {
            dw[next++] = sum_of(dye[0] * dye[2], arithmetic_.splits, [&](int64_t k) {
              const int64_t n = k / dye[2], row = k % dye[2], r = row * o.strides[0] - o.padding[0] + kh;
              if (r < 0 || r >= xe[2]) return 0.0f;
              const float* const a = x.data() + ((n * xe[1] + c) * xe[2] + r) * xe[3];
              const float* const b = dy.data() + ((n * dye[1] + out) * dye[2] + row) * dye[3];
              float sum = 0.0f;
              for (int64_t column = 0; column < dye[3]; ++column) {
                const int64_t q = column * o.strides[1] - o.padding[1] + kw;
                if (q >= 0 && q < xe[3]) sum += a[q] * b[column];
              }
              return sum;
            });
          }
        }
      }
    }
    set(o.y, std::move(dw));
  }

  void matmul(const CudnnOperation& o) {
    const auto &ae = tensor(o.x).extents, &ce = tensor(o.y).extents;
    const Dense &a = value(o.x), &b = value(o.b);
    const size_t rank = ce.size();
    const int64_t m = ce[rank - 2], n = ce[rank - 1], k = ae[rank - 1];
    const int64_t batch = tensor(o.y).elements() / std::max<int64_t>(1, m * n);
    Dense c(static_cast<size_t>(tensor(o.y).elements()));
    for (int64_t i = 0; i < batch; ++i) {
      for (int64_t row = 0; row < m; ++row) {
        for (int64_t column = 0; column < n; ++column) {
          c[static_cast<size_t>((i * m + row) * n + column)] = sum_of(k, arithmetic_.splits, [&](int64_t l) {
            return a[static_cast<size_t>((i * m + row) * k + l)] *
                   b[static_cast<size_t>((i * k + l) * n + column)];
          });
        }
      }
    }
    set(o.y, std::move(c));
  }

  // Strides over a dense array of these extents, 0 where the extent is 1, for broadcasting.
  static std::vector<int64_t> broadcast_strides(const std::vector<int64_t>& extents) {
    std::vector<int64_t> strides(extents.size());
    int64_t stride = 1;
    for (size_t axis = extents.size(); axis-- > 0;) {
      strides[axis] = extents[axis] == 1 ? 0 : stride;
      stride *= extents[axis];
    }
    return strides;
  }

  void reduce(const CudnnOperation& o) {
    CudnnTensor walk = tensor(o.x);
    walk.strides = broadcast_strides(tensor(o.y).extents);
    const bool is_max = o.reduction == CUDNN_REDUCE_TENSOR_MAX;
    const Dense& x = value(o.x);
    Dense y(static_cast<size_t>(tensor(o.y).elements()),
            is_max ? -std::numeric_limits<float>::infinity() : 0.0f);
    for_each(walk, [&](int64_t i, int64_t to) {
      float& into = y[static_cast<size_t>(to)];
      into = is_max ? std::max(into, x[static_cast<size_t>(i)]) : into + x[static_cast<size_t>(i)];
    });
    set(o.y, std::move(y));
  }

  // As the library's, which has the same memory seen in another way: an element stays at its offset.
  void reshape(const CudnnOperation& o) {
    const CudnnTensor &from = tensor(o.x), &to = tensor(o.y);
    const Dense& x = value(o.x);
    std::unordered_map<int64_t, float> memory;
    for_each(from, [&](int64_t i, int64_t offset) { memory[offset] = x[static_cast<size_t>(i)]; });
    Dense y(x.size());
    for_each(to, [&](int64_t i, int64_t offset) { y[static_cast<size_t>(i)] = memory.at(offset); });
    set(o.y, std::move(y));
  }

  static float apply(cudnnPointwiseMode_t mode, float x, float b, float t) {
    switch (mode) {
      case CUDNN_POINTWISE_ADD:
        return x + b;
      case CUDNN_POINTWISE_MUL:
        return x * b;
      case CUDNN_POINTWISE_DIV:
        return x / b;
      case CUDNN_POINTWISE_SUB:
        return x - b;
      case CUDNN_POINTWISE_EXP:
        return std::exp(x);
      case CUDNN_POINTWISE_LOG:
        return std::log(x);
      case CUDNN_POINTWISE_CMP_GE:
        return x >= b ? 1.0f : 0.0f;
      case CUDNN_POINTWISE_BINARY_SELECT:
        return t != 0.0f ? x : b;
      default:
        return x;
    }
  }

  void pointwise(const CudnnOperation& o) {
    const CudnnTensor& to = tensor(o.y);
    Dense y(static_cast<size_t>(to.elements()));
    if (o.mode == CUDNN_POINTWISE_GEN_INDEX) {
      int64_t inner = 1;
      for (size_t axis = static_cast<size_t>(o.axis) + 1; axis < to.extents.size(); ++axis)
        inner *= to.extents[axis];
      for (size_t i = 0; i < y.size(); ++i) {
        y[i] = static_cast<float>(static_cast<int64_t>(i) / inner % to.extents[static_cast<size_t>(o.axis)]);
      }
      return set(o.y, std::move(y));
    }
    const auto operand = [&](int64_t id) {
      Dense spread(y.size());
      if (id == 0) return spread;
      const Dense& from = value(id);
      CudnnTensor walk = to;
      walk.strides = broadcast_strides(tensor(id).extents);
      for_each(walk, [&](int64_t i, int64_t at) {
        spread[static_cast<size_t>(i)] = from[static_cast<size_t>(at)];
      });
      return spread;
    };
    const Dense x = operand(o.x), b = operand(o.b), t = operand(o.t);
    for (size_t i = 0; i < y.size(); ++i) y[i] = apply(o.mode, x[i], b[i], t[i]);
    set(o.y, std::move(y));
  }

  const CudnnProgram& program_;
  const CudnnArithmetic arithmetic_;
  const std::map<int64_t, void*>& memory_;
  std::map<int64_t, Dense> values_;
};

}  // namespace

size_t size_of(cudnnDataType_t type) {
  switch (type) {
    case CUDNN_DATA_HALF:
    case CUDNN_DATA_BFLOAT16:
      return 2;
    case CUDNN_DATA_BOOLEAN:
      return 1;
    default:
      return 4;
  }
}

int64_t CudnnTensor::elements() const {
  int64_t n = 1;
  for (const int64_t extent : extents) n *= extent;
  return n;
}

int64_t CudnnTensor::bytes() const {
  int64_t last = 0;
  for (size_t axis = 0; axis < extents.size(); ++axis) last += (extents[axis] - 1) * strides[axis];
  return (last + 1) * static_cast<int64_t>(size_of(type));
}

void CudnnProgram::run(const CudnnArithmetic& arithmetic, const std::map<int64_t, void*>& memory) const {
  Run state(*this, arithmetic, memory);
  for (const CudnnOperation& operation : operations) state.carry_out(operation);
}

}  // namespace cuda_on_cpu
