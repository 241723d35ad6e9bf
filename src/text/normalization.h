// Unicode normalization forms, for tokenizers that ask for them.
#pragma once

#include <string>
#include <string_view>

namespace lockstep {

enum class Normalization { kNone, kNfc, kNfkc };

// Well-formed text in this form: itself where nothing can change, else in `scratch`.
std::string_view normalized(std::string_view text, Normalization form, std::string& scratch);

}  // namespace lockstep
