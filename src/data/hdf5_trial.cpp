// Reading HDF5 files that no seal vouches for in a child process first.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/data/formats.h"
#include "lockstep/hdf5/child.h"

namespace lockstep {

bool try_hdf5(const DatasetOptions& options, const DatasetTrial& trial) {
  const auto read_all = [&]() -> std::string {
    DatasetOptions narrow = options;
    narrow.narrow = true;
    const Hdf5Rows rows(narrow);
    Dataset piece = rows.outline();
    const int64_t each = std::max<int64_t>(1, piece.sample_shape.elements()), all = rows.outline().size();
    if (trial.whole && !rows.inputs_offset()) {
      // What memory has no room for is not unpacked, which may take long.
      try {
        require_memory(options.path, all * each * static_cast<int64_t>(size_of(piece.input_dtype)));
      } catch (const Error& error) {
        return error.what();
      }
    }
    constexpr int64_t kPieceElements = 1 << 22;
    const int64_t count = std::max<int64_t>(1, kPieceElements / each);
    for (int64_t first = 0; first < all; first += count)
      rows.read_inputs(first, std::min(count, all - first), piece);
    return "";
  };
  const ChildReading read =
      read_in_child(options.path, ErrorKind::kData, trial.seconds, read_all, trial.gives_up);
  if (read == ChildReading::kNotStarted)
    fail(ErrorKind::kData, fmt::format("{}: cannot start a process: {}", options.path, std::strerror(errno)));
  return read == ChildReading::kDone;
}

}  // namespace lockstep
