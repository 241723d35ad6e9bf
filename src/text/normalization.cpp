// Decompositions and classes come from utf8proc. Only the surroundings of characters that can change are
// touched.
#include "lockstep/text/normalization.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <iterator>
#include <memory>
#include <vector>

#include "lockstep/text/utf8.h"

namespace lockstep {

namespace {

using Character = utf8proc_int32_t;
constexpr Character kCharacters = 0x110000;
// The longest decomposition of one character has 18 code points (U+FDFA).
constexpr size_t kMostDecomposed = 32;

struct UnknownRange {
  Character first, last;
};

// The peers' normalizer has the Unicode of 2016, in which these do not take part: the vocabularies that ask
// for normalization were made with it. From tests/text/unknown_to_normalizers.py.
constexpr UnknownRange kUnknown[] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x105C9, 0x105C9},
    {0x105E4, 0x105E4}, {0x10781, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27},
    {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11383, 0x11383}, {0x11385, 0x11385}, {0x1138E, 0x1138E},
    {0x11391, 0x11391}, {0x113C5, 0x113C5}, {0x113C7, 0x113C8}, {0x113CE, 0x113D0}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16121, 0x16128}, {0x1612F, 0x1612F}, {0x16D68, 0x16D6A},
    {0x16FF0, 0x16FF1}, {0x1CCD6, 0x1CCF9}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1F16C, 0x1F16C},
    {0x1FBF0, 0x1FBF9},
};

bool is_unknown(Character c) {
  const UnknownRange* range = std::ranges::lower_bound(kUnknown, c, {}, &UnknownRange::last);
  return range != std::end(kUnknown) && c >= range->first;
}

int combining_class(Character c) {
  return is_unknown(c) ? 0 : utf8proc_get_property(c)->combining_class;
}

using Decomposition = std::array<Character, kMostDecomposed>;

size_t decompose(Character c, Normalization form, Decomposition& parts) {
  parts[0] = c;
  if (is_unknown(c)) return 1;
  const auto compatible = form == Normalization::kNfkc ? UTF8PROC_COMPAT : utf8proc_option_t{};
  int boundary = 0;
  return static_cast<size_t>(utf8proc_decompose_char(
      c, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | compatible), &boundary));
}

// The one character that these two are in composed form; 0: there is none.
Character composed(Character first, Character second) {
  std::array<Character, 2> pair = {first, second};
  const bool one =
      utf8proc_normalize_utf32(pair.data(), 2,
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE)) == 1;
  return one && !is_unknown(pair[0]) ? pair[0] : 0;
}

// Canonical ordering and composition (Unicode, section 3.11) of decomposed characters, in place.
void compose(std::vector<Character>& text) {
  for (auto begin = text.begin(); begin != text.end();) {
    begin = std::find_if(begin, text.end(), [](Character c) { return combining_class(c) != 0; });
    const auto end = std::find_if(begin, text.end(), [](Character c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end,
                     [](Character a, Character b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
  size_t kept = 0, starter = 0;
  bool has_starter = false;
  int last_class = -1;  // of what stands between the starter and the next; -1: nothing does
  for (const Character c : text) {
    const int own_class = combining_class(c);
    if (has_starter && last_class < own_class) {
      if (const Character one = composed(text[starter], c); one != 0) {
        text[starter] = one;
        continue;
      }
    }
    if (own_class == 0) {
      starter = kept;
      has_starter = true;
      last_class = -1;
    } else {
      last_class = own_class;
    }
    text[kept++] = c;
  }
  text.resize(kept);
}

// Characters that a form leaves as they are, whatever stands before them.
using StableCharacters = std::bitset<kCharacters>;

std::unique_ptr<StableCharacters> find_stable(Normalization form) {
  auto stable = std::make_unique<StableCharacters>();
  StableCharacters seconds;  // of what is composed
  Decomposition parts{};
  for (Character c = 0; c < kCharacters; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const size_t count = decompose(c, form, parts);
    std::vector<Character> text(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(count));
    for (size_t i = 1; i < count; ++i) seconds.set(static_cast<size_t>(text[i]));
    if (count > 1) compose(text);
    stable->set(static_cast<size_t>(c), text.size() == 1 && text[0] == c && combining_class(c) == 0);
  }
  // A decomposition of compatibility has seconds that are nothing of the kind: they are looked at, no more.
  *stable &= ~seconds;
  return stable;
}

const StableCharacters& stable_characters(Normalization form) {
  static const std::unique_ptr<StableCharacters> kNfc = find_stable(Normalization::kNfc);
  if (form == Normalization::kNfc) return *kNfc;
  static const std::unique_ptr<StableCharacters> kNfkc = find_stable(Normalization::kNfkc);
  return *kNfkc;
}

}  // namespace

std::string_view normalized(std::string_view text, Normalization form, std::string& scratch) {
  if (form == Normalization::kNone) return text;
  const StableCharacters& stable = stable_characters(form);
  bool changed = false;
  size_t copied = 0;       // of the text
  size_t last_stable = 0;  // where the last stable character before `at` begins
  std::vector<Character> section;
  Decomposition parts{};
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    // The character of ASCII before this one may be the base of a mark.
    if (at > 0 && static_cast<unsigned char>(text[at - 1]) < 0x80) last_stable = at - 1;
    size_t next = at;
    if (stable[next_code_point(text, next)]) {
      last_stable = at;
      at = next;
      continue;
    }
    // From the stable character before it to the next one.
    section.clear();
    size_t end = std::max(last_stable, copied);
    const size_t begin = end;
    while (end < text.size()) {
      next = end;
      const auto c = static_cast<Character>(next_code_point(text, next));
      if (end > at && stable[static_cast<size_t>(c)]) break;
      const size_t count = decompose(c, form, parts);
      section.insert(section.end(), parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(count));
      end = next;
    }
    compose(section);
    if (!changed) scratch.clear();
    changed = true;
    scratch.append(text.substr(copied, begin - copied));
    for (const Character c : section) append_code_point(scratch, static_cast<char32_t>(c));
    copied = at = end;
  }
  if (!changed) return text;
  scratch.append(text.substr(copied));
  return scratch;
}

}  // namespace lockstep
