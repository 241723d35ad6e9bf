// The last collectives of a worker, as what a job that hangs can be understood from afterwards.
//
// They lie in memory that has a file descriptor, so that another worker of the host can read those of one
// that no longer answers, or is stopped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep {

class FlightRecorder {
 public:
  static constexpr uint64_t kEntries = 64;

  explicit FlightRecorder(int rank);
  ~FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  // Collectives count from 0, in order.
  void begin(uint64_t sequence, const char* collective, const std::string& phase, const std::string& label);
  // Bytes that this worker sends, or that a library's collective is about.
  void add_bytes(uint64_t sequence, int64_t bytes);
  void end(uint64_t sequence);
  // That the worker waits for something else, its device say, until the next collective begins.
  void wait(std::string_view place);

  // For others to open as /proc/PID/fd/NUMBER; -1: there is none.
  int descriptor() const { return descriptor_; }

  // A table: a line of column names, and a line a collective, oldest first, columns separated by tabs. A wait
  // for something else has no number and comes last.
  std::string text() const;
  // Of another worker; empty where it cannot be read.
  static std::string text_of(int pid, int descriptor, int rank);

 private:
  struct Memory;
  static std::string text(const Memory& memory);
  Memory* memory_ = nullptr;
  int descriptor_ = -1;
};

// Writes the text to `path`, or to as much of it as there is room for, in a thread of its own that is waited
// for two seconds: neither a full nor a dead disk does harm.
void write_flight(const std::string& path, std::string text);

}  // namespace lockstep
