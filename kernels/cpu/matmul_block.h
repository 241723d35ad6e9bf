// The matrix product on one thread, which matrix products and convolutions are made of.
#pragma once

#include <cstdint>

#include "lockstep/kernels/backend.h"

namespace lockstep {

// c (m,n) = op(a) op(b), rows of c lie ldc elements apart. a is (m,k) with rows lda apart, or (k,m) when
// transposed; b is (k,n) with rows ldb apart, or (n,k) when transposed.
template <class In, class Out = In>
struct Product {
  int64_t m = 0, n = 0, k = 0;
  const In* a = nullptr;
  int64_t lda = 0;
  bool transpose_a = false;
  const In* b = nullptr;
  int64_t ldb = 0;
  bool transpose_b = false;
  Out* c = nullptr;
  int64_t ldc = 0;
  bool accumulate = false;                 // added to what c holds; only where sums are not rounded
  const Accumulation<In>* bias = nullptr;  // (n), added to every row; may be null
  Activation activation = Activation::kNone;
};

// Element (i,j) is summed over k alone, in an order that depends on k alone: products with fused multiply-add
// over a block of k from zero, blocks one after the other, then the bias, then the activation. So any cut of
// c into parts gives the same bits, and neither the other rows of a (the batch), nor threads, nor where the
// arrays lie can change an element. (Of a NaN only that it is one.)
//
// 16-bit operands: bf16 goes through the processor's units for it, two elements of k at a time, where there
// are any; else they are multiplied as float. Sums are float; a 16-bit result is rounded once, at the end. In
// and Out: the same floating type, or a 16-bit one and float.
template <class In, class Out>
void multiply(const Product<In, Out>& product);

// Elements of k in a block.
template <class In>
int64_t block_of_sums(int64_t k);

}  // namespace lockstep
