// Elementwise operations of two arguments, shared by every backend.
#pragma once

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/math/formula.h"

namespace lockstep::math {

struct Add {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return a + b;
  }
};

struct Subtract {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return a - b;
  }
};

struct Multiply {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return a * b;
  }
};

struct Divide {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return a / b;
  }
};

// NaN in either operand gives NaN; equal operands give a.
struct Maximum {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return !(a < b) && b == b ? a : b;
  }
};

struct Minimum {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return !(b < a) && b == b ? a : b;
  }
};

struct Equal {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return a == b ? T(1) : T(0);
  }
};

struct Greater {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return a > b ? T(1) : T(0);
  }
};

struct GreaterEqual {
  template <class T>
  LOCKSTEP_FORMULA static T value(T a, T b) {
    return a >= b ? T(1) : T(0);
  }
};

// Calls function with the functor of op.
template <class F>
void visit_binary(BinaryOp op, F&& function) {
  switch (op) {
    case BinaryOp::kAdd:
      return function(Add{});
    case BinaryOp::kSubtract:
      return function(Subtract{});
    case BinaryOp::kMultiply:
      return function(Multiply{});
    case BinaryOp::kDivide:
      return function(Divide{});
    case BinaryOp::kMaximum:
      return function(Maximum{});
    case BinaryOp::kMinimum:
      return function(Minimum{});
    case BinaryOp::kEqual:
      return function(Equal{});
    case BinaryOp::kGreater:
      return function(Greater{});
    case BinaryOp::kGreaterEqual:
      return function(GreaterEqual{});
  }
}

}  // namespace lockstep::math
