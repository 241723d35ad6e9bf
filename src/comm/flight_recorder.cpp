// A ring of entries in memory that others can open.
#include "lockstep/comm/flight_recorder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <ctime>
#include <future>
#include <memory>
#include <new>
#include <string_view>
#include <thread>
#include <utility>

namespace lockstep {

namespace {

constexpr uint64_t kMagic = 0x6c6f636b666c6967;

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

template <size_t N>
void copy_text(std::array<char, N>& to, std::string_view from) {
  const size_t n = std::min(from.size(), N - 1);
  std::memcpy(to.data(), from.data(), n);
  to[n] = '\0';
}

// Of another process's memory, whatever it holds.
template <size_t N>
std::string_view shown(const std::array<char, N>& text) {
  return {text.data(), static_cast<size_t>(std::find(text.begin(), text.end(), '\0') - text.begin())};
}

std::string clock_time(int64_t nanoseconds) {
  const std::time_t seconds = nanoseconds / 1'000'000'000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:06}Z", text.data(), nanoseconds % 1'000'000'000 / 1000);
}

}  // namespace

struct FlightRecorder::Memory {
  struct Entry {
    int64_t bytes, begun, ended;  // nanoseconds since 1970; ended = 0: under way
    std::array<char, 16> collective;
    std::array<char, 40> phase, label;
  };
  uint64_t magic;
  int64_t rank;
  std::atomic<uint64_t> begun;  // collectives so far
  std::array<Entry, kEntries> entries;
  int64_t waits_since;
  std::array<char, 80> waits_for;  // empty: for nothing but collectives
};

FlightRecorder::FlightRecorder(int rank) {
  descriptor_ = ::memfd_create("lockstep collectives", MFD_CLOEXEC);
  if (descriptor_ >= 0 && ::ftruncate(descriptor_, sizeof(Memory)) != 0) {
    ::close(descriptor_);
    descriptor_ = -1;
  }
  const int flags = descriptor_ >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* memory = ::mmap(nullptr, sizeof(Memory), PROT_READ | PROT_WRITE, flags, descriptor_, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = new (memory) Memory;
  memory_->magic = kMagic;
  memory_->rank = rank;
  memory_->begun = 0;
  memory_->waits_for[0] = '\0';
}

FlightRecorder::~FlightRecorder() {
  ::munmap(memory_, sizeof(Memory));
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FlightRecorder::begin(uint64_t sequence, const char* collective, const std::string& phase,
                           const std::string& label) {
  Memory::Entry& entry = memory_->entries[sequence % kEntries];
  entry.bytes = 0;
  entry.begun = now();
  entry.ended = 0;
  copy_text(entry.collective, collective);
  copy_text(entry.phase, phase);
  copy_text(entry.label, label);
  memory_->waits_for[0] = '\0';
  memory_->begun.store(sequence + 1, std::memory_order_release);
}

void FlightRecorder::wait(std::string_view place) {
  if (place.starts_with(shown(memory_->waits_for)) && memory_->waits_for[0] != '\0') return;
  memory_->waits_since = now();
  copy_text(memory_->waits_for, place);
}

void FlightRecorder::add_bytes(uint64_t sequence, int64_t bytes) {
  memory_->entries[sequence % kEntries].bytes += bytes;
}

void FlightRecorder::end(uint64_t sequence) {
  // One that was waited for when 64 others had begun has lost its place.
  if (memory_->begun.load(std::memory_order_relaxed) - sequence > kEntries) return;
  memory_->entries[sequence % kEntries].ended = now();
}

std::string FlightRecorder::text(const Memory& memory) {
  std::string text = "number\tcollective\tbytes\tbegun\tseconds\tphase\tlabel\n";
  const uint64_t end = memory.begun.load(std::memory_order_acquire);
  for (uint64_t number = end - std::min(end, kEntries); number < end; ++number) {
    const Memory::Entry& entry = memory.entries[number % kEntries];
    const std::string seconds =
        entry.ended == 0 ? "under way"
                         : fmt::format("{:.6f}", static_cast<double>(entry.ended - entry.begun) * 1e-9);
    text += fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}\n", number, shown(entry.collective), entry.bytes,
                        clock_time(entry.begun), seconds, shown(entry.phase), shown(entry.label));
  }
  if (memory.waits_for[0] != '\0')
    text += fmt::format("-\twait\t0\t{}\tunder way\t\t{}\n", clock_time(memory.waits_since),
                        shown(memory.waits_for));
  return text;
}

std::string FlightRecorder::text() const {
  return text(*memory_);
}

std::string FlightRecorder::text_of(int pid, int descriptor, int rank) {
  const int opened =
      ::open(fmt::format("/proc/{}/fd/{}", pid, descriptor).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (opened < 0) return "";
  // Copied, not mapped: a process that ends takes nothing away.
  const auto memory = std::make_unique<std::array<std::byte, sizeof(Memory)>>();
  const bool whole =
      ::pread(opened, memory->data(), memory->size(), 0) == static_cast<ssize_t>(memory->size());
  ::close(opened);
  if (!whole) return "";
  const auto& found = *reinterpret_cast<const Memory*>(memory->data());
  return found.magic == kMagic && found.rank == rank ? text(found) : "";
}

void write_flight(const std::string& path, std::string text) {
  constexpr std::chrono::seconds kPatience{2};
  const auto done = std::make_shared<std::promise<void>>();
  std::future<void> written = done->get_future();
  std::thread([path, text_ = std::move(text), done] {
    const int file =
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (file >= 0) {
      for (size_t at = 0; at < text_.size();) {
        const ssize_t n = ::write(file, text_.data() + at, text_.size() - at);
        if (n <= 0) break;
        at += static_cast<size_t>(n);
      }
      ::close(file);
    }
    done->set_value();
  }).detach();
  written.wait_for(kPatience);
}

}  // namespace lockstep
