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
//
// Moving averages (m, v, u, a, b, and p of kRunning) that have left the normal numbers are set to zero:
// settled().
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/math/formula.h"

namespace lockstep {

// A moving average; zero where it is subnormal. Left to itself it would stay so, since 0.9 of the smallest
// number rounds to that number; and a processor may take a hundred times as long for numbers so small, which
// the moments of whatever gets no gradients any more become within some 800 updates.
template <class T>
LOCKSTEP_FORMULA T settled(T average) {
  return std::abs(average) < std::numeric_limits<T>::min() ? T{0} : average;
}

// kSgd: g += weight_decay * p;  p -= learning_rate * g. Coupled decay. No slots.
template <class T>
struct SgdUpdate {
  static constexpr int kSlots = 0;
  T learning_rate, weight_decay;

  LOCKSTEP_FORMULA explicit SgdUpdate(const double* scalars)
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

  LOCKSTEP_FORMULA explicit MomentumAveragedUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        beta(static_cast<T>(scalars[2])),
        one_minus_beta(static_cast<T>(1.0 - scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v) const {
    g = g + weight_decay * p;
    v = settled(beta * v + one_minus_beta * g);
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

  LOCKSTEP_FORMULA explicit MomentumClassicalUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        mu(static_cast<T>(scalars[2])),
        one_minus_dampening(static_cast<T>(1.0 - scalars[3])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v) const {
    g = g + weight_decay * p;
    v = settled(mu * v + one_minus_dampening * g);
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

  LOCKSTEP_FORMULA explicit NesterovAveragedUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        beta(static_cast<T>(scalars[2])),
        one_minus_beta(static_cast<T>(1.0 - scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v, const T& theta) const {
    g = g + weight_decay * p;
    v = settled(beta * v + one_minus_beta * g);
    p = theta - learning_rate * v;
  }
};

// kNesterovClassical (Sutskever et al. 2013, in the form with the gradient at p):
// v = mu v + g;  p -= learning_rate * (g + mu v). Coupled decay. slots[0] = v. scalars[2] = mu.
template <class T>
struct NesterovClassicalUpdate {
  static constexpr int kSlots = 1;
  T learning_rate, weight_decay, mu;

  LOCKSTEP_FORMULA explicit NesterovClassicalUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        mu(static_cast<T>(scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v) const {
    g = g + weight_decay * p;
    v = settled(mu * v + g);
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

  LOCKSTEP_FORMULA explicit AdamFamilyUpdate(const double* scalars)
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
    m = settled(beta1 * m + one_minus_beta1 * g);
    v = settled(beta2 * v + one_minus_beta2 * (g * g));
    p = p - step_size * (m / (std::sqrt(v) * inverse_root_correction + epsilon));
  }
};

template <class T>
using AdamUpdate = AdamFamilyUpdate<T, false>;
template <class T>
using AdamWUpdate = AdamFamilyUpdate<T, true>;

// kAmsGrad and kAmsGradW (Reddi, Kale and Kumar 2018): kAdam and kAdamW with the largest v so far, before its
// bias correction, in the denominator: w = max(w, v);  p -= ... m / (sqrt(w) / sqrt(1 - beta2^t) + epsilon).
// slots[2] = w; slots and scalars else as there.
template <class T, bool kDecoupled>
struct AmsGradFamilyUpdate {
  static constexpr int kSlots = 3;
  AdamFamilyUpdate<T, kDecoupled> adam;

  LOCKSTEP_FORMULA explicit AmsGradFamilyUpdate(const double* scalars) : adam(scalars) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& m, T& v, T& w) const {
    if constexpr (kDecoupled) {
      p = p * adam.weight_decay;
    } else {
      g = g + adam.weight_decay * p;
    }
    m = settled(adam.beta1 * m + adam.one_minus_beta1 * g);
    v = settled(adam.beta2 * v + adam.one_minus_beta2 * (g * g));
    w = v > w ? v : w;
    p = p - adam.step_size * (m / (std::sqrt(w) * adam.inverse_root_correction + adam.epsilon));
  }
};

template <class T>
using AmsGradUpdate = AmsGradFamilyUpdate<T, false>;
template <class T>
using AmsGradWUpdate = AmsGradFamilyUpdate<T, true>;

// kNAdam (Dozat 2016): g += weight_decay * p (coupled);
//   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
//   p -= learning_rate (a g + b m) / (sqrt(v / (1 - beta2^t)) + epsilon)
// slots[0] = m, slots[1] = v. scalars[2] = beta1, [3] = beta2, [4] = epsilon, [5] = a, the share of the
// gradient, [6] = b, the share of the moment (both with their bias corrections), [7] = 1 - beta2^t.
template <class T>
struct NAdamUpdate {
  static constexpr int kSlots = 2;
  T weight_decay, beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, gradient_step, moment_step;
  T inverse_root_correction;

  LOCKSTEP_FORMULA explicit NAdamUpdate(const double* scalars)
      : weight_decay(static_cast<T>(scalars[1])),
        beta1(static_cast<T>(scalars[2])),
        one_minus_beta1(static_cast<T>(1.0 - scalars[2])),
        beta2(static_cast<T>(scalars[3])),
        one_minus_beta2(static_cast<T>(1.0 - scalars[3])),
        epsilon(static_cast<T>(scalars[4])),
        gradient_step(static_cast<T>(scalars[0] * scalars[5])),
        moment_step(static_cast<T>(scalars[0] * scalars[6])),
        inverse_root_correction(static_cast<T>(1.0 / std::sqrt(scalars[7]))) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& m, T& v) const {
    g = g + weight_decay * p;
    m = settled(beta1 * m + one_minus_beta1 * g);
    v = settled(beta2 * v + one_minus_beta2 * (g * g));
    p = p - (gradient_step * g + moment_step * m) / (std::sqrt(v) * inverse_root_correction + epsilon);
  }
};

// kLambDirection (You et al. 2020): Adam's direction, for a step whose length the norms of p and r decide.
//   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
//   r = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay * p;   p stays
// slots[0] = m, slots[1] = v, slots[2] = r (written only). scalars[2] to [6] as for kAdam; learning_rate
// unused.
template <class T>
struct LambDirectionUpdate {
  static constexpr int kSlots = 3;
  T weight_decay, beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, inverse_correction,
      inverse_root_correction;

  LOCKSTEP_FORMULA explicit LambDirectionUpdate(const double* scalars)
      : weight_decay(static_cast<T>(scalars[1])),
        beta1(static_cast<T>(scalars[2])),
        one_minus_beta1(static_cast<T>(1.0 - scalars[2])),
        beta2(static_cast<T>(scalars[3])),
        one_minus_beta2(static_cast<T>(1.0 - scalars[3])),
        epsilon(static_cast<T>(scalars[4])),
        inverse_correction(static_cast<T>(1.0 / scalars[5])),
        inverse_root_correction(static_cast<T>(1.0 / std::sqrt(scalars[6]))) {}

  LOCKSTEP_FORMULA void operator()(const T& p, T g, T& m, T& v, T& r) const {
    m = settled(beta1 * m + one_minus_beta1 * g);
    v = settled(beta2 * v + one_minus_beta2 * (g * g));
    r = inverse_correction * m / (std::sqrt(v) * inverse_root_correction + epsilon) + weight_decay * p;
  }
};

// kAdagrad (Duchi, Hazan and Singer 2011): s += g^2;  p -= learning_rate * g / (sqrt(s) + epsilon).
// Coupled decay. slots[0] = s. scalars[2] = epsilon.
template <class T>
struct AdagradUpdate {
  static constexpr int kSlots = 1;
  T learning_rate, weight_decay, epsilon;

  LOCKSTEP_FORMULA explicit AdagradUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        epsilon(static_cast<T>(scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& s) const {
    g = g + weight_decay * p;
    s = s + g * g;
    p = p - learning_rate * (g / (std::sqrt(s) + epsilon));
  }
};

// kRmsProp (Tieleman and Hinton 2012): v = rho v + (1 - rho) g^2;  p -= learning_rate * g / (sqrt(v) +
// epsilon). kRmsPropCentered (Graves 2013): also u = rho u + (1 - rho) g, and v - u^2, the variance, in place
// of v. Coupled decay. slots[0] = v, slots[1] = u. scalars[2] = rho, scalars[3] = epsilon.
template <class T>
struct RmsPropUpdate {
  static constexpr int kSlots = 1;
  T learning_rate, weight_decay, rho, one_minus_rho, epsilon;

  LOCKSTEP_FORMULA explicit RmsPropUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        rho(static_cast<T>(scalars[2])),
        one_minus_rho(static_cast<T>(1.0 - scalars[2])),
        epsilon(static_cast<T>(scalars[3])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v) const {
    g = g + weight_decay * p;
    v = settled(rho * v + one_minus_rho * (g * g));
    p = p - learning_rate * (g / (std::sqrt(v) + epsilon));
  }
};

template <class T>
struct RmsPropCenteredUpdate {
  static constexpr int kSlots = 2;
  RmsPropUpdate<T> plain;

  LOCKSTEP_FORMULA explicit RmsPropCenteredUpdate(const double* scalars) : plain(scalars) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& v, T& u) const {
    g = g + plain.weight_decay * p;
    v = settled(plain.rho * v + plain.one_minus_rho * (g * g));
    u = settled(plain.rho * u + plain.one_minus_rho * g);
    const T variance = v - u * u;  // rounding can push it below 0 where all gradients were alike
    p = p - plain.learning_rate * (g / (std::sqrt(variance > T{0} ? variance : T{0}) + plain.epsilon));
  }
};

// kLion (Chen et al. 2023): p -= learning_rate * (sign(beta1 m + (1 - beta1) g) + weight_decay * p);
// m = beta2 m + (1 - beta2) g. Decoupled decay. slots[0] = m. scalars[2] = beta1, scalars[3] = beta2.
template <class T>
struct LionUpdate {
  static constexpr int kSlots = 1;
  T learning_rate, kept, beta1, one_minus_beta1, beta2, one_minus_beta2;

  LOCKSTEP_FORMULA explicit LionUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        kept(static_cast<T>(1.0 - scalars[0] * scalars[1])),
        beta1(static_cast<T>(scalars[2])),
        one_minus_beta1(static_cast<T>(1.0 - scalars[2])),
        beta2(static_cast<T>(scalars[3])),
        one_minus_beta2(static_cast<T>(1.0 - scalars[3])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& m) const {
    const T u = beta1 * m + one_minus_beta1 * g;
    const T direction = u > T{0} ? T{1} : (u < T{0} ? T{-1} : T{0});
    p = kept * p - learning_rate * direction;
    m = settled(beta2 * m + one_minus_beta2 * g);
  }
};

// kDiagonal: with s and y the changes of p and g since the update before,
//   a = beta a + (1 - beta) s y;  b = beta b + (1 - beta) s^2;  h = max(|a| / b, smallest), or initial where
//   b is 0; p -= learning_rate * g / h.
// Coupled decay. slots[0], slots[1] = p and g of the update before, slots[2] = a, slots[3] = b. scalars[2] =
// beta, scalars[3] = initial, scalars[4] = smallest, scalars[5] = 0 at the first update, which has none
// before it, else 1.
template <class T>
struct DiagonalUpdate {
  static constexpr int kSlots = 4;
  T learning_rate, weight_decay, beta, one_minus_beta, initial, smallest, counts;

  LOCKSTEP_FORMULA explicit DiagonalUpdate(const double* scalars)
      : learning_rate(static_cast<T>(scalars[0])),
        weight_decay(static_cast<T>(scalars[1])),
        beta(static_cast<T>(scalars[2])),
        one_minus_beta(static_cast<T>(1.0 - scalars[2])),
        initial(static_cast<T>(scalars[3])),
        smallest(static_cast<T>(scalars[4])),
        counts(static_cast<T>(scalars[5])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g, T& previous_p, T& previous_g, T& a, T& b) const {
    g = g + weight_decay * p;
    const T s = counts * (p - previous_p), y = g - previous_g;
    a = settled(beta * a + one_minus_beta * (s * y));
    b = settled(beta * b + one_minus_beta * (s * s));
    const T slope = std::abs(a) / (b > T{0} ? b : T{1});
    const T h = b > T{0} ? (slope > smallest ? slope : smallest) : initial;
    previous_p = p;
    previous_g = g;
    p = p - learning_rate * (g / h);
  }
};

// kApproach: p += share (g - p), so that p becomes g itself with share 1 and stays with share 0: an average
// of what g is over time. scalars[2] = share. No slots, no decay.
template <class T>
struct ApproachUpdate {
  static constexpr int kSlots = 0;
  T share;

  LOCKSTEP_FORMULA explicit ApproachUpdate(const double* scalars) : share(static_cast<T>(scalars[2])) {}
  LOCKSTEP_FORMULA bool idle() const { return share == T{0}; }

  LOCKSTEP_FORMULA void operator()(T& p, T g) const {
    const T nearer = p + share * (g - p);
    p = share == T{0} ? p : share == T{1} ? g : nearer;
  }
};

// kRunning: p = (1 - momentum) p + g, a running statistic of which gradient_scale brings the momentum's
// share. scalars[2] = momentum. No slots, no decay.
template <class T>
struct RunningUpdate {
  static constexpr int kSlots = 0;
  T kept;

  LOCKSTEP_FORMULA explicit RunningUpdate(const double* scalars) : kept(static_cast<T>(1.0 - scalars[2])) {}

  LOCKSTEP_FORMULA void operator()(T& p, T g) const { p = settled(kept * p + g); }
};

// Whether the numbers of an update may be such that nothing changes, as its idle() says then: no element need
// be read.
template <class Update>
inline constexpr bool kMayIdle = requires(const Update& update) {
  update.idle();
};
template <class Update>
LOCKSTEP_FORMULA bool is_idle(const Update& update) {
  if constexpr (kMayIdle<Update>) return update.idle();
  return false;
}

// Calls function with std::type_identity of the functor of formula.
template <class T, class F>
void visit_update(UpdateFormula formula, F&& function) {
  switch (formula) {
    case UpdateFormula::kSgd:
      return function(std::type_identity<SgdUpdate<T>>{});
    case UpdateFormula::kMomentumAveraged:
      return function(std::type_identity<MomentumAveragedUpdate<T>>{});
    case UpdateFormula::kMomentumClassical:
      return function(std::type_identity<MomentumClassicalUpdate<T>>{});
    case UpdateFormula::kNesterovAveraged:
      return function(std::type_identity<NesterovAveragedUpdate<T>>{});
    case UpdateFormula::kNesterovClassical:
      return function(std::type_identity<NesterovClassicalUpdate<T>>{});
    case UpdateFormula::kAdam:
      return function(std::type_identity<AdamUpdate<T>>{});
    case UpdateFormula::kAdamW:
      return function(std::type_identity<AdamWUpdate<T>>{});
    case UpdateFormula::kAdagrad:
      return function(std::type_identity<AdagradUpdate<T>>{});
    case UpdateFormula::kRmsProp:
      return function(std::type_identity<RmsPropUpdate<T>>{});
    case UpdateFormula::kRmsPropCentered:
      return function(std::type_identity<RmsPropCenteredUpdate<T>>{});
    case UpdateFormula::kAmsGrad:
      return function(std::type_identity<AmsGradUpdate<T>>{});
    case UpdateFormula::kAmsGradW:
      return function(std::type_identity<AmsGradWUpdate<T>>{});
    case UpdateFormula::kNAdam:
      return function(std::type_identity<NAdamUpdate<T>>{});
    case UpdateFormula::kLion:
      return function(std::type_identity<LionUpdate<T>>{});
    case UpdateFormula::kLambDirection:
      return function(std::type_identity<LambDirectionUpdate<T>>{});
    case UpdateFormula::kDiagonal:
      return function(std::type_identity<DiagonalUpdate<T>>{});
    case UpdateFormula::kRunning:
      return function(std::type_identity<RunningUpdate<T>>{});
    case UpdateFormula::kApproach:
      return function(std::type_identity<ApproachUpdate<T>>{});
  }
}

}  // namespace lockstep
