// Memory of this worker that other workers of its host can map.
//
// It has no name: the others open its file descriptor, so that nothing is left of it when the workers are
// gone, however they end, and no limit of /dev/shm holds for it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace lockstep {

class SharedMemory {
 public:
  // Where it is to be found, for workers of the same host; the token tells whether it is what was found.
  struct Ticket {
    int64_t process = 0, descriptor = -1;  // -1: there is none
    uint64_t bytes = 0;
    std::array<uint64_t, 2> token{};
  };

  // Zeros. Null where the system gives none: why_not says why.
  static std::shared_ptr<SharedMemory> make(size_t bytes, std::string& why_not);
  // Another worker's, of this process or another one, which must keep it open until then. Null where it
  // cannot be seen from here.
  static std::shared_ptr<SharedMemory> open(const Ticket& ticket, std::string& why_not);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  const Ticket& ticket() const { return ticket_; }
  // Nobody else opens it from now on.
  void close();

  // (bytes()), at the start of a page.
  std::byte* data() const;
  size_t bytes() const { return static_cast<size_t>(ticket_.bytes); }
  // What its owner counts; 0 at the start.
  std::atomic<uint64_t>& count() const;

 private:
  struct Header;
  SharedMemory(const Ticket& ticket, void* mapped) : ticket_(ticket), header_(static_cast<Header*>(mapped)) {}

  Ticket ticket_;
  Header* header_;
};

}  // namespace lockstep
