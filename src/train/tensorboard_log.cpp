// Encoding events.
#include "lockstep/train/tensorboard_log.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "lockstep/comm/deadline.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/train/worker_texts.h"

namespace lockstep {

namespace {

// Fields of protocol buffers: a varint of (number << 3 | wire type), then the value, little-endian.
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

template <class T>
void put_fixed(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_double(std::string& out, uint32_t field, double value) {
  put_varint(out, field << 3 | 1);
  put_fixed(out, value);
}

void put_float(std::string& out, uint32_t field, float value) {
  put_varint(out, field << 3 | 5);
  put_fixed(out, value);
}

void put_integer(std::string& out, uint32_t field, int64_t value) {
  if (value == 0) return;  // the default
  put_varint(out, field << 3);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_bytes(std::string& out, uint32_t field, const std::string& bytes) {
  put_varint(out, field << 3 | 2);
  put_varint(out, bytes.size());
  out += bytes;
}

uint32_t masked_crc(std::span<const char> bytes) {
  const uint32_t crc = crc32c(bytes);
  return std::rotr(crc, 15) + 0xa282ead8u;
}

// tensorflow.Event: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7.
std::string event_at(double time, int64_t step) {
  std::string event;
  put_double(event, 1, time);
  put_integer(event, 2, step);
  return event;
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string file_name(double time) {
  // In the order of names files are read.
  return fmt::format("events.out.tfevents.{:010.0f}.{}.{}", time, host_name(), ::getpid());
}

}  // namespace

uint32_t crc32c(std::span<const char> bytes) {
  static const auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
      table[i] = crc;
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  return ~crc;
}

TensorBoardLog::TensorBoardLog(const std::string& directory, int64_t step, std::function<double()> clock)
    : clock_(clock ? std::move(clock) : seconds_now),
      path_(directory + "/" + file_name(clock_())),
      file_(path_, ErrorKind::kUsage) {
  std::string version = event_at(clock_(), 0);
  put_bytes(version, 3, "brain.Event:2");
  append(version);
  std::string start = event_at(clock_(), step + 1), session;
  put_integer(session, 1, 1);  // SessionLog.status = START
  put_bytes(start, 7, session);
  append(start);
  flush();
}

TensorBoardLog::~TensorBoardLog() {
  flush();
}

void TensorBoardLog::add(int64_t step, Scalars scalars) {
  std::string event = event_at(clock_(), step), summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;  // Summary.Value: tag = 1, simple_value = 2
    put_bytes(value, 1, tag);
    put_float(value, 2, static_cast<float>(number));
    put_bytes(summary, 1, value);
  }
  put_bytes(event, 5, summary);
  append(event);
  if (clock_() - last_flush_ > 2.0) flush();
}

// Length, its checksum, the message, its checksum.
void TensorBoardLog::append(const std::string& event) {
  std::string length;
  put_fixed(length, uint64_t{event.size()});
  waiting_ += length;
  put_fixed(waiting_, masked_crc(length));
  waiting_ += event;
  put_fixed(waiting_, masked_crc(event));
}

// Readers stop at half a record, for good: there is none.
void TensorBoardLog::flush() {
  last_flush_ = clock_();
  struct stat before {};
  if (waiting_.empty() || ::fstat(file_.descriptor(), &before) != 0) return;
  const bool whole = file_.append(waiting_.data(), waiting_.size()) == waiting_.size();
  const int error = errno;
  if (!whole && ::ftruncate(file_.descriptor(), before.st_size) != 0) {
    // Half a record is the end of this file.
  }
  waiting_.clear();
  if (whole || warned_) return;
  warned_ = true;
  log_warning(fmt::format("{}: cannot be written: {}; the run goes on, and these lines are missing there",
                          path_, std::strerror(error)));
}

}  // namespace lockstep
