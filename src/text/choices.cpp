// Reading choices: llm.c's records, and JSON lines.
#include "lockstep/text/choices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/core/strict_json.h"

namespace lockstep {

namespace {

constexpr int32_t kMagic = 20240522, kVersion = 1;
constexpr size_t kHeaderBytes = 1024;
constexpr uint16_t kBegin = 65535;

class LlmcChoices {
 public:
  LlmcChoices(const std::string& path, std::string_view bytes) : path_(path), bytes_(bytes) {}

  std::vector<ChoiceQuestion> read() {
    if (bytes_.size() < kHeaderBytes) refuse("truncated: the header has 1024 bytes");
    if (const int32_t version = header(1); version != kVersion)
      refuse(fmt::format("version {}: {} is known", version, kVersion));
    const int32_t count = header(2);
    std::vector<ChoiceQuestion> questions;
    at_ = kHeaderBytes;
    for (number_ = 1; number_ <= count; ++number_) questions.push_back(question());
    if (at_ != bytes_.size())
      fail(ErrorKind::kData,
           fmt::format("{}: {} bytes behind its {} questions", path_, bytes_.size() - at_, count));
    return questions;
  }

 private:
  ChoiceQuestion question() {
    const size_t begin = at_;
    if (next() != kBegin) refuse("does not begin with 65535");
    const size_t size = next();
    next();  // its number
    ChoiceQuestion question;
    question.place = fmt::format("question {}", number_);
    question.label = next();
    const size_t endings = next();
    question.context = tokens();
    for (size_t i = 0; i < endings; ++i) question.endings.push_back(tokens());
    if (at_ - begin != size) refuse(fmt::format("has {} bytes and says {}", at_ - begin, size));
    return question;
  }
  uint16_t next() {
    if (bytes_.size() - at_ < sizeof(uint16_t)) refuse("truncated");
    uint16_t value = 0;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::vector<int32_t> tokens() {
    std::vector<int32_t> tokens(next());
    for (int32_t& token : tokens) token = next();
    return tokens;
  }
  int32_t header(size_t i) const {
    int32_t value = 0;
    std::memcpy(&value, bytes_.data() + i * sizeof value, sizeof value);
    return value;
  }
  [[noreturn]] void refuse(const std::string& rule) const {
    fail(ErrorKind::kData, number_ == 0 ? fmt::format("{}: {}", path_, rule)
                                        : fmt::format("{}: question {}: {}", path_, number_, rule));
  }

  const std::string& path_;
  std::string_view bytes_;
  size_t at_ = 0;
  int32_t number_ = 0;  // of the question, from 1; 0: before them
};

int64_t label_of(const nlohmann::json& value) {
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_string()) return -1;
  const auto& text = value.get_ref<const std::string&>();
  return text.size() == 1 && text[0] >= '0' && text[0] <= '9' ? text[0] - '0' : -1;
}

std::vector<ChoiceQuestion> read_json_choices(const std::string& path, std::string_view rest,
                                              const Tokenizer& tokenizer) {
  const auto encoder = tokenizer.encoder(SpecialSpelling::kText);
  std::vector<ChoiceQuestion> questions;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("line {}", number);
    const auto object = parse_json_object(path + ": " + place, line, ErrorKind::kData);
    const auto text = [](const nlohmann::json& value) { return value.is_string(); };
    const auto require = [&](const char* field, const char* kind, const auto& is) {
      if (!object.contains(field))
        fail(ErrorKind::kData,
             fmt::format("{}: {}: has no field \"{}\", which is {}", path, place, field, kind));
      if (!is(object[field]))
        fail(ErrorKind::kData, fmt::format("{}: {}: field \"{}\": must be {}", path, place, field, kind));
    };
    require("ctx", "a text", text);
    require("endings", "an array of texts", [&](const nlohmann::json& value) {
      return value.is_array() && std::ranges::all_of(value, text);
    });
    require("label", "a number, the ending that is right, from 0 on",
            [](const nlohmann::json& value) { return label_of(value) >= 0; });
    ChoiceQuestion question;
    question.place = place;
    question.label = label_of(object["label"]);
    if (tokenizer.begin_of_text()) question.context.push_back(*tokenizer.begin_of_text());
    encoder->encode(object["ctx"].get_ref<const std::string&>(), question.context);
    for (const nlohmann::json& ending : object["endings"]) {
      const auto& words = ending.get_ref<const std::string&>();
      std::vector<int32_t>& tokens = question.endings.emplace_back();
      if (!words.empty()) encoder->encode(" " + words, tokens);
    }
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace

std::vector<ChoiceQuestion> read_choices(const std::string& path, const Tokenizer* tokenizer) {
  constexpr size_t kPiece = size_t{1} << 20, kMostBytes = size_t{256} << 20;
  std::string bytes;
  InputFile file(path);
  for (size_t read = kPiece; read == kPiece;) {
    const size_t before = bytes.size();
    if (before > kMostBytes) fail(ErrorKind::kData, fmt::format("{}: more than {} bytes", path, kMostBytes));
    bytes.resize(before + kPiece);
    read = file.read_up_to(bytes.data() + before, kPiece);
    bytes.resize(before + read);
  }
  int32_t magic = 0;
  if (bytes.size() >= sizeof magic) std::memcpy(&magic, bytes.data(), sizeof magic);
  const bool llmc = magic == kMagic;
  if (llmc && tokenizer != nullptr)
    fail(ErrorKind::kUsage, path + ": holds tokens of GPT-2, not text: leave --tokenizer out");
  if (!llmc && tokenizer == nullptr)
    fail(ErrorKind::kUsage,
         path + ": is read as JSON lines, whose text needs --tokenizer (llm.c's file does not)");
  const std::vector<ChoiceQuestion> questions =
      llmc ? LlmcChoices(path, bytes).read() : read_json_choices(path, bytes, *tokenizer);
  if (questions.empty()) fail(ErrorKind::kData, path + ": holds no questions");
  for (const ChoiceQuestion& question : questions) {
    const int64_t endings = std::ssize(question.endings);
    if (endings >= 2 && question.label < endings && !question.context.empty() &&
        std::ranges::none_of(question.endings, [](const auto& ending) { return ending.empty(); }))
      continue;
    fail(ErrorKind::kData,
         fmt::format("{}: {}: a context of {} tokens, {} endings and label {}: there must be a context, two "
                     "endings or more, none of them empty, and a label in [0, {})",
                     path, question.place, question.context.size(), endings, question.label, endings));
  }
  return questions;
}

}  // namespace lockstep
