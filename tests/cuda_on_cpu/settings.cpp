// Reads LOCKSTEP_CUDA_ON_CPU.
#include "settings.h"

#include <cuda_runtime.h>

#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace cuda_on_cpu {

namespace {

uint64_t number_of(std::string_view entry, std::string_view digits) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || digits.empty()) {
    stop("LOCKSTEP_CUDA_ON_CPU: not a whole number: %s", std::string(entry).c_str());
  }
  return value;
}

Settings parse(std::string_view text) {
  Settings result;
  while (!text.empty()) {
    const std::string_view entry = text.substr(0, text.find(','));
    text.remove_prefix(entry.size() < text.size() ? entry.size() + 1 : entry.size());
    const size_t equals = entry.find('=');
    const std::string_view key = entry.substr(0, equals);
    const std::string_view value = equals == entry.npos ? std::string_view() : entry.substr(equals + 1);
    if (key == "seed") {
      result.seed = number_of(entry, value);
    } else if (entry == "streams=lazy" || entry == "streams=eager") {
      result.lazy = value == "lazy";
    } else if (entry == "guard=1" || entry == "guard=0") {
      result.guard = value == "1";
    } else if (entry == "host=forbid") {
      result.forbid_host = true;
    } else if (entry == "keys=0") {
      result.keys = false;
    } else if (entry == "count=1") {
      result.count = true;
    } else if (entry == "products=none") {
      result.products = false;
    } else if (entry == "products=plain") {
      result.epilogues = false;
    } else if (key == "fastest") {
      result.fastest = static_cast<int>(number_of(entry, value));
    } else if (key == "unlaunchable") {
      result.unlaunchable = static_cast<int>(number_of(entry, value));
    } else if (entry == "cudnn=1" || entry == "cudnn=0") {
      result.cudnn = value == "1";
    } else if (entry == "digit=0" || entry == "digit=1" || entry == "digit=2") {
      result.digit = static_cast<unsigned>(number_of(entry, value));
    } else if (entry == "gpu=busy" || entry == "gpu=foreign") {
      (value == "busy" ? result.busy : result.foreign) = true;
    } else if (key == "stuck") {
      result.stuck = static_cast<int64_t>(number_of(entry, value));
    } else if (key == "broken") {
      result.broken = static_cast<int64_t>(number_of(entry, value));
    } else if (key == "devices") {
      result.devices = static_cast<int>(number_of(entry, value));
    } else if (key == "memory_mb") {
      result.memory_bytes = number_of(entry, value) << 20;
    } else {
      stop("LOCKSTEP_CUDA_ON_CPU: unknown entry: %s", std::string(entry).c_str());
    }
  }
  // Only buffers with pages of their own can be made inaccessible.
  if (result.forbid_host) result.guard = true;
  return result;
}

struct State {
  Settings settings;
  uint64_t random = 0;

  explicit State(std::string_view text) : settings(parse(text)), random(settings.seed) {}
};

State& state() {
  static State instance([] {
    const char* text = std::getenv("LOCKSTEP_CUDA_ON_CPU");
    return std::string_view(text == nullptr ? "" : text);
  }());
  return instance;
}

}  // namespace

const Settings& settings() {
  return state().settings;
}

Counts& counts() {
  struct Printed : Counts {
    bool asked = settings().count;
    ~Printed() {
      if (!asked) return;
      std::fprintf(stderr,
                   "cuda_on_cpu: %lld copies to the host, %lld kernels, %lld graphs, %lld allocations\n",
                   static_cast<long long>(copies_to_host), static_cast<long long>(kernels),
                   static_cast<long long>(graphs), static_cast<long long>(allocations));
    }
  };
  static Printed printed;
  return printed;
}

void configure(const char* text) {
  state() = State(text);
}

// SplitMix64 (Steele, Lea and Flood 2014).
uint64_t random_number() {
  uint64_t z = state().random += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

void stop(const char* format, ...) {
  char line[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "cuda_on_cpu: %s\n", line);
  std::abort();
}

}  // namespace cuda_on_cpu
