// Elementwise operations of one argument: value and derivative of each, shared by every backend.
//
// A new operation is a line in UnaryOp, a functor here and its line in visit_unary, which also chooses among
// formulas by the type of the results.
#pragma once

#include <cmath>
#include <type_traits>
#include <utility>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/math/elementary.h"
#include "lockstep/kernels/math/narrow_gelu.h"

namespace lockstep::math {

// value(x); backward(x, y, dy) = dy * derivative at x, where y = value(x).
struct Negate {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return -x;
  }
};

struct Exp {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return exp(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T, T y, T dy) {
    return dy * y;
  }
};

struct Log {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return log(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return dy / x;
  }
};

struct Sqrt {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return std::sqrt(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T, T y, T dy) {
    return T(0.5) * dy / y;
  }
};

struct Tanh {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return tanh(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T, T y, T dy) {
    return dy * (T(1) - y * y);
  }
};

struct Sigmoid {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return sigmoid(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T, T y, T dy) {
    return dy * (y * (T(1) - y));
  }
};

struct Softplus {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return softplus(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return dy * sigmoid(x);
  }
};

struct Relu {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return x < T(0) ? T(0) : x;  // this way round NaN passes
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return x > T(0) ? dy : T(0);
  }
};

struct Gelu {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return gelu(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return dy * gelu_derivative(x);
  }
};

struct GeluTanh {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return gelu_tanh(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return dy * gelu_tanh_derivative(x);
  }
};

// The same for results of 16 bits.
struct NarrowGelu {
  LOCKSTEP_FORMULA static float value(float x) { return narrow_gelu(x); }
  LOCKSTEP_FORMULA static float backward(float x, float, float dy) { return dy * narrow_gelu_derivative(x); }
};

struct NarrowGeluTanh {
  LOCKSTEP_FORMULA static float value(float x) { return narrow_gelu_tanh(x); }
  LOCKSTEP_FORMULA static float backward(float x, float, float dy) {
    return dy * narrow_gelu_tanh_derivative(x);
  }
};

// The formulas for results stored as S.
template <class S>
using GeluFor = std::conditional_t<sizeof(S) == 2, NarrowGelu, Gelu>;
template <class S>
using GeluTanhFor = std::conditional_t<sizeof(S) == 2, NarrowGeluTanh, GeluTanh>;

struct Abs {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return std::fabs(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return x > T(0) ? dy : (x < T(0) ? -dy : T(0));
  }
};

struct Square {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return x * x;
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return dy * (T(2) * x);
  }
};

struct Reciprocal {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return T(1) / x;
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T, T y, T dy) {
    return -dy * (y * y);
  }
};

struct Sign {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return x > T(0) ? T(1) : (x < T(0) ? T(-1) : x);  // zeros and NaN pass
  }
};

struct Erf {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return erf(x);
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return dy * (T(1.1283791670955125739) * exp_nonpositive(-(x * x)));  // 2/sqrt(pi) e^(-x^2)
  }
};

struct ReluSquared {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return x < T(0) ? T(0) : x * x;
  }
  template <class T>
  LOCKSTEP_FORMULA static T backward(T x, T, T dy) {
    return x > T(0) ? dy * (T(2) * x) : T(0);
  }
};

// True for a functor that has a derivative.
template <class Op>
inline constexpr bool kHasBackward = requires {
  Op::backward(1.0, 1.0, 1.0);
};

// Calls function with the functor of op for results stored as S.
template <class S, class F>
void visit_unary(UnaryOp op, F&& function) {
  switch (op) {
    case UnaryOp::kNegate:
      return function(Negate{});
    case UnaryOp::kExp:
      return function(Exp{});
    case UnaryOp::kLog:
      return function(Log{});
    case UnaryOp::kSqrt:
      return function(Sqrt{});
    case UnaryOp::kTanh:
      return function(Tanh{});
    case UnaryOp::kSigmoid:
      return function(Sigmoid{});
    case UnaryOp::kSoftplus:
      return function(Softplus{});
    case UnaryOp::kRelu:
      return function(Relu{});
    case UnaryOp::kGelu:
      return function(GeluFor<S>{});
    case UnaryOp::kGeluTanh:
      return function(GeluTanhFor<S>{});
    case UnaryOp::kAbs:
      return function(Abs{});
    case UnaryOp::kSquare:
      return function(Square{});
    case UnaryOp::kReciprocal:
      return function(Reciprocal{});
    case UnaryOp::kSign:
      return function(Sign{});
    case UnaryOp::kErf:
      return function(Erf{});
    case UnaryOp::kReluSquared:
      return function(ReluSquared{});
  }
}

}  // namespace lockstep::math
