// Whether a text is well-formed XML.
#pragma once

#include <algorithm>
#include <regex>
#include <string>
#include <vector>

namespace lockstep::testing {

// The reason why a text is not one well-formed XML element (of the kind without comments and declarations);
// "" if it is.
inline std::string xml_fault(const std::string& text) {
  std::vector<std::string> open;
  const std::regex tag(R"(<(/?)([A-Za-z][A-Za-z0-9]*)((?: [A-Za-z][A-Za-z0-9:-]*="[^"<]*")*)(/?)>)");
  size_t at = 0;
  int roots = 0;
  while (at < text.size()) {
    if (text[at] != '<') {
      const size_t next = std::min(text.find('<', at), text.size());
      const std::string between = text.substr(at, next - at);
      if (open.empty() && between.find_first_not_of(" \n") != std::string::npos)
        return "text outside: " + between;
      if (between.find('>') != std::string::npos) return "bare > in: " + between;
      for (size_t i = between.find('&'); i != std::string::npos; i = between.find('&', i + 1)) {
        if (!std::regex_search(between.substr(i), std::regex("^&(lt|gt|amp|quot|apos);")))
          return "bare & in: " + between;
      }
      for (const char c : between) {
        if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t')
          return "control character in: " + between;
      }
      at = next;
      continue;
    }
    std::smatch match;
    const std::string rest = text.substr(at, text.find('>', at) - at + 1);
    // std::regex recurses once a character: long attribute values are cut to their first characters, unless
    // they hold a '<'.
    std::string tag_text;
    size_t in_value = 0;
    for (const char c : rest) {
      if (c == '"')
        in_value = in_value > 0 ? 0 : 1;
      else if (in_value > 0)
        ++in_value;
      if (in_value < 10 || c == '<') tag_text += c;
    }
    if (!std::regex_match(tag_text, match, tag)) return "no tag: " + rest;
    if (match[1].length() > 0) {
      if (open.empty() || open.back() != match[2]) return "closes what is not open: " + rest;
      open.pop_back();
    } else if (match[4].length() == 0) {
      if (open.empty() && ++roots > 1) return "a second root: " + rest;
      open.push_back(match[2]);
    }
    at += rest.size();
  }
  return open.empty() && roots == 1 ? "" : "not closed, or empty";
}

}  // namespace lockstep::testing
