// Through utf8proc, but for the order of combining marks, which it sorts in quadratic time.
#include "text/normalization.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "text/utf8.h"

namespace lockstep {

namespace {

// The longest decomposition of one character has 18 code points (U+FDFA).
constexpr int kMostDecomposed = 32;

// Nothing below changes in NFC: there the first combining mark is U+0300.
constexpr char32_t kFirstMark = 0x300;

bool changes_nothing(std::string_view text, Normalization form) {
  size_t at = skip_ascii(text, 0);
  if (at == text.size()) return true;
  if (form != Normalization::kNfc) return false;
  while ((at = skip_ascii(text, at)) < text.size())
    if (next_code_point(text, at) >= kFirstMark) return false;
  return true;
}

int combining_class(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

}  // namespace

std::string_view normalized(std::string_view text, Normalization form, std::string& scratch) {
  if (form == Normalization::kNone || changes_nothing(text, form)) return text;
  const auto compatible = form == Normalization::kNfkc ? UTF8PROC_COMPAT : utf8proc_option_t{};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | compatible);
  std::vector<utf8proc_int32_t> decomposed;
  decomposed.reserve(text.size());
  std::array<utf8proc_int32_t, kMostDecomposed> parts{};
  for (size_t at = 0; at < text.size();) {
    const auto code_point = static_cast<utf8proc_int32_t>(next_code_point(text, at));
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(code_point, parts.data(), kMostDecomposed, options, &boundary);
    decomposed.insert(decomposed.end(), parts.begin(), parts.begin() + count);
  }
  // Canonical ordering: runs of marks by their class.
  for (auto begin = decomposed.begin(); begin != decomposed.end();) {
    begin = std::find_if(begin, decomposed.end(), [](auto c) { return combining_class(c) != 0; });
    const auto end = std::find_if(begin, decomposed.end(), [](auto c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(decomposed.data(), std::ssize(decomposed),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  scratch.clear();
  for (utf8proc_ssize_t i = 0; i < count; ++i)
    append_code_point(scratch, static_cast<char32_t>(decomposed[static_cast<size_t>(i)]));
  return scratch;
}

}  // namespace lockstep
