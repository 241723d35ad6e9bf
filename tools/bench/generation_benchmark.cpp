// Measures how fast texts are generated, against how fast the machine reads memory.
//
//   build/release/bin/generation_benchmark [threads, default all cores] [tokens a slice, default 8] [slices,
//   default 9] [preset, default gpt2_124m]
//
// A token needs every weight once: no program is faster than reading them takes. For fp32 and bf16, weights
// drawn at random: slices of generation (logits of one text, sampling from all of them, at temperature 1) and
// passes of all threads over as many bytes as the weights have, in turns; medians. `share` is the pass's time
// over the token's.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/generate/decoder.h"
#include "lockstep/generate/sampler.h"

namespace {

using namespace lockstep;

constexpr int64_t kVocabulary = 50257;

std::vector<float> drawn(const ParameterEntry& entry) {
  std::vector<float> values(static_cast<size_t>(entry.shape.elements()));
  const PhiloxKey key = philox_key(stable_hash(entry.name), RandomPurpose::kInitialization);
  const bool gain = entry.name.ends_with(".gamma");
  for (size_t i = 0; i < values.size(); i += 4) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i / 4), 0, 0, 0});
    for (size_t j = i; j < std::min(i + 4, values.size()); ++j)
      values[j] = gain ? 1.0f : 0.04f * (uniform_float(block.r[j % 4]) - 0.5f);
  }
  return values;
}

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// Of all words, so that nothing of the reading can be left out.
uint64_t read_all(const std::vector<uint64_t>& words) {
  constexpr int64_t kPiece = 1 << 17;
  const int64_t pieces = std::ssize(words) / kPiece;
  std::vector<uint64_t> sums(static_cast<size_t>(pieces));
  parallel_ranges(pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      uint64_t sum = 0;
      for (int64_t i = piece * kPiece; i < (piece + 1) * kPiece; ++i) sum += words[static_cast<size_t>(i)];
      sums[static_cast<size_t>(piece)] = sum;
    }
  });
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

void measure(const GptOptions& options, DType compute, int64_t tokens, int64_t slices) {
  int64_t elements = 0, narrow = 0;
  for (const ParameterEntry& entry : gpt_parameters(options, kVocabulary)) {
    const bool product = entry.shape.rank() == 2 && entry.name != "positions.weight";
    if (entry.name == "positions.weight" || (entry.name == "tokens.weight" && !options.tied_head)) continue;
    (product ? narrow : elements) += entry.shape.elements();
  }
  const auto bytes = static_cast<int64_t>(size_of(compute)) * narrow + 4 * elements;
  Decoder decoder(options, kVocabulary, compute, slices + 1, drawn);
  const std::vector<uint64_t> words(static_cast<size_t>(bytes / 8), 1);
  uint64_t seen = 0;
  std::vector<double> reading, generating;
  for (int64_t slice = 0; slice <= slices; ++slice) {
    std::vector<int32_t> text = {1};
    const double token_seconds = seconds_of([&] {
      for (int64_t i = 0; i < tokens; ++i) {
        const Decoder::Row row{slice, text.back()};
        Tensor logits = decoder.logits({&row, 1});
        text.push_back(
            sample({logits.mutable_data_as<float>(), static_cast<size_t>(kVocabulary)}, text, {}, 0, i));
      }
    });
    const double pass_seconds = seconds_of([&] { seen += read_all(words); });
    if (slice == 0) continue;  // memory is touched first
    generating.push_back(token_seconds / static_cast<double>(tokens));
    reading.push_back(pass_seconds);
  }
  if (seen == 0) std::abort();
  const double token = median(generating), pass = median(reading);
  fmt::print("| {} | {} | {:.0f} | {:.1f} | {:.2f} | {:.1f} | {:.2f} |\n", name_of(compute),
             thread_pool().threads(), static_cast<double>(bytes) / 1e6,
             static_cast<double>(bytes) / pass / 1e9, 1e3 * token, 1.0 / token, pass / token);
}

}  // namespace

int main(int count, char** arguments) {
  const auto argument = [&](int i, int64_t fallback) {
    return count > i ? std::max(int64_t{1}, static_cast<int64_t>(std::atoll(arguments[i]))) : fallback;
  };
  set_threads(static_cast<int>(argument(1, usable_cores())));
  const int64_t tokens = argument(2, 8), slices = argument(3, 9);
  const GptOptions options = resolved(gpt_preset(count > 4 ? arguments[4] : "gpt2_124m"), 1);
  fmt::print(
      "| weights | threads | MB | GB/s read | ms a token | tokens/s | share "
      "|\n|---|---|---|---|---|---|---|\n");
  for (const DType compute : {DType::kF32, DType::kBF16}) measure(options, compute, tokens, slices);
  return 0;
}
