// PCRE2 with its just-in-time compiler.
#include "lockstep/text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/text/newer_characters.h"
#include "lockstep/text/utf8.h"

namespace lockstep {

namespace {

constexpr size_t kStackBytes = size_t{64} << 10, kMostStackBytes = size_t{32} << 20;

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

std::string_view with_known_characters(std::string_view text, std::string& scratch) {
  bool replaced = false;
  size_t at = 0;
  while ((at = skip_ascii(text, at)) < text.size()) {
    const size_t begin = at;
    const char32_t code_point = next_code_point(text, at);
    const char32_t known = known_character(code_point);
    if (known == code_point) continue;
    if (!replaced) scratch.assign(text);
    replaced = true;
    std::string other;
    append_code_point(other, known);
    scratch.replace(begin, at - begin, other);
  }
  return replaced ? std::string_view(scratch) : text;
}

SplitPattern::SplitPattern(const std::string& pattern, const std::string& where)
    : pattern_(pattern), where_(where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                        PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C, &error,
                        &offset, nullptr);
  if (code_ == nullptr) {
    fail(ErrorKind::kData, fmt::format("{}: pattern at character {}: {}", where, offset, error_text(error)));
  }
  // Where there is no compiler for this processor, matching interprets.
  pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
}

SplitPattern::SplitPattern(SplitPattern&& other) noexcept
    : pattern_(std::move(other.pattern_)),
      where_(std::move(other.where_)),
      code_(std::exchange(other.code_, nullptr)) {}

SplitPattern& SplitPattern::operator=(SplitPattern&& other) noexcept {
  std::swap(pattern_, other.pattern_);
  std::swap(where_, other.where_);
  std::swap(code_, other.code_);
  return *this;
}

SplitPattern::~SplitPattern() {
  pcre2_code_free(code_);
}

PatternMatcher::PatternMatcher(const SplitPattern& pattern)
    : pattern_(&pattern),
      match_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)),
      stack_(pcre2_jit_stack_create(kStackBytes, kMostStackBytes, nullptr)) {
  // The stack may be missing where there is no just-in-time compiler.
  if (match_ == nullptr || context_ == nullptr) throw std::bad_alloc();
  if (stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, stack_);
}

PatternMatcher::PatternMatcher(PatternMatcher&& other) noexcept
    : pattern_(other.pattern_),
      match_(std::exchange(other.match_, nullptr)),
      context_(std::exchange(other.context_, nullptr)),
      stack_(std::exchange(other.stack_, nullptr)) {}

PatternMatcher::~PatternMatcher() {
  pcre2_match_data_free(match_);
  pcre2_match_context_free(context_);
  if (stack_ != nullptr) pcre2_jit_stack_free(stack_);
}

bool PatternMatcher::find(std::string_view text, size_t at, Match& match) const {
  const auto search = [&](uint32_t options) {
    return pcre2_match(pattern_->code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                       PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | options, match_, context_);
  };
  int found = search(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = search(PCRE2_NO_JIT);  // which works on the heap
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) {
    fail(ErrorKind::kData, fmt::format("{}: pattern on a text of {} bytes, from byte {} on: {}",
                                       pattern_->where_, text.size(), at, error_text(found)));
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(match_);
  // A lookahead with \K could set the beginning behind the end.
  if (offsets[0] < at || offsets[1] <= offsets[0])
    fail(ErrorKind::kData, pattern_->where_ + ": pattern: a match that does not go forward");
  match = {offsets[0], offsets[1]};
  return true;
}

namespace {

constexpr std::array<std::pair<std::string_view, const char*>, 5> kPatterns = {{
    {"gpt2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {"cl100k",
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$)"
     R"(|\s*[\r\n]|\s+(?!\S)|\s)"},
    {"o200k",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
     R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
     R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"llama3", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
               R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen2", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
              R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"},
}};

}  // namespace

const char* known_pattern(std::string_view name) {
  const auto found = std::ranges::find(kPatterns, name, [](const auto& entry) { return entry.first; });
  return found == kPatterns.end() ? nullptr : found->second;
}

bool is_known_pattern(std::string_view pattern) {
  return std::ranges::any_of(kPatterns, [&](const auto& entry) { return entry.second == pattern; });
}

}  // namespace lockstep
