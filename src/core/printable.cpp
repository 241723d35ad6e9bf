// Replacing what cannot be shown.
#include "lockstep/core/printable.h"

#include <nlohmann/json.hpp>
#include <string_view>

namespace lockstep {

std::string printable(const std::string& text) {
  // nlohmann's own check of UTF-8: what is none becomes U+FFFD.
  const std::string quoted =
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string result = nlohmann::json::parse(quoted).get<std::string>();
  for (size_t i = 0; i < result.size(); ++i) {
    const auto byte = static_cast<unsigned char>(result[i]);
    if (byte < 0x20 || byte == 0x7F) result[i] = '?';
    // U+0080 to U+009F are controls as well.
    const bool control =
        byte == 0xC2 && i + 1 < result.size() && static_cast<unsigned char>(result[i + 1]) < 0xA0;
    if (control) result.replace(i, 2, "?");
    const std::string_view rest = std::string_view(result).substr(i);
    if (rest.starts_with("\xEF\xBF\xBE") || rest.starts_with("\xEF\xBF\xBF")) result.replace(i, 3, "?");
  }
  return result;
}

std::string xml_text(const std::string& text) {
  std::string result;
  for (const char c : printable(text)) {
    if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '&') {
      result += "&amp;";
    } else {
      result += c;
    }
  }
  return result;
}

}  // namespace lockstep
