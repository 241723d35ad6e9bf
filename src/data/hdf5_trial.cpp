// Reading HDF5 files that no seal vouches for in a child process first.
#include <algorithm>

#include "lockstep/data/formats.h"
#include "lockstep/hdf5/child.h"

namespace lockstep {

void try_hdf5(const DatasetOptions& options, int64_t seconds) {
  read_in_child(options.path, ErrorKind::kData, seconds, [&] {
    const Hdf5Rows rows(options);
    Dataset piece = rows.outline();
    constexpr int64_t kPieceElements = 1 << 22;
    const int64_t count =
        std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, piece.sample_shape.elements()));
    for (int64_t first = 0; first < rows.outline().size(); first += count)
      rows.read_inputs(first, std::min(count, rows.outline().size() - first), piece);
  });
}

}  // namespace lockstep
