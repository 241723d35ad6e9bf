#include "lockstep/exchange/model_difference.h"

#include <fmt/format.h>

#include <type_traits>

#include "lockstep/core/error.h"

namespace lockstep {

std::vector<ModelDifference> model_differences(const GptOptions& ours, const GptOptions& theirs) {
  std::vector<ModelDifference> differences;
  const auto compare = [&differences](const char* key, auto a, auto b, bool in_shapes = false) {
    if (a == b) return;
    if constexpr (std::is_enum_v<decltype(a)>) {
      differences.push_back({key, fmt::format("{}: differs", key), in_shapes});
    } else {
      differences.push_back({key, fmt::format("{}: {} against {}", key, a, b), in_shapes});
    }
  };
  compare("layers", ours.layers, theirs.layers, true);
  compare("width", ours.width, theirs.width, true);
  compare("heads", ours.heads, theirs.heads);
  compare("kv_heads", ours.kv_heads, theirs.kv_heads, true);
  compare("head_size", ours.head_size, theirs.head_size);
  compare("feedforward", ours.feedforward, theirs.feedforward, true);
  compare("positions", ours.positions, theirs.positions);
  compare("norm", ours.norm, theirs.norm);
  compare("norm_epsilon", ours.norm_epsilon, theirs.norm_epsilon);
  if (ours.norm == GptNorm::kLayer && theirs.norm == GptNorm::kLayer)
    compare("norm_bias", ours.norm_bias, theirs.norm_bias, true);
  compare("activation", ours.activation, theirs.activation);
  compare("qkv_bias", ours.qkv_bias, theirs.qkv_bias, true);
  compare("output_bias", ours.output_bias, theirs.output_bias, true);
  compare("feedforward_bias", ours.feedforward_bias, theirs.feedforward_bias, true);
  compare("qk_norm", ours.qk_norm, theirs.qk_norm, true);
  compare("tied_head", ours.tied_head, theirs.tied_head, true);
  compare("window", ours.window, theirs.window);
  compare("soft_cap", ours.soft_cap, theirs.soft_cap);
  if (ours.positions == GptPositions::kLearned && ours.context > theirs.context)
    compare("context", ours.context, theirs.context, true);
  if (ours.positions != GptPositions::kRotary || theirs.positions != GptPositions::kRotary)
    return differences;
  const RotaryOptions &mine = ours.rotary, &other = theirs.rotary;
  compare("rotary_theta", mine.theta, other.theta);
  compare("rotary_scaling", mine.scaling, other.scaling);
  compare("rotary_factor", mine.factor, other.factor);
  if (mine.scaling != RotaryScaling::kLlama3) return differences;
  compare("rotary_low_frequency", mine.low_frequency, other.low_frequency);
  compare("rotary_high_frequency", mine.high_frequency, other.high_frequency);
  compare("rotary_original_context", mine.original_context, other.original_context);
  return differences;
}

void require_none(const std::vector<ModelDifference>& differences, const std::string& path,
                  const std::string& whose) {
  std::string texts;
  for (const ModelDifference& difference : differences)
    texts += (texts.empty() ? "" : "; ") + difference.text;
  if (!texts.empty())
    fail(ErrorKind::kCheckpoint, fmt::format("{}: is another model than {}: {}", path, whose, texts));
}

}  // namespace lockstep
