// Inputs that are infinite in fp16, found where micro-batches are gathered: looking for them beforehand would
// read all of a file that is larger than the memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/dtype.h"
#include "lockstep/data/loader.h"

namespace lockstep {

class OverflowCheck {
 public:
  // The source must outlive the object. Looks at nothing unless the model computes in fp16 and the source's
  // features may be beyond it.
  OverflowCheck(const DataSource& source, DType compute);

  // At a micro-batch of the source; row_of(i): the row of its i-th sample. Keeps the first find.
  void look(const MicroBatch& batch, const std::function<int64_t(int64_t sample)>& row_of);
  // What this worker has found, naming file, row, column and value, until it is told; "": nothing.
  const std::string& found() const { return found_; }
  // Once for all: rank 0 warns of what the lowest rank with a find has. Collective, on the same terms for
  // all.
  void tell(Communicator& communicator);

 private:
  const DataSource& source_;
  bool looks_;
  std::string found_;
};

}  // namespace lockstep
