// The matrix product on one thread, which matrix products and convolutions are made of.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace lockstep {

// c (m,n) = op(a) op(b), rows of c lie ldc elements apart. a is (m,k) with rows lda apart, or (k,m) when
// transposed; b is (k,n) with rows ldb apart, or (n,k) when transposed.
template <class T>
struct Product {
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t lda = 0;
  bool transpose_a = false;
  const T* b = nullptr;
  int64_t ldb = 0;
  bool transpose_b = false;
  T* c = nullptr;
  int64_t ldc = 0;
  bool accumulate = false;  // c += instead of c =
  const T* bias = nullptr;  // (n), added to every row; may be null
  Activation activation = Activation::kNone;
};

// Element (i,j) is summed over k alone, in an order that depends on k alone: products with fused multiply-add
// over a block of k from zero, blocks one after the other, then the bias, then the activation. So any cut of
// c into parts gives the same bits, and neither the other rows of a (the batch), nor threads, nor where the
// arrays lie can change an element.
template <class T>
void multiply(const Product<T>& product);

}  // namespace lockstep
