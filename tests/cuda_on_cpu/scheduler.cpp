// The order in which threads of a launch run.
//
// Each thread runs until it meets a barrier or a warp operation, or ends. A fiber that has run a thread to
// its end goes on with the next one, so a kernel without barriers is a loop of calls; a thread that has to
// wait keeps its fiber, and another fiber goes on. Blocks run one after another. Seed 0 takes blocks, warps
// and lanes in their natural order; any other seed shuffles blocks, and draws the next warp and lane whenever
// one has to be chosen.
#include "scheduler.h"

#include <bit>
#include <cstdio>
#include <numeric>
#include <unordered_map>

#include "fiber.h"
#include "memory.h"
#include "settings.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {

namespace {

constexpr unsigned kLanes = 32;
constexpr unsigned kMaxWarps = kMaxThreads / kLanes;
// To make a thread of the race checker's takes longer than all that it does, so all launches share a few sets
// of them: a block has the set of a digit of its number. Launches are ordered anyway. Blocks of one set are
// as good as ordered, and no race between them is found; that of any two blocks is under one digit or
// another.
constexpr unsigned kSets = 5, kTellable = kSets * kSets * kSets;  // blocks, by digits 0, 1 and 2

// A thread that waits.
struct Thread {
  Fiber* fiber;
  uint64_t value;   // passed to a warp operation; then its answer
  unsigned mask;    // lanes that the operation waits for
  unsigned source;  // lane whose value is wanted
  Place place;
};

enum class WarpOperation { kExchange, kBallot, kBarrier };

// Lanes as bits. Every lane that exists is in exactly one of ready, waiting, at_barrier and done, or runs
// now.
struct Warp {
  unsigned exists, started, ready, waiting, at_barrier, done;
  char order[kSets][2];       // addresses for the race checker, of the block's set, taken in turn
  unsigned barriers[kLanes];  // warp barriers that each lane has met
};

struct Scheduler {
  Thread threads[kMaxThreads];
  uint3 coordinates[kMaxThreads];
  dim3 coordinates_of{0, 0, 0};
  Warp warps[kMaxWarps];
  unsigned thread_count = 0, warp_count = 0;
  unsigned ready_warps = 0;  // as bits
  unsigned done_count = 0, barrier_count = 0;
  unsigned current = 0;  // thread that runs now

  const Launch* launch = nullptr;  // null while none runs
  uint64_t block_index = 0, block_count = 0;
  uint64_t block_factor = 1, block_shift = 0;  // the n-th block to run is (n * factor + shift) mod count
  uint64_t block_serial = 0;                   // of all blocks ever run
  unsigned char* dynamic = nullptr;
  size_t static_bytes = 0;  // of this block

  uint64_t seed = 0, random = 1;
  Fiber host;
  Fiber* running = nullptr;
  Fiber* idle[kMaxThreads + 2];  // parked in carry()
  unsigned idle_count = 0;

  char began = 0, ended = 0, order[kSets][2] = {};  // addresses for the race checker
  void* race_contexts[kSets][kMaxThreads] = {};
  unsigned block_set = 0;
  unsigned block_barriers = 0;

