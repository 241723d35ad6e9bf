// What the fuzz targets share: files of given bytes, and which answers of a reader are right.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "lockstep/core/error.h"

namespace lockstep::fuzz {

[[noreturn]] inline void wrong(const std::string& what) {
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::abort();
}

// A directory in memory, gone with the process where that ends in order.
class Directory {
 public:
  Directory() : path_("/dev/shm/lockstep_fuzz_" + std::to_string(::getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  std::string path_of(const std::string& name) const { return path_ + "/" + name; }
  // The path of a file that holds these bytes.
  std::string write(const std::string& name, std::string_view bytes) const {
    const std::string path = path_of(name);
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) wrong(path + " cannot be written");
    return path;
  }
  void remove(const std::string& name) const { std::filesystem::remove(path_of(name)); }

 private:
  std::string path_;
};

// The input piece by piece.
class Input {
 public:
  Input(const uint8_t* bytes, size_t count) : rest_(reinterpret_cast<const char*>(bytes), count) {}
  uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = static_cast<uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return value;
  }
  bool flag() { return (byte() & 1) != 0; }
  // Up to the separator, or the end: of texts that are mutated on both sides of it.
  std::string_view until(std::string_view separator) {
    const size_t end = rest_.find(separator);
    const std::string_view part = rest_.substr(0, end);
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + separator.size());
    return part;
  }
  std::string_view take(size_t count) {
    const std::string_view part = rest_.substr(0, count);
    rest_.remove_prefix(part.size());
    return part;
  }
  std::string_view rest() const { return rest_; }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

// Calls a reader. A refusal is a right answer unless it is the program's own mistake or more than a line;
// whatever else is thrown ends the process. Returns whether the reader took the file.
template <class Read>
bool accepts(Read&& read) {
  try {
    read();
    return true;
  } catch (const Error& error) {
    const std::string_view message = error.what();
    if (error.kind() == ErrorKind::kInternal) wrong("internal error: " + std::string(message));
    if (message.empty() || message.find('\n') != std::string_view::npos)
      wrong("not one line: " + std::string(message));
    return false;
  }
}

}  // namespace lockstep::fuzz
