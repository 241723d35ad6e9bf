// Cells of recurrent layers, one unit of one sample at one step: value and derivative, shared by every
// backend.
//
// The equations stand at RecurrentCell in kernels/backend.h; z, s, h', c' and d are its letters.
#pragma once

#include "lockstep/kernels/math/elementary.h"
#include "lockstep/kernels/math/unary.h"

namespace lockstep::math {

// Function is Tanh or Relu: h = function(z + s).
template <class Function>
struct SimpleCell {
  template <class T>
  LOCKSTEP_FORMULA static T state(T z, T s) {
    return Function::value(z + s);
  }
  // dL/dz = dL/ds from dL/dh. The functions' derivatives follow from their values alone.
  template <class T>
  LOCKSTEP_FORMULA static T derivative(T h, T dh) {
    return Function::backward(h, h, dh);
  }
};

template <class T>
struct LstmGates {
  T i, f, g, o;
};

struct LstmCell {
  // Takes z + s of each gate.
  template <class T>
  LOCKSTEP_FORMULA static LstmGates<T> gates(T i, T f, T g, T o) {
    return {sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)};
  }
  template <class T>
  LOCKSTEP_FORMULA static T memory(const LstmGates<T>& gates, T before) {
    return gates.f * before + gates.i * gates.g;
  }
  template <class T>
  LOCKSTEP_FORMULA static T state(const LstmGates<T>& gates, T c) {
    return gates.o * tanh(c);
  }
  // dL/dz of each gate from dL/dh and the part of dL/dc that comes from later steps (`carry`), which becomes
  // dL/dc'.
  template <class T>
  LOCKSTEP_FORMULA static LstmGates<T> derivative(const LstmGates<T>& gates, T c, T before, T dh, T& carry) {
    const T bent = tanh(c);
    const T dc = carry + dh * gates.o * (T(1) - bent * bent);
    carry = dc * gates.f;
    return {Sigmoid::backward(T(0), gates.i, dc * gates.g), Sigmoid::backward(T(0), gates.f, dc * before),
            Tanh::backward(T(0), gates.g, dc * gates.i), Sigmoid::backward(T(0), gates.o, dh * bent)};
  }
};

template <class T>
struct GruGates {
  T r, u, n;
};

struct GruCell {
  // Takes z + s of the reset and update gates, and z_n and memory = s_n + d of the candidate.
  template <class T>
  LOCKSTEP_FORMULA static GruGates<T> gates(T r, T u, T n, T memory) {
    const T reset = sigmoid(r);
    return {reset, sigmoid(u), tanh(n + reset * memory)};
  }
  template <class T>
  LOCKSTEP_FORMULA static T state(const GruGates<T>& gates, T before) {
    return (T(1) - gates.u) * gates.n + gates.u * before;
  }
  // dL/dz of each gate from dL/dh; dL/ds is the same but for dn times r. `carry` becomes the part of dL/dh'
  // that does not pass through s.
  template <class T>
  LOCKSTEP_FORMULA static GruGates<T> derivative(const GruGates<T>& gates, T memory, T before, T dh,
                                                 T& carry) {
    const T dn = Tanh::backward(T(0), gates.n, dh * (T(1) - gates.u));
    carry = dh * gates.u;
    return {Sigmoid::backward(T(0), gates.r, dn * memory),
            Sigmoid::backward(T(0), gates.u, dh * (before - gates.n)), dn};
  }
};

}  // namespace lockstep::math