  std::unordered_map<const void*, size_t> granted_shared;
};
Scheduler s;

// xorshift64 (Marsaglia 2003): one is drawn at nearly every switch.
unsigned draw(unsigned below) {
  s.random ^= s.random << 13;
  s.random ^= s.random >> 7;
  s.random ^= s.random << 17;
  return static_cast<unsigned>((s.random >> 32) * below >> 32);
}

// One of the bits that are set.
unsigned choose_bit(unsigned bits) {
  if (s.seed == 0) return static_cast<unsigned>(std::countr_zero(bits));
  const unsigned turn = draw(kLanes);
  return (static_cast<unsigned>(std::countr_zero(std::rotr(bits, static_cast<int>(turn)))) + turn) % kLanes;
}

void make_ready(unsigned warp, unsigned lanes) {
  s.warps[warp].ready |= lanes;
  s.ready_warps |= 1u << warp;
}

std::string text_of(Place place) {
  const std::string file = place.file;
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(place.line);
}

std::string text_of(const char* what, uint3 v) {
  char text[64];
  std::snprintf(text, sizeof(text), "%s (%u,%u,%u)", what, v.x, v.y, v.z);
  return text;
}

[[noreturn]] void stop_at(const std::string& problem) {
  stop("kernel %s, %s: %s", s.launch->name, text_of("block", blockIdx).c_str(), problem.c_str());
}

void begin_block() {
  const uint64_t index = (s.block_index * s.block_factor + s.block_shift) % s.block_count;
  blockIdx = {static_cast<unsigned>(index % gridDim.x), static_cast<unsigned>(index / gridDim.x % gridDim.y),
              static_cast<unsigned>(index / gridDim.x / gridDim.y)};
  ++s.block_serial;
  s.static_bytes = 0;
  s.done_count = s.barrier_count = 0;
  for (unsigned w = 0; w < s.warp_count; ++w) {
    Warp& warp = s.warps[w];
    warp.started = warp.waiting = warp.at_barrier = warp.done = 0;
    warp.ready = warp.exists;
  }
  s.ready_warps = s.warp_count == kMaxWarps ? ~0u : (1u << s.warp_count) - 1;
  if (s.launch->shared_bytes > 0) {
    if (kRaceCheck) {
      act_as(s.host);
      forget_accesses(s.dynamic, s.launch->shared_bytes);
    }
    poison(s.dynamic, s.launch->shared_bytes);
  }
  if (kRaceCheck) {
    act_as(s.host);
    release(&s.began);
    act_as(*s.running);
    uint64_t digits = index;
    for (unsigned d = 0; d < settings().digit; ++d) digits /= kSets;
    s.block_set = static_cast<unsigned>(digits % kSets);
  }
}

// All threads stand at a barrier or have ended, or something is wrong.
void release_block() {
  const unsigned stuck = s.thread_count - s.barrier_count - s.done_count;
  for (unsigned t = 0; stuck > 0 && t < s.thread_count; ++t) {
    if ((s.warps[t / kLanes].waiting >> t % kLanes & 1) == 0) continue;
    const Thread& thread = s.threads[t];
    stop_at("warp operation at " + text_of(thread.place) + " with missing lanes: " +
            text_of("thread", s.coordinates[t]) + " waits for the lanes of a mask that never all come");
  }
  const Thread* first = nullptr;
  unsigned first_index = 0;
  for (unsigned t = 0; t < s.thread_count; ++t) {
    if ((s.warps[t / kLanes].at_barrier >> t % kLanes & 1) == 0) continue;
    if (first == nullptr) {
      first = &s.threads[t];
      first_index = t;
    } else if (first->place.line != s.threads[t].place.line) {
      stop_at("divergent __syncthreads: " + text_of("thread", s.coordinates[first_index]) + " waits at " +
              text_of(first->place) + ", " + text_of("thread", s.coordinates[t]) + " at " +
              text_of(s.threads[t].place));
    }
  }
  if (s.done_count > 0) {
    stop_at("__syncthreads at " + text_of(first->place) + " that " + std::to_string(s.done_count) + " of " +
            std::to_string(s.thread_count) + " threads never reach");
  }
  s.barrier_count = 0;
  ++s.block_barriers;
  for (unsigned w = 0; w < s.warp_count; ++w) {
    s.warps[w].at_barrier = 0;
    make_ready(w, s.warps[w].exists);
  }
}

// Makes another thread the current one; false when the whole grid is done.
bool choose() {
  if (s.ready_warps == 0) {
    if (s.done_count < s.thread_count) {
      release_block();
    } else if (++s.block_index < s.block_count) {
      begin_block();
    } else {
      return false;
    }
  }
  unsigned w = s.current / kLanes;
  // Now and then a warp is left although it could go on.
  if ((s.ready_warps >> w & 1) == 0 || (s.seed != 0 && draw(16) == 0)) w = choose_bit(s.ready_warps);
  Warp& warp = s.warps[w];
  const unsigned lane = choose_bit(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) s.ready_warps &= ~(1u << w);
  s.current = w * kLanes + lane;
  threadIdx = s.coordinates[s.current];
  return true;
}

bool current_has_started() {
  return s.warps[s.current / kLanes].started >> s.current % kLanes & 1;
}

void carry();

Fiber* idle_fiber() {
  return s.idle_count > 0 ? s.idle[--s.idle_count] : make_fiber(carry);
}

// Makes `fiber` the current thread, which begins, to the race checker: a thread of the block's set.
void begin_race_context(Fiber& fiber, const Fiber& left) {
  void*& context = s.race_contexts[s.block_set][s.current];
  if (context == nullptr) {
    act_as(s.host);
    context = make_race_context();
    act_as(left);
  }
  fiber.race_context = context;
}

// Goes on with the current thread, on the fiber that holds it or, when it begins, on an idle one. The fiber
// that is left becomes idle when the thread on it has ended.
void resume_current(bool left_is_idle) {
  Fiber* const left = s.running;
  if (current_has_started()) {
    s.running = s.threads[s.current].fiber;
  } else {
    s.running = idle_fiber();
    if (kRaceCheck) begin_race_context(*s.running, *left);
  }
  if (left_is_idle) s.idle[s.idle_count++] = left;
  switch_fiber(*left, *s.running);
}

// Threads one after another, each from its begin to its end.
void carry() {
  fiber_began(*s.running);
  for (;;) {
    Warp& warp = s.warps[s.current / kLanes];
    warp.started |= 1u << s.current % kLanes;
    warp.barriers[s.current % kLanes] = 0;
    acquire(&s.began);
    s.launch->body(s.launch->closure.get());
    release(&s.ended);
    s.warps[s.current / kLanes].done |= 1u << s.current % kLanes;
    ++s.done_count;
    if (!choose()) {
      Fiber* const left = s.running;
      s.idle[s.idle_count++] = left;
      s.running = &s.host;
      switch_fiber(*left, s.host);
    } else if (kRaceCheck || current_has_started()) {
      // To the race checker each thread is one of its own: another fiber carries the next.
      resume_current(true);
    }
  }
}

// Lets others run until the current thread is chosen again. It is in no set but that in which it waits.
void suspend() {
  const unsigned self = s.current;
  s.threads[self].fiber = s.running;
  choose();
  if (s.current != self) resume_current(false);
}

// Whether all lanes of the mask wait at the place of the current thread.
bool all_arrived(const Warp& warp, const Thread& self, unsigned first_thread) {
  if ((warp.waiting & self.mask) != self.mask) return false;
  for (unsigned rest = self.mask; rest != 0; rest &= rest - 1) {
    const Thread& other = s.threads[first_thread + static_cast<unsigned>(std::countr_zero(rest))];
    if (other.mask != self.mask || other.place.line != self.place.line) return false;
  }
  return true;
}

uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, unsigned source,
                        Place place) {
  Warp& warp = s.warps[s.current / kLanes];
  Thread& self = s.threads[s.current];
  const unsigned first_thread = s.current / kLanes * kLanes, lane = s.current % kLanes;
  if ((mask >> lane & 1) == 0) {
    stop_at("warp operation at " + text_of(place) + ": " + text_of("thread", threadIdx) +
            " is not in the mask that it passes");
  }
  mask &= warp.exists;  // the last warp of a block may be short
  self.value = value;
  self.mask = mask;
  self.source = source;
  self.place = place;
  warp.waiting |= 1u << lane;
  char* const order =
      operation == WarpOperation::kBarrier ? &warp.order[s.block_set][warp.barriers[lane]++ & 1] : nullptr;
  if (order != nullptr) release(order);
  if (!all_arrived(warp, self, first_thread)) {
    suspend();
  } else {
    uint64_t answers[kLanes];
    unsigned votes = 0;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const auto l = static_cast<unsigned>(std::countr_zero(rest));
      const Thread& thread = s.threads[first_thread + l];
      votes |= static_cast<unsigned>(thread.value != 0) << l;
      answers[l] = (mask >> thread.source % kLanes & 1) != 0
                       ? s.threads[first_thread + thread.source % kLanes].value
                       : ~uint64_t{0};
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const auto l = static_cast<unsigned>(std::countr_zero(rest));
      s.threads[first_thread + l].value = operation == WarpOperation::kBallot ? votes : answers[l];
    }
    warp.waiting &= ~mask;
    if (s.seed == 0) {
      const unsigned others = mask & ~(1u << lane);
      if (others != 0) make_ready(s.current / kLanes, others);
    } else {
      make_ready(s.current / kLanes, mask);
      suspend();
    }
  }
  if (order != nullptr) acquire(order);
  return self.value;
}

}  // namespace

