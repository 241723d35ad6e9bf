// A checkpoint on its way into the directory of another host, part by part: the sealed file as it is, and
// behind it what metrics.jsonl has gained.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/output_file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

// What is told before the first part; travels as bytes.
struct TransferOutline {
  int64_t step = -1, best = -1;                // of the file; of the best checkpoint of its run so far
  int64_t bytes = 0;                           // of the file
  int64_t metrics_begin = 0, metrics_end = 0;  // what of metrics.jsonl travels along
  std::array<char, kSealBytes> seal{};         // the beginning of the file: which one it is

  int64_t total() const { return bytes + metrics_end - metrics_begin; }
  // Bytes of each part but the last. Files of any size travel in about as many, so that a step that carries
  // one is delayed by about the same share of what it exchanges anyway.
  int64_t part() const;
};

// Whether the file at `path` is the one of the outline; what it holds behind its seal is not looked at.
bool is_file_of(const TransferOutline& outline, const std::string& path);

class OutgoingCheckpoint {
 public:
  // metrics: the path of the lines, of which [begin, end) travel along; none where the file has not that
  // many. Error (kCheckpoint). The file may be removed meanwhile.
  OutgoingCheckpoint(const std::string& path, int64_t step, int64_t best, const std::string& metrics,
                     int64_t begin, int64_t end);
  ~OutgoingCheckpoint();
  OutgoingCheckpoint(const OutgoingCheckpoint&) = delete;
  OutgoingCheckpoint& operator=(const OutgoingCheckpoint&) = delete;

  const TransferOutline& outline() const { return outline_; }
  // Bytes of the next part; 0: there is none.
  int64_t next_bytes() const;
  // Reads it. Error (kCheckpoint).
  std::vector<std::byte> next();

 private:
  std::string path_;
  TransferOutline outline_;
  int file_ = -1, metrics_ = -1;
  int64_t done_ = 0;
};

class IncomingCheckpoint {
 public:
  // Begins a file that is to stand at `path`, under the name of one under way (temporary_path), which goes
  // with the object. metrics: where its lines go. Errors here and below are kCheckpoint and name the file.
  IncomingCheckpoint(const TransferOutline& outline, std::string path, std::string metrics);
  ~IncomingCheckpoint();
  IncomingCheckpoint(const IncomingCheckpoint&) = delete;
  IncomingCheckpoint& operator=(const IncomingCheckpoint&) = delete;

  const TransferOutline& outline() const { return outline_; }
  int64_t next_bytes() const;
  void add(std::span<const std::byte> part);
  // When all parts are there: puts the lines behind those that there are, verifies the seal and gives the
  // file its name. Lines that cannot be written are a warning. Returns the bytes of metrics.jsonl that are
  // the sender's.
  int64_t place();

 private:
  bool place_metrics();

  TransferOutline outline_;
  std::string path_, metrics_, temporary_;
  std::optional<OutputFile> file_;
  int64_t done_ = 0;
};

}  // namespace lockstep
