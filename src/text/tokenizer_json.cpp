// tokenizer.json: the parts of Hugging Face's pipeline that byte-level BPE uses; all others are refused by
// name.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/text/bpe_tokenizer.h"
#include "lockstep/text/byte_alphabet.h"
#include "lockstep/text/split_pattern.h"
#include "lockstep/text/vocabulary_files.h"
#include "lockstep/text/vocabulary_json.h"

namespace lockstep {

using nlohmann::json;

void VocabularyBuilder::add_ids(const json& ids, const std::string& where) {
  for (const auto& [spelling, value] : ids.items()) {
    if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() >= kMostTokens) {
      fail(ErrorKind::kData, fmt::format("{}: \"{}\": an id must be an integer in [0, {}): {}", where,
                                         spelling, kMostTokens, value.dump()));
    }
    const auto id = value.get<int32_t>();
    if (static_cast<size_t>(id) >= contents_.tokens.size())
      contents_.tokens.resize(static_cast<size_t>(id) + 1);
    std::optional<std::string>& token = contents_.tokens[static_cast<size_t>(id)];
    if (token) fail(ErrorKind::kData, fmt::format("{}: two tokens of id {}", where, id));
    // Spellings with other letters are of added tokens, which merging never makes.
    const auto bytes = from_byte_alphabet(spelling);
    token = bytes ? *bytes : spelling;
    ids_.add(spelling, id);
  }
}

void VocabularyBuilder::add_merge(std::string_view line, const std::string& where) {
  const size_t blank = line.find(' ');
  if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
    fail(ErrorKind::kData,
         fmt::format("{}: a merge must be two tokens with a blank between: \"{}\"", where, line));
  add_merge(line.substr(0, blank), line.substr(blank + 1), where);
}

void VocabularyBuilder::add_merge(std::string_view left, std::string_view right, const std::string& where) {
  const auto checked = [&](std::string_view spelling) {
    const auto found = ids_.find(spelling);
    if (!found)
      fail(ErrorKind::kData, fmt::format("{}: merges a token that has no id: \"{}\"", where, spelling));
    return *found;
  };
  const int32_t l = checked(left), r = checked(right);
  const int32_t result = checked(std::string(left) + std::string(right));
  contents_.merges.push_back({l, r, result, static_cast<uint32_t>(contents_.merges.size())});
}

void VocabularyBuilder::finish() {
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto found = id(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
    if (!found) fail(ErrorKind::kData, fmt::format("{}: no token for byte {}", where_, byte));
    contents_.byte_tokens[byte] = *found;
  }
}

std::optional<int32_t> VocabularyBuilder::id(std::string_view spelling) const {
  return ids_.find(spelling);
}

namespace {

// Reads one file. Keys are named as their path in it: model.dropout.
class Reader {
 public:
  Reader(std::string path, const std::string& text)
      : path_(std::move(path)),
        root_(parse_json_object(path_, text, ErrorKind::kData)),
        vocabulary_(contents_, path_) {
    contents_.where = path_;
  }

  BpeContents read() {
    if (const json* version = member(root_, "version"); version != nullptr && *version != "1.0")
      refuse("version", *version);
    require_absent(root_, "truncation", "");
    require_absent(root_, "padding", "");
    read_model(object(root_, "model", ""));
    if (const json* normalizer = member(root_, "normalizer")) read_normalizer(*normalizer, "normalizer");
    if (const json* pre_tokenizer = member(root_, "pre_tokenizer"))
      read_pre_tokenizer(*pre_tokenizer, "pre_tokenizer");
    if (!byte_level_) refuse_missing("pre_tokenizer: without ByteLevel");
    if (const json* added = member(root_, "added_tokens")) read_added_tokens(*added);
    if (const json* decoder = member(root_, "decoder");
        decoder != nullptr && type_of(*decoder) != "ByteLevel")
      refuse("decoder.type", decoder->is_object() ? decoder->value("type", json()) : *decoder);
    contents_.end = usual_end_of_text(contents_.added);
    if (const json* processor = member(root_, "post_processor"))
      read_post_processor(*processor, "post_processor");
    return std::move(contents_);
  }

