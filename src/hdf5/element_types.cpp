// Types of elements.
#include "hdf5/element_types.h"

#include <array>
#include <bit>

namespace lockstep {

namespace {

static_assert(std::endian::native == std::endian::little,
              "files and memory share the same little-endian types");

// IEEE binary16: sign at bit 15, exponent of 5 bits at 10, fraction of 10 bits at 0.
constexpr std::array<size_t, 5> kHalfFields = {15, 10, 5, 0, 10};

}  // namespace

Handle storage_type(DType dtype) {
  const auto copy = [](hid_t type) { return Handle(H5Tcopy(type), H5Tclose); };
  switch (dtype) {
    case DType::kF32:
      return copy(H5T_IEEE_F32LE);
    case DType::kF64:
      return copy(H5T_IEEE_F64LE);
    case DType::kBF16:
      return copy(H5T_STD_U16LE);
    case DType::kF16: {
      Handle half = copy(H5T_IEEE_F32LE);
      const auto& [sign, exponent, exponent_bits, fraction, fraction_bits] = kHalfFields;
      const bool ok = H5Tset_fields(half, sign, exponent, exponent_bits, fraction, fraction_bits) >= 0 &&
                      H5Tset_size(half, 2) >= 0 && H5Tset_ebias(half, 15) >= 0;
      return ok ? std::move(half) : Handle(-1, H5Tclose);
    }
    case DType::kI32:
      return copy(H5T_STD_I32LE);
    case DType::kI64:
      return copy(H5T_STD_I64LE);
    case DType::kU8:
      return copy(H5T_STD_U8LE);
  }
  return {-1, H5Tclose};
}

Handle unsigned_type(int bytes) {
  const hid_t type = bytes == 1   ? H5T_STD_U8LE
                     : bytes == 2 ? H5T_STD_U16LE
                     : bytes == 4 ? H5T_STD_U32LE
                                  : H5T_STD_U64LE;
  return {H5Tcopy(type), H5Tclose};
}

Handle text_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  if (type.valid() && (H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
    return {-1, H5Tclose};
  }
  return type;
}

std::optional<DType> dtype_of_type(hid_t type) {
  const size_t size = H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_FLOAT: {
      std::array<size_t, 5> fields{};
      H5Tget_fields(type, &fields[0], &fields[1], &fields[2], &fields[3], &fields[4]);
      if (fields == kHalfFields) return DType::kF16;
      if (size <= 4) return DType::kF32;
      if (size <= 8) return DType::kF64;
      return std::nullopt;
    }
    case H5T_INTEGER: {
      const bool is_signed = H5Tget_sign(type) == H5T_SGN_2;
      if (size == 1 && !is_signed) return DType::kU8;
      if (size < 4 || (size == 4 && is_signed)) return DType::kI32;
      if (size <= 8) return DType::kI64;
      return std::nullopt;
    }
    case H5T_ENUM: {
      const Handle base(H5Tget_super(type), H5Tclose);
      return base.valid() ? dtype_of_type(base) : std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace lockstep
