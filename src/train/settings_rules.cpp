// Ranges are those that the reader of a configuration has, as it describes them.
#include "lockstep/train/settings_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/nn/refused_option.h"

namespace lockstep {
namespace {

[[noreturn]] void refuse_setting(const std::string& section, const std::string& key,
                                 const std::string& rule) {
  fail(ErrorKind::kUsage, fmt::format("{}.{}: {}", section, key, rule));
}

class Rules {
 public:
  Rules() {
    Configuration configuration = Configuration::for_description();
    read_settings(configuration);
    Section average = configuration.section("average");
    for (const auto type : {AverageSettings::Type::kEma, AverageSettings::Type::kSwa})
      read_average(average, type);
    keys_ = configuration.keys();
  }

  void require(const std::string& section, const std::string& key, double value) const {
    try {
      require_option(section.c_str(), key.c_str(), value, of(section, key).range);
    } catch (const RefusedOption& refused) {
      refuse_setting(section, key, refused.rule());
    }
  }
  void require(const std::string& section, const std::string& key, const std::string& value) const {
    const std::vector<std::string>& choices = of(section, key).choices;
    if (std::ranges::find(choices, value) == choices.end())
      refuse_setting(section, key, fmt::format("must be one of {}, got {}", fmt::join(choices, ", "), value));
  }

 private:
  const KeyDescription& of(const std::string& section, const std::string& key) const {
    const auto found = std::ranges::find_if(
        keys_, [&](const KeyDescription& known) { return known.section == section && known.key == key; });
    if (found == keys_.end())
      fail(ErrorKind::kInternal, fmt::format("settings: there is no key {}.{}", section, key));
    return *found;
  }

