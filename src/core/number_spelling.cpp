// Finding numbers in text.
#include "lockstep/core/number_spelling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <functional>

namespace lockstep {

namespace {

bool in_token(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || std::isalnum(byte) || c == '_' || c == '.' || c == '+' || c == '-';
}

// use(token, begin) for the runs of such characters outside of quotes, in order; `other` gets everything
// between them.
void for_tokens(
    std::string_view text, const std::function<void(std::string_view, size_t)>& use,
    const std::function<void(char)>& other = [](char) {}) {
  char quote = 0;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (quote == 0 && in_token(c)) {
      size_t end = i + 1;
      while (end < text.size() && in_token(text[end])) ++end;
      use(text.substr(i, end - i), i);
      i = end;
      continue;
    }
    other(c);
    if (quote == '"' && c == '\\' && i + 1 < text.size()) {
      other(text[++i]);
    } else if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    }
    ++i;
  }
}

// A decimal number, taken apart: [sign] whole [. fraction] [exponent].
struct Decimal {
  std::string_view sign, whole, fraction, exponent;
  bool has_point = false;
};

// The digits, and underscores between them, that `rest` begins with.
std::string_view take_digits(std::string_view& rest) {
  size_t n = 0;
  while (n < rest.size() && (std::isdigit(static_cast<unsigned char>(rest[n])) || (n > 0 && rest[n] == '_')))
    ++n;
  const std::string_view digits = rest.substr(0, n);
  rest.remove_prefix(n);
  return digits;
}

bool take_apart(std::string_view token, Decimal& number) {
  std::string_view rest = token;
  if (!rest.empty() && (rest.front() == '+' || rest.front() == '-')) {
    number.sign = rest.substr(0, 1);
    rest.remove_prefix(1);
  }
  number.whole = take_digits(rest);
  number.has_point = !rest.empty() && rest.front() == '.';
  if (number.has_point) {
    rest.remove_prefix(1);
    number.fraction = take_digits(rest);
  }
  if (number.whole.empty() && number.fraction.empty()) return false;
  number.exponent = rest;
  if (rest.empty()) return true;
  if (rest.front() != 'e' && rest.front() != 'E') return false;
  rest.remove_prefix(1);
  if (!rest.empty() && (rest.front() == '+' || rest.front() == '-')) rest.remove_prefix(1);
  return !take_digits(rest).empty() && rest.empty();
}

std::string respelled(std::string_view token) {
  Decimal number;
  if (!take_apart(token, number) || !number.has_point) return std::string(token);
  const auto or_zero = [](std::string_view digits) {
    return digits.empty() ? std::string_view("0") : digits;
  };
  return fmt::format("{}{}.{}{}", number.sign, or_zero(number.whole), or_zero(number.fraction),
                     number.exponent);
}

std::string out_of_range(std::string_view token) {
  std::string digits(token);
  std::erase(digits, '_');
  const size_t begin = digits.find_first_not_of("+-") == 1 ? 1 : 0;
  const std::string prefix = digits.substr(begin, 2);
  const int base = prefix == "0x" ? 16 : prefix == "0o" ? 8 : prefix == "0b" ? 2 : 10;
  if (base != 10) digits.erase(begin, 2);
  char* end = nullptr;
  errno = 0;
  std::strtoll(digits.c_str(), &end, base);
  if (errno == ERANGE && *end == '\0') return fmt::format("{} is beyond 64 bits", token);
  Decimal number;
  if (base == 10 && take_apart(digits, number) && std::isinf(std::strtod(digits.c_str(), nullptr))) {
    return fmt::format("{} is beyond the range of fp64", token);
  }
  return "";
}

}  // namespace

std::string spelled_for_toml(std::string_view text) {
  std::string result;
  for_tokens(
      text, [&](std::string_view token, size_t) { result += respelled(token); },
      [&](char c) { result += c; });
  return result;
}

std::string number_out_of_range(std::string_view text) {
  std::string found;
  for_tokens(text, [&](std::string_view token, size_t) {
    if (found.empty()) found = out_of_range(token);
  });
  return found;
}

std::string misspelt_number(std::string_view line, size_t column) {
  std::string found;
  for_tokens(line, [&](std::string_view token, size_t begin) {
    if (column < begin + 1 || column > begin + token.size() + 1 || !found.empty()) return;
    found = out_of_range(token);
    if (const std::string spelled = respelled(token); found.empty() && spelled != token) {
      found = fmt::format("TOML writes {} as {}", token, spelled);
    }
  });
  return found;
}

}  // namespace lockstep
