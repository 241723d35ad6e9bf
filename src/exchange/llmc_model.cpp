// llm.c's model files as the parameters of a gpt.
//
// 256 int32: 20240326, version (3: fp32, 5: bf16), positions, tokens, layers, heads, width, rows of the table
// of tokens with its padding. Then one array a kind of parameter, layers one behind the other, products (out,
// in).
#include "lockstep/exchange/llmc_model.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/exchange/turned.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

namespace {

constexpr size_t kHeaderBytes = 1024;

class LlmcSource final : public WeightsSource {
 public:
  explicit LlmcSource(const std::string& path) : path_(path) {
    std::error_code error;
    const uintmax_t size =
        std::filesystem::is_regular_file(path, error) ? std::filesystem::file_size(path, error) : 0;
    if (error || size < kHeaderBytes)
      refuse(fmt::format("is no model: neither a directory nor a file with llm.c's header of {} bytes",
                         kHeaderBytes));
    file_ = std::make_unique<MappedFile>(path, size, ErrorKind::kCheckpoint);
    std::array<int32_t, 8> header{};
    std::memcpy(header.data(), file_->bytes().data(), sizeof header);
    const auto [magic, version, positions, tokens, layers, heads, width, rows] = header;
    if (apparent_state(path, ErrorKind::kCheckpoint))
      refuse(
          "is HDF5, not a model of llm.c: checkpoints of this program have an option of their own "
          "(--checkpoint)");
    if (magic != kLlmcModelMagic) refuse(fmt::format("magic {}: llm.c's is {}", magic, kLlmcModelMagic));
    if (version != 3 && version != 5)
      refuse(fmt::format("version {}: 3 (fp32) and 5 (bf16) are known", version));
    if (rows < tokens) refuse(fmt::format("{} rows for {} tokens", rows, tokens));
    element_bytes_ = version == 3 ? 4 : 2;
    options_.layers = layers;
    options_.width = width;
    options_.heads = heads;
    options_.context = positions;
    vocabulary_ = tokens;
    if (tokens < 1 || positions < 1) refuse(fmt::format("{} tokens, {} positions", tokens, positions));
    try {
      options_ = resolved(options_, 1);
    } catch (const Error& wrong) {
      refuse(wrong.what());
    }
    constexpr int32_t kEndOfText = 50256;
    if (tokens > kEndOfText) ends_ = {kEndOfText};
    place(rows, size);
  }

  std::vector<float> values(const ParameterEntry& parameter) const override {
    std::string name = parameter.name;
    int64_t layer = 0;
    if (name.starts_with("blocks.")) {
      const size_t end = name.find('.', 7);
      layer = std::stoll(name.substr(7, end - 7));
      name = name.substr(end + 1);
    }
    const int64_t count = parameter.shape.elements();
    const size_t begin = places_.at(name) + static_cast<size_t>(layer * count) * element_bytes_;
    std::vector<float> stored(static_cast<size_t>(count));
    const std::byte* bytes = file_->bytes().data() + begin;
    for (size_t i = 0; i < stored.size(); ++i) {
      if (element_bytes_ == 4) {
        std::memcpy(&stored[i], bytes + 4 * i, 4);
      } else {
        BFloat16 value;
        std::memcpy(&value, bytes + 2 * i, 2);
        stored[i] = value;
      }
    }
    file_->require_readable();
    const bool product = name == parameter.name ? false : parameter.shape.rank() == 2;
    if (!product) return stored;
    std::vector<float> values(stored.size());
    const int64_t inputs = parameter.shape[0], outputs = parameter.shape[1];
    turn(stored.data(), outputs, inputs, values.data(), outputs);
    return values;
  }

 private:
  [[noreturn]] void refuse(const std::string& rule) const {
    fail(ErrorKind::kCheckpoint, fmt::format("{}: {}", path_, rule));
  }

  void place(int64_t rows, uintmax_t size) {
    const int64_t layers = options_.layers, width = options_.width, hidden = options_.feedforward;
    const std::pair<const char*, int64_t> order[] = {{"tokens.weight", rows * width},
                                                     {"positions.weight", options_.context * width},
                                                     {"attention_norm.gamma", layers * width},
                                                     {"attention_norm.beta", layers * width},
                                                     {"attention.qkv.weight", layers * 3 * width * width},
                                                     {"attention.qkv.bias", layers * 3 * width},
                                                     {"attention.output.weight", layers * width * width},
                                                     {"attention.output.bias", layers * width},
                                                     {"feedforward_norm.gamma", layers * width},
                                                     {"feedforward_norm.beta", layers * width},
                                                     {"expand.weight", layers * hidden * width},
                                                     {"expand.bias", layers * hidden},
                                                     {"contract.weight", layers * width * hidden},
                                                     {"contract.bias", layers * width},
                                                     {"norm.gamma", width},
                                                     {"norm.beta", width}};
    size_t at = kHeaderBytes;
    for (const auto& [name, count] : order) {
      places_[name] = at;
      at += static_cast<size_t>(count) * element_bytes_;
    }
    if (at != size)
      refuse(fmt::format("{}: must have {} bytes, has {}", at > size ? "truncated" : "too long", at, size));
  }

  std::string path_;
  std::unique_ptr<MappedFile> file_;
  size_t element_bytes_ = 4;
  std::map<std::string, size_t> places_;
};

}  // namespace

std::unique_ptr<WeightsSource> open_llmc_model(const std::string& path) {
  return std::make_unique<LlmcSource>(path);
}

}  // namespace lockstep