void block_barrier(Place place) {
  Warp& warp = s.warps[s.current / kLanes];
  char* const order = &s.order[s.block_set][s.block_barriers & 1];
  s.threads[s.current].place = place;
  warp.at_barrier |= 1u << s.current % kLanes;
  ++s.barrier_count;
  release(order);
  suspend();
  acquire(order);
}

uint64_t warp_exchange(unsigned mask, uint64_t value, unsigned source, Place place) {
  return warp_operation(WarpOperation::kExchange, mask, value, source, place);
}
unsigned warp_ballot(unsigned mask, bool value, Place place) {
  return static_cast<unsigned>(warp_operation(WarpOperation::kBallot, mask, value, 0, place));
}
void warp_barrier(unsigned mask, Place place) {
  warp_operation(WarpOperation::kBarrier, mask, 0, 0, place);
}
unsigned lane() {
  return s.current % kLanes;
}

void* dynamic_shared() {
  return s.dynamic;
}

void* static_shared(SharedSite& site) {
  if (site.block != s.block_serial) {
    site.block = s.block_serial;
    s.static_bytes += site.bytes;
    const size_t granted = s.launch->shared_bytes > kSharedBytes ? kSharedBytesOptIn : kSharedBytes;
    if (s.static_bytes > kSharedBytes || s.static_bytes + s.launch->shared_bytes > granted) {
      stop_at(std::to_string(s.static_bytes) + " bytes of static and " +
              std::to_string(s.launch->shared_bytes) + " of dynamic shared memory: too much");
    }
    if (site.memory == nullptr) site.memory = make_shared_site(site.bytes);
    if (kRaceCheck) {
      act_as(s.host);
      forget_accesses(site.memory, site.bytes);
      release(&s.began);
      act_as(*s.running);
    }
    poison(site.memory, site.bytes);
  }
  acquire(&s.began);
  return site.memory;
}

