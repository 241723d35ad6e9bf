// Event files that TensorBoard reads: records with a masked CRC-32C (TFRecord) around messages of
// tensorflow.Event, of which this writes what scalars need. A failure is a warning, once.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "lockstep/core/output_file.h"

namespace lockstep {

// CRC-32C (Castagnoli), reflected polynomial 0x82F63B78.
uint32_t crc32c(std::span<const char> bytes);

class TensorBoardLog {
 public:
  using Scalars = std::span<const std::pair<const char*, double>>;  // (tag, value), as fp32 in the file

  // A new file in the directory. Steps behind `step`, which earlier files may tell of, are void: TensorBoard
  // drops them (a start of a session). clock: seconds since 1970.
  TensorBoardLog(const std::string& directory, int64_t step, std::function<double()> clock = {});
  ~TensorBoardLog();  // writes what is left, if it can
  TensorBoardLog(const TensorBoardLog&) = delete;
  TensorBoardLog& operator=(const TensorBoardLog&) = delete;

  void add(int64_t step, Scalars scalars);
  // What has come since to the file, if it can be: whole records.
  void flush();
  const std::string& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::function<double()> clock_;
  std::string path_;
  std::string waiting_;
  OutputFile file_;
  bool warned_ = false;
  double last_flush_ = 0.0;
};

}  // namespace lockstep
