// Measures the data path: the order of samples, opening, gathering, and what a loader hands to a step.
//
//   build/release/bin/data_benchmark                      all of it, on a file of 64 MiB
//   build/release/bin/data_benchmark write FILE SAMPLES   writes a prepared file of random uint8 images of 28
//   x 28 in ten classes
//
// One row each: nanoseconds a sample (median of seven repetitions) of the order of an epoch, of gathering in
// that order from memory and from a mapped file whose blocks have been verified, with and without
// standardization, and through the loader; and microseconds to open the file.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/core/philox.h"
#include "lockstep/data/loader.h"
#include "lockstep/data/permutation.h"
#include "lockstep/data/prepared_file.h"

namespace {

using namespace lockstep;

constexpr int64_t kSide = 28, kPixels = kSide * kSide;

void write_images(const std::string& path, int64_t samples) {
  Dataset outline;
  outline.source = "random";
  outline.sample_shape = {kSide, kSide, 1};
  outline.input_dtype = DType::kU8;
  outline.divisor = 255.0f;
  outline.classes = 10;
  outline.labels.resize(static_cast<size_t>(samples));
  for (int64_t i = 0; i < samples; ++i)
    outline.labels[static_cast<size_t>(i)] = static_cast<int32_t>(mix64(static_cast<uint64_t>(i)) % 10);
  PreparedFileWriter writer(outline, path);
  Dataset piece = outline;
  piece.labels.clear();
  constexpr int64_t kPiece = 20000;
  uint64_t counter = 0;
  for (int64_t done = 0; done < samples; done += kPiece) {
    piece.inputs_u8.resize(static_cast<size_t>(std::min(kPiece, samples - done) * kPixels));
    for (size_t at = 0; at + 8 <= piece.inputs_u8.size(); at += 8) {
      const uint64_t random = mix64(++counter);
      std::memcpy(piece.inputs_u8.data() + at, &random, 8);
    }
    writer.add_inputs(piece);
  }
  writer.finish();
}

// Of this thread's processor, or of the clock where other threads do the work.
double median_seconds(const std::function<void()>& call, bool processor = true) {
  const auto now = [&] {
    timespec time{};
    clock_gettime(processor ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  std::vector<double> seconds;
  for (int repetition = 0; repetition < 7; ++repetition) {
    const double start = now();
    call();
    seconds.push_back(now() - start);
  }
  std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
  return seconds[3];
}

void report(const std::string& what, double value, const char* unit) {
  fmt::print("{:<58} {:>10.1f} {}\n", what, value, unit);
}

void measure(const std::string& path) {
  constexpr int64_t kSamples = int64_t{64} * 1024 * 1024 / kPixels, kDraws = 100000;
  write_images(path, kSamples);
  std::vector<int64_t> rows(static_cast<size_t>(kDraws));
  for (const int64_t n : {kSamples, int64_t{1} << 40}) {
    const Permutation order(1, RandomPurpose::kShuffle, 0, n);
    report(fmt::format("order of an epoch of {} samples", n),
           median_seconds([&] { order.rows(12345, rows); }) * 1e9 / kDraws, "ns a sample");
  }
  report("opening a prepared file of 64 MiB", median_seconds([&] { open_data_source({.path = path}); }) * 1e6,
         "us");
  const auto mapped = open_data_source({.path = path});
  const auto table = std::make_shared<TableSource>(read_dataset({.path = path, .narrow = true}));
  const auto standardized = std::make_shared<StandardizedSource>(mapped, mapped->statistics());
  const SamplerOptions sampler{.samples = kSamples, .global_batch = 32, .seed = 1};
  for (const auto& [name, source] :
       {std::pair<std::string, std::shared_ptr<const DataSource>>{"a table in memory", table},
        {"the mapped file", mapped},
        {"the mapped file, standardized", standardized}}) {
    MicroBatch batch(32, source->description().fields());
    std::vector<int64_t> all(static_cast<size_t>(kSamples / 32 * 32));
    Permutation(1, RandomPurpose::kShuffle, 0, kSamples).rows(0, all);
    const auto pass = [&, &gathered = source] {
      for (size_t at = 0; at < all.size(); at += 32)
        gathered->gather(std::span(all).subspan(at, 32), batch.buffers());
    };
    pass();
    report("gathering from " + name, median_seconds(pass) * 1e9 / static_cast<double>(all.size()),
           "ns a sample");
    Loader loader(*source, sampler, 32, 0, 1, 0);
    const int64_t steps = kSamples / 32;
    for (int64_t step = 0; step < steps; ++step) loader.next();
    report("a loader of " + name + ", 32 samples a step",
           median_seconds(
               [&] {
                 for (int64_t step = 0; step < steps; ++step) loader.next();
               },
               false) *
               1e6 / static_cast<double>(steps),
           "us a step");
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 4 && std::string(arguments[1]) == "write") {
    write_images(arguments[2], std::atoll(arguments[3]));
    return 0;
  }
  if (count > 1) {
    fmt::print(stderr, "usage: data_benchmark [write FILE SAMPLES]\n");
    return 2;
  }
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("lockstep-data-{}.h5", ::getpid())).string();
  measure(path);
  std::filesystem::remove(path);
  return 0;
}
