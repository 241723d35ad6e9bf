// The optimizers' update rules, one scalar functor a formula, shared by every backend.
//
// A functor is built once a call from UpdateArguments::scalars (fp64) and then applied to each element:
// parameter p, gradient g (already multiplied by gradient_scale) and kSlots state values, all read and
// written in the array's dtype. Coefficients such as 1 - beta are formed in fp64 before they are rounded to
// the dtype. Nothing but p, g and the slots of the same element enters, so any split of an array gives the
// same bits.
//
// For every formula
//   scalars[0] learning_rate
//   scalars[1] weight_decay; "coupled": the gradient of (weight_decay/2)|p|^2 is added to g before anything
//   else.
// Unused scalars are ignored. All scalars are plain values: beta, not 1 - beta.
#pragma once

#include <cmath>

#include "kernels/math/formula.h"

namespace lockstep {

// kSgd: g += weight_decay * p;  p -= learning_rate * g. Coupled decay. No slots.
template <class T>
struct SgdUpdate {
  static constexpr int kSlots = 0;
  T learning_rate, weight_decay;

  explicit SgdUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])), weight_decay(static_cast<T>(scalars[1])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g) const {
    g = g + weight_decay * p;
    p = p - learning_rate * g;
  }
};

// kMomentumAveraged (velocity as an exponential moving average): v = beta v + (1 - beta) g;  p -=
// learning_rate * v. Coupled decay. slots[0] = v. scalars[2] = beta.
template <class T>
struct MomentumAveragedUpdate {
  static constexpr int kSlots = 1;
  T learning_rate, weight_decay, beta, one_minus_beta;

  explicit MomentumAveragedUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        beta(static_cast<T>(scalars[2])),
        one_minus_beta(static_cast<T>(1.0 - scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v) const {
    g = g + weight_decay * p;
    v = beta * v + one_minus_beta * g;
    p = p - learning_rate * v;
  }
};

// kMomentumClassical (Polyak 1964): v = mu v + (1 - dampening) g;  p -= learning_rate * v.
// Coupled decay. slots[0] = v. scalars[2] = mu, scalars[3] = dampening. Where the first velocity is to be the
// undamped gradient (PyTorch), pass dampening 0 at the first update: v is zero then.
template <class T>
struct MomentumClassicalUpdate {
  static constexpr int kSlots = 1;
  T learning_rate, weight_decay, mu, one_minus_dampening;

  explicit MomentumClassicalUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        mu(static_cast<T>(scalars[2])),
        one_minus_dampening(static_cast<T>(1.0 - scalars[3])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v) const {
    g = g + weight_decay * p;
    v = mu * v + one_minus_dampening * g;
    p = p - learning_rate * v;
  }
};

// kNesterovAveraged: p holds the look-ahead theta - learning_rate * beta * v where g was taken, slots[1] the
// saved theta. v = beta v + (1 - beta) g;  p = theta - learning_rate * v. Decay is coupled, at the
// look-ahead. slots[0] = v, slots[1] = theta (read only; the optimizer saves it before the gradient).
// scalars[2] = beta.
template <class T>
struct NesterovAveragedUpdate {
  static constexpr int kSlots = 2;
  T learning_rate, weight_decay, beta, one_minus_beta;

  explicit NesterovAveragedUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        beta(static_cast<T>(scalars[2])),
        one_minus_beta(static_cast<T>(1.0 - scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v, const T& theta) const {
    g = g + weight_decay * p;
    v = beta * v + one_minus_beta * g;
    p = theta - learning_rate * v;
  }
};

// kNesterovClassical (Sutskever et al. 2013, in the form with the gradient at p):
// v = mu v + g;  p -= learning_rate * (g + mu v). Coupled decay. slots[0] = v. scalars[2] = mu.
template <class T>
struct NesterovClassicalUpdate {
  static constexpr int kSlots = 1;
  T learning_rate, weight_decay, mu;

  explicit NesterovClassicalUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        mu(static_cast<T>(scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v) const {
    g = g + weight_decay * p;
    v = mu * v + g;
    p = p - learning_rate * (g + mu * v);
  }
};

// kAdam (Kingma and Ba 2015) and kAdamW (Loshchilov and Hutter 2019), t = number of this update, from 1:
//   kAdam: g += weight_decay * p (coupled);   kAdamW: p -= learning_rate * weight_decay * p (decoupled)
//   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
//   p -= learning_rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
// slots[0] = m, slots[1] = v. scalars[2] = beta1, [3] = beta2, [4] = epsilon,
// [5] = 1 - beta1^t, [6] = 1 - beta2^t (the two bias corrections, not their roots or inverses).
template <class T, bool kDecoupled>
struct AdamFamilyUpdate {
  static constexpr int kSlots = 2;
  T weight_decay;  // kDecoupled: the factor 1 - learning_rate * weight_decay on p
  T beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, step_size, inverse_root_correction;

  explicit AdamFamilyUpdate(const double* scalars)
      : weight_decay(static_cast<T>(kDecoupled ? 1.0 - scalars[0] * scalars[1] : scalars[1])),
        beta1(static_cast<T>(scalars[2])),
        one_minus_beta1(static_cast<T>(1.0 - scalars[2])),
        beta2(static_cast<T>(scalars[3])),
        one_minus_beta2(static_cast<T>(1.0 - scalars[3])),
        epsilon(static_cast<T>(scalars[4])),
        step_size(static_cast<T>(scalars[0] / scalars[5])),
        inverse_root_correction(static_cast<T>(1.0 / std::sqrt(scalars[6]))) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& m, T& v) const {
    if constexpr (kDecoupled) {
      p = p * weight_decay;
    } else {
      g = g + weight_decay * p;
    }
    m = beta1 * m + one_minus_beta1 * g;
    v = beta2 * v + one_minus_beta2 * (g * g);
    p = p - step_size * (m / (std::sqrt(v) * inverse_root_correction + epsilon));
  }
};

template <class T>
using AdamUpdate = AdamFamilyUpdate<T, false>;
template <class T>
using AdamWUpdate = AdamFamilyUpdate<T, true>;

}  // namespace lockstep
