// JSON of files that come with weights: nothing in them may be ambiguous.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "lockstep/core/error.h"

namespace lockstep {

// An object. Error (kCheckpoint) naming `where`: not JSON, no object, nested deeper than 32, a key for the
// second time.
nlohmann::json parse_strict_object(const std::string& where, std::string_view text);

// All of a text file of at most `most_bytes`. Error (kCheckpoint).
std::string read_small_file(const std::string& path, size_t most_bytes,
                            ErrorKind kind = ErrorKind::kCheckpoint);

}  // namespace lockstep