 private:
  // What is absent, and what is null; nullptr for both.
  static const json* member(const json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void refuse(const std::string& key, const json& value) const {
    std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
    if (text.size() > 80) text = text.substr(0, 77) + "...";
    fail(ErrorKind::kData, fmt::format("{}: {}: not supported: {}", path_, key, text));
  }
  [[noreturn]] void refuse_missing(const std::string& what) const {
    fail(ErrorKind::kData, fmt::format("{}: {}: not supported", path_, what));
  }
  void require_absent(const json& object, const char* key, const std::string& where) const {
    if (const json* value = member(object, key)) refuse(where + key, *value);
  }
  // A flag that is false, or an empty text, asks for nothing.
  void require_idle(const json& object, const char* key, const std::string& where) const {
    const json* value = member(object, key);
    if (value != nullptr && *value != false && *value != "" && *value != 0.0) refuse(where + key, *value);
  }
  static std::string type_of(const json& object) {
    const json* type = object.is_object() ? member(object, "type") : nullptr;
    return type != nullptr && type->is_string() ? type->get<std::string>() : "";
  }
  const json& object(const json& parent, const char* key, const std::string& where) const {
    const json* value = member(parent, key);
    if (value == nullptr || !value->is_object())
      fail(ErrorKind::kData, fmt::format("{}: {}{}: must be an object", path_, where, key));
    return *value;
  }
  const json& array(const json& parent, const char* key, const std::string& where) const {
    const json* value = member(parent, key);
    if (value == nullptr || !value->is_array())
      fail(ErrorKind::kData, fmt::format("{}: {}{}: must be an array", path_, where, key));
    return *value;
  }
  bool flag(const json& object, const char* key, bool otherwise, const std::string& where) const {
    const json* value = member(object, key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean())
      fail(ErrorKind::kData, fmt::format("{}: {}{}: must be true or false", path_, where, key));
    return value->get<bool>();
  }

  void read_model(const json& model) {
    // Files of before the key was there have BPE.
    if (const json* type = member(model, "type"); type != nullptr && *type != "BPE")
      refuse("model.type", *type);
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
      require_idle(model, key, "model.");
    contents_.whole_pieces = flag(model, "ignore_merges", false, "model.");
    vocabulary_.add_ids(object(model, "vocab", "model."), path_ + ": model.vocab");
    const json& merges = array(model, "merges", "model.");
    for (size_t i = 0; i < merges.size(); ++i) {
      const json& merge = merges[i];
      const std::string where = fmt::format("{}: model.merges[{}]", path_, i);
      if (merge.is_string()) {
        vocabulary_.add_merge(merge.get_ref<const std::string&>(), where);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        vocabulary_.add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(),
                              where);
      } else {
        fail(ErrorKind::kData, where + ": must be \"a b\" or [\"a\", \"b\"]");
      }
    }
    vocabulary_.finish();
  }

  void read_normalizer(const json& normalizer, const std::string& where) {
    const std::string type = type_of(normalizer);
    if (type == "Sequence") {
      for (const json& part : array(normalizer, "normalizers", where + ".")) read_normalizer(part, where);
      return;
    }
    if (type != "NFC" && type != "NFKC") refuse(where, normalizer);
    const auto form = type == "NFC" ? Normalization::kNfc : Normalization::kNfkc;
    // NFKC is NFC too: of both, in either order, it is what remains.
    contents_.normalization = std::max(contents_.normalization, form);
  }

  void read_pre_tokenizer(const json& part, const std::string& where) {
    const std::string type = type_of(part);
    if (type == "Sequence") {
      const json& parts = array(part, "pretokenizers", where + ".");
      for (size_t i = 0; i < parts.size(); ++i)
        read_pre_tokenizer(parts[i], fmt::format("{}.pretokenizers[{}]", where, i));
      return;
    }
    // ByteLevel has turned the text into letters that stand for bytes.
    if (byte_level_) refuse_missing(where + ": behind ByteLevel");
    if (type == "Split") {
      read_split(part, where + ".");
    } else if (type == "Digits") {
      contents_.splits.push_back(
          {flag(part, "individual_digits", false, where + ".") ? R"(\p{N})" : R"(\p{N}+)", false});
    } else if (type == "ByteLevel") {
      byte_level_ = true;
      if (flag(part, "add_prefix_space", true, where + ".")) {
        if (!contents_.splits.empty()) refuse(where + ".add_prefix_space", true);
        contents_.prefix_space = true;
      }
      if (flag(part, "use_regex", true, where + "."))
        contents_.splits.push_back({known_pattern("gpt2"), false});
    } else {
      refuse(where, part);
    }
  }