  std::vector<KeyDescription> keys_;
};

}  // namespace

void check_combinations(const RunSettings& settings, const RefuseSetting& refuse) {
  const bool validation_file = settings.validation_data.given();
  if (validation_file && settings.validation_fraction > 0.0)
    refuse("data", "validation_fraction", "must be 0 when data.validation names a file");
  const bool weights = !settings.initial_weights.empty();
  if (!weights && !settings.initial_weights_without.empty())
    refuse("train", "initial_weights_without", "goes with train.initial_weights");
  if (!weights && !settings.initial_weights_differ.empty())
    refuse("train", "initial_weights_differ", "goes with train.initial_weights");
  if (settings.lora.rank > 0) {
    if (!weights) refuse("lora", "rank", "needs weights that stay as they are: train.initial_weights");
    if (!settings.initial_weights_without.empty())
      refuse("lora", "rank",
             "every weight comes from train.initial_weights: not with initial_weights_without");
    if (!settings.initial_weights_differ.empty())
      refuse("lora", "rank", "adapts the model of train.initial_weights: not with initial_weights_differ");
  } else if (!settings.initial_adapter.empty()) {
    refuse("train", "initial_adapter", "goes with lora.rank, which is 0: off");
  }
  for (const auto& [key, limit] :
       {std::pair("value", settings.clip.value), {"adaptive", settings.clip.adaptive}}) {
    if (limit > 0.0 && limit < kSmallestClipLimit)
      refuse("clip", key, fmt::format("must be 0 (off) or at least {}, got {}", kSmallestClipLimit, limit));
  }
  if (settings.recompute == "cheap" && settings.recompute_every > 0)
    refuse("train", "recompute",
           "\"cheap\" does not go with recompute_every, which computes all of a run again");
  if (!settings.keep_best.empty() && !validation_file && settings.validation_fraction == 0.0)
    refuse("checkpoint", "keep_best", "needs data.validation or data.validation_fraction");
  if (!settings.after_save.empty() && settings.after_save.find("{}") == std::string::npos)
    refuse("checkpoint", "after_save", "must have {} where the path of the checkpoint stands");
}

void require_valid(const RunSettings& settings) {
  if (settings.output.empty()) refuse_setting("run", "output", "must not be empty");
  const Rules rules;
  const auto real = [](auto value) { return static_cast<double>(value); };
  for (const auto& [section, key, value] : std::vector<std::tuple<const char*, const char*, double>>{
           {"run", "most_minutes", settings.most_minutes},
           {"data", "validation_fraction", settings.validation_fraction},
           {"data", "prefetch", real(settings.prefetch)},
           {"train", "steps", real(settings.steps)},
           {"train", "epochs", real(settings.epochs)},
           {"train", "micro_batches", real(settings.micro_batches)},
           {"train", "micro_batch_size", real(settings.micro_batch_size)},
           {"train", "batch_tokens", real(settings.batch_tokens)},
           {"train", "peak_tflops", settings.peak_tflops},
           {"train", "recompute_every", real(settings.recompute_every)},
           {"train", "log_every", real(settings.log_every)},
           {"train", "evaluate_every", real(settings.evaluate_every)},
           {"train", "l2", settings.l2},
           {"lora", "rank", real(settings.lora.rank)},
           {"optimizer", "learning_rate", settings.learning_rate},
           {"clip", "global_norm", settings.clip.global_norm},
           {"clip", "value", settings.clip.value},
           {"clip", "adaptive", settings.clip.adaptive},
           {"guard", "loss_z_score", settings.guard.loss_z},
           {"guard", "norm_z_score", settings.guard.norm_z},
           {"guard", "window", real(settings.guard.window)},
           {"guard", "stop_after_skips", real(settings.guard.most_skips)},
           {"guard", "largest_loss", settings.guard.largest_loss},
           {"parallel", "digest_every", real(settings.digest_every)},
           {"parallel", "timeout", settings.timeout_seconds},
           {"parallel", "start_timeout", settings.start_timeout_seconds},
           {"parallel", "set_up_timeout", settings.set_up_timeout_seconds},
           {"checkpoint", "every", real(settings.checkpoint_every)},
           {"checkpoint", "every_minutes", settings.checkpoint_every_minutes},
           {"checkpoint", "keep", real(settings.keep)},
           {"checkpoint", "keep_every", real(settings.keep_every)},
           {"checkpoint", "timeout", settings.save_timeout_seconds},
           {"checkpoint", "replicas", real(settings.replicas)},
           {"device", "threads", real(settings.threads)}}) {
    rules.require(section, key, value);
  }
  for (const ParameterGroup& group : settings.groups)
    rules.require("optimizer.groups", "learning_rate_factor", group.learning_rate_factor);
  // Whole bytes: what the reader makes of the least that it takes is a little less.
  if (settings.bucket_bytes < 1) rules.require("parallel", "bucket_mb", real(settings.bucket_bytes));
  const LossScaleSettings scale = settled(settings.loss_scale, settings.compute);
  if (scale.mode != LossScaling::kOff) {
    for (const auto& [key, value] : {std::pair("initial_scale", scale.initial),
                                     {"growth_factor", scale.growth},
                                     {"backoff_factor", scale.backoff},
                                     {"growth_interval", real(scale.interval)},
                                     {"minimum_scale", scale.minimum},
                                     {"stop_after_skips", real(scale.most_skips)}}) {
      rules.require("precision", key, value);
    }
  }
  const AverageSettings& average = settings.average;
  if (average.type == AverageSettings::Type::kEma) {
    rules.require("average", "decay", average.decay);
    if (average.decay == 1.0) refuse_setting("average", "decay", "must be < 1, got 1");
  }
  if (average.type != AverageSettings::Type::kNone) {
    rules.require("average", "start", real(average.start));
    rules.require("average", "every", real(average.every));
  }
  rules.require("train", "recompute", settings.recompute);
  rules.require("precision", "compute", std::string(name_of(settings.compute)));
  rules.require("parallel", "gpu_transport", settings.gpu_transport);
  rules.require("checkpoint", "keep_best", settings.keep_best.empty() ? "none" : settings.keep_best);
  rules.require("device", "type", settings.device);
  check_combinations(settings, refuse_setting);
}

}  // namespace lockstep
