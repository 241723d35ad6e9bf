// Text of strangers, for terminals and pictures.
#pragma once

#include <string>

namespace lockstep {

// UTF-8 without what a terminal would obey and what XML has no place for: control characters and U+FFFE and
// U+FFFF become '?'. What is no UTF-8 becomes U+FFFD.
std::string printable(const std::string& text);

// The same as the text of XML and HTML.
std::string xml_text(const std::string& text);

}  // namespace lockstep
