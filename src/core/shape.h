// The extents of a tensor, stored inline (no allocation), row-major.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace lockstep {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);
  explicit Shape(std::span<const int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[static_cast<size_t>(axis)]; }
  int64_t& operator[](int axis) { return extents_[static_cast<size_t>(axis)]; }
  int64_t last() const { return rank_ == 0 ? 1 : extents_[static_cast<size_t>(rank_ - 1)]; }

  // What rows along the last axis there are: the elements of the other axes.
  int64_t rows() const { return rank_ == 0 ? 1 : elements(0, rank_ - 1); }

  // Number of elements; 1 for rank 0.
  int64_t elements() const;
  // Product of the extents of axes [begin, end).
  int64_t elements(int begin, int end) const;

  void push_back(int64_t extent);
  // "(64,128)"
  std::string to_string() const;

  std::span<const int64_t> extents() const { return {extents_.data(), static_cast<size_t>(rank_)}; }
  bool operator==(const Shape& other) const;

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

// a / b, rounded up: parts of b that a is divided into, the last one perhaps shorter.
constexpr int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The axis counted from the front: -1 means the last. Error (kUsage) when it is out of range.
int normalize_axis(int axis, int rank);

// The shape of an elementwise operation on a and b (NumPy rule: align at the end, extents equal or 1).
// Error naming `where` and both shapes when they do not fit.
Shape broadcast_shapes(const Shape& a, const Shape& b, const char* where);

}  // namespace lockstep