void allow_dynamic_shared(const void* function, size_t bytes) {
  s.granted_shared[function] = bytes;
}

void check_launch(const Launch& l) {
  const auto threads = uint64_t{l.block.x} * l.block.y * l.block.z;
  if (threads == 0 || threads > kMaxThreads || l.block.z > 64) {
    stop("kernel %s: block (%u,%u,%u): threads must be 1 to %u", l.name, l.block.x, l.block.y, l.block.z,
         kMaxThreads);
  }
  if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0 || l.grid.x > 0x7FFFFFFFu || l.grid.y > 65535 ||
      l.grid.z > 65535) {
    stop("kernel %s: grid (%u,%u,%u): must be 1 to (2^31-1, 65535, 65535)", l.name, l.grid.x, l.grid.y,
         l.grid.z);
  }
  const auto found = s.granted_shared.find(l.function);
  const size_t granted = found == s.granted_shared.end() ? kSharedBytes : found->second;
  if (l.shared_bytes > granted) {
    stop("kernel %s: %zu bytes of dynamic shared memory: %zu are granted (cudaFuncSetAttribute)", l.name,
         l.shared_bytes, granted);
  }
}

void run_launch(const Launch& description) {
  s.launch = &description;
  gridDim = description.grid;
  blockDim = description.block;
  s.thread_count = blockDim.x * blockDim.y * blockDim.z;
  s.warp_count = (s.thread_count + kLanes - 1) / kLanes;
  if (s.coordinates_of.x != blockDim.x || s.coordinates_of.y != blockDim.y ||
      s.coordinates_of.z != blockDim.z) {
    s.coordinates_of = blockDim;
    for (unsigned t = 0; t < s.thread_count; ++t) {
      s.coordinates[t] = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    }
    for (unsigned w = 0; w < s.warp_count; ++w) {
      const unsigned lanes = s.thread_count - w * kLanes;
      s.warps[w].exists = lanes >= kLanes ? ~0u : (1u << lanes) - 1;
    }
  }
  s.block_count = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  if (kRaceCheck && s.block_count > kTellable) {
    stop("kernel %s: %llu blocks: the race checker tells %u apart", description.name,
         static_cast<unsigned long long>(s.block_count), kTellable);
  }
  s.block_index = 0;
  s.block_factor = 1;
  s.block_shift = 0;
  s.block_barriers = 0;
  s.seed = settings().seed;
  if (s.seed != 0) {
    s.random = random_number() | 1;
    s.block_shift = random_number() % s.block_count;
    do {
      s.block_factor = random_number() % (uint64_t{1} << 31);
    } while (std::gcd(s.block_factor, s.block_count) != 1);
  }
  s.dynamic = dynamic_shared_of(description.shared_bytes);
  adopt_running_thread(s.host);
  s.running = &s.host;
  begin_block();
  s.current = 0;
  choose();
  resume_current(false);
  acquire(&s.ended);
  s.launch = nullptr;
}

std::string position() {
  if (s.launch == nullptr) return "";
  return std::string("kernel ") + s.launch->name + ", " + text_of("block", blockIdx) + ", " +
         text_of("thread", threadIdx);
}

}  // namespace cuda_on_cpu
