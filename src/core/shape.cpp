// Shape arithmetic.
#include "lockstep/core/shape.h"

#include <algorithm>

#include "lockstep/core/error.h"

namespace lockstep {

Shape::Shape(std::initializer_list<int64_t> extents)
    : Shape(std::span<const int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const int64_t> extents) {
  for (int64_t extent : extents) push_back(extent);
}

void Shape::push_back(int64_t extent) {
  if (rank_ == kMaxRank) fail(ErrorKind::kUsage, "shape: more than 6 axes after " + to_string());
  if (extent < 0) fail(ErrorKind::kUsage, "shape: negative extent " + std::to_string(extent));
  extents_[static_cast<size_t>(rank_++)] = extent;
}

int64_t Shape::elements() const {
  return elements(0, rank_);
}

int64_t Shape::elements(int begin, int end) const {
  int64_t product = 1;
  for (int axis = begin; axis < end; ++axis) {
    if (__builtin_mul_overflow(product, (*this)[axis], &product)) {
      fail(ErrorKind::kUsage, "shape: " + to_string() + " has more elements than can be counted");
    }
  }
  return product;
}

std::string Shape::to_string() const {
  std::string text = "(";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ',';
    text += std::to_string((*this)[axis]);
  }
  return text + ")";
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ &&
         std::equal(extents_.begin(), extents_.begin() + rank_, other.extents_.begin());
}

int normalize_axis(int axis, int rank) {
  const int normalized = axis < 0 ? axis + rank : axis;
  if (normalized < 0 || normalized >= rank) {
    fail(ErrorKind::kUsage,
         "axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
  }
  return normalized;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, const char* where) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result;
  for (int axis = 0; axis < rank; ++axis) {
    const int ia = axis - (rank - a.rank());
    const int ib = axis - (rank - b.rank());
    const int64_t ea = ia < 0 ? 1 : a[ia];
    const int64_t eb = ib < 0 ? 1 : b[ib];
    if (ea != eb && ea != 1 && eb != 1) {
      fail(ErrorKind::kUsage,
           std::string(where) + ": shapes do not broadcast: " + a.to_string() + " with " + b.to_string());
    }
    result.push_back(ea == 1 ? eb : ea);
  }
  return result;
}

}  // namespace lockstep