  void read_split(const json& split, const std::string& where) {
    const json& pattern = object(split, "pattern", where);
    const json* regex = member(pattern, "Regex");
    const json* text = member(pattern, "String");
    SplitRule rule;
    if (regex != nullptr && regex->is_string()) {
      rule.pattern = regex->get<std::string>();
    } else if (text != nullptr && text->is_string() && !text->get_ref<const std::string&>().empty()) {
      // Letter by letter, whatever it means in a pattern.
      for (const char c : text->get_ref<const std::string&>()) {
        if (static_cast<unsigned char>(c) < 0x80 && std::isalnum(static_cast<unsigned char>(c)) == 0)
          rule.pattern += '\\';
        rule.pattern += c;
      }
    } else {
      refuse(where + "pattern", pattern);
    }
    const json* behavior = member(split, "behavior");
    const bool invert = flag(split, "invert", false, where);
    if (behavior != nullptr && *behavior == "Removed" && invert) {
      rule.matches_only = true;
    } else if (behavior == nullptr || *behavior != "Isolated") {
      refuse(where + "behavior", behavior == nullptr ? json() : *behavior);
    }
    contents_.splits.push_back(std::move(rule));
  }

  void read_added_tokens(const json& added) {
    if (!added.is_array()) fail(ErrorKind::kData, path_ + ": added_tokens: must be an array");
    for (size_t i = 0; i < added.size(); ++i) {
      const json& token = added[i];
      const std::string where = fmt::format("added_tokens[{}].", i);
      const json* id = token.is_object() ? member(token, "id") : nullptr;
      const json* content = token.is_object() ? member(token, "content") : nullptr;
      if (id == nullptr || !id->is_number_integer() || id->get<int64_t>() < 0 ||
          id->get<int64_t>() >= kMostTokens || content == nullptr || !content->is_string() ||
          content->get_ref<const std::string&>().empty()) {
        fail(ErrorKind::kData, fmt::format("{}: {}id, {}content: must be an integer in [0, {}) and a text",
                                           path_, where, where, kMostTokens));
      }
      for (const char* key : {"single_word", "lstrip", "rstrip"}) require_idle(token, key, where);
      require_apart(content->get_ref<const std::string&>(), id->get<int32_t>(), where);
      AddedToken entry;
      entry.text = content->get<std::string>();
      entry.id = id->get<int32_t>();
      entry.special = flag(token, "special", false, where);
      entry.normalized = flag(token, "normalized", !entry.special, where);
      if (entry.normalized && contents_.normalization != Normalization::kNone) {
        std::string scratch;
        entry.text = normalized(entry.text, contents_.normalization, scratch);
      }
      contents_.added.push_back(std::move(entry));
    }
  }

  // Two texts of one id, or two ids of one text, would decode to what was not encoded.
  void require_apart(const std::string& text, int32_t id, const std::string& where) {
    const auto refuse_pair = [&](const std::string& other) {
      fail(ErrorKind::kData, fmt::format("{}: {}id: {} of \"{}\": {}", path_, where, id, text, other));
    };
    if (const auto other = added_ids_.find(id); other != added_ids_.end())
      refuse_pair(fmt::format("is that of \"{}\" too", other->second));
    if (!added_texts_.insert(text).second) refuse_pair("is added twice");
    added_ids_.emplace(id, text);
    const auto at = static_cast<size_t>(id);
    if (at >= contents_.tokens.size() || !contents_.tokens[at]) return;
    const auto bytes = from_byte_alphabet(text);
    if (*contents_.tokens[at] != text && (!bytes || *contents_.tokens[at] != *bytes))
      refuse_pair(fmt::format("is that of \"{}\" in model.vocab", *contents_.tokens[at]));
  }

  // It changes no id of a text: of a template the tokens before and behind a single one are kept.
  void read_post_processor(const json& processor, const std::string& where) {
    const std::string type = type_of(processor);
    if (type == "Sequence") {
      for (const json& part : array(processor, "processors", where + ".")) read_post_processor(part, where);
      return;
    }
    if (type == "ByteLevel") return;
    if (type != "TemplateProcessing") refuse(where, processor);
    bool behind = false;
    for (const json& part : array(processor, "single", where + ".")) {
      if (part.is_object() && part.contains("Sequence")) behind = true;
      if (!part.is_object() || !part.contains("SpecialToken")) continue;
      const json* name = member(part["SpecialToken"], "id");
      const auto found = std::ranges::find_if(contents_.added, [&](const AddedToken& added) {
        return name != nullptr && name->is_string() && added.text == name->get_ref<const std::string&>();
      });
      if (found == contents_.added.end()) refuse(where + ".single", part);
      if (behind) contents_.end = found->id;
      if (!behind && !contents_.begin) contents_.begin = found->id;
    }
  }

  std::string path_;
  json root_;
  BpeContents contents_;
  VocabularyBuilder vocabulary_;
  std::map<int32_t, std::string> added_ids_;
  std::set<std::string> added_texts_;
  bool byte_level_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> read_tokenizer_json(const std::string& path, const std::string& text) {
  return make_bpe_tokenizer(Reader(path, text).read());
}

}  // namespace lockstep
