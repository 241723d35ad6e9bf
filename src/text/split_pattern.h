// Regular expressions that cut text into pieces, through PCRE2, with the character classes of Unicode 16.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace lockstep {

// PCRE2 knows the Unicode of its own release, 14 in Debian 12, and takes U+180E for a blank. So that pieces
// do not depend on it, each character that it may not know as the peers do is replaced by an old one of the
// same category and length: the text itself where there is none, else `scratch`. Matches are at the same
// bytes.
std::string_view with_known_characters(std::string_view text, std::string& scratch);

class SplitPattern {
 public:
  // Error (kData) for what PCRE2 cannot compile; it names `where` and the offset.
  SplitPattern(const std::string& pattern, const std::string& where);
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;
  ~SplitPattern();

  const std::string& text() const { return pattern_; }

 private:
  friend class PatternMatcher;
  std::string pattern_, where_;
  pcre2_real_code_8* code_ = nullptr;
};

// What one thread needs to search with a pattern, which must live longer.
class PatternMatcher {
 public:
  explicit PatternMatcher(const SplitPattern& pattern);
  PatternMatcher(PatternMatcher&&) noexcept;
  ~PatternMatcher();

  struct Match {
    size_t begin = 0, end = 0;
  };
  // The first match from `at` on that is not empty; false: none. Text well-formed, of known characters. Error
  // (kData) where the pattern takes more steps than PCRE2 allows.
  bool find(std::string_view text, size_t at, Match& match) const;

 private:
  const SplitPattern* pattern_;
  pcre2_real_match_data_8* match_;
  pcre2_real_match_context_8* context_;
  pcre2_real_jit_stack_8* stack_;
};

// Patterns of known tokenizers: "gpt2", "cl100k" (GPT-4), "o200k", "llama3", "qwen2"; nullptr for another
// name.
const char* known_pattern(std::string_view name);
bool is_known_pattern(std::string_view pattern);

}  // namespace lockstep
