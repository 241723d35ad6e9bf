// JSON of files: nothing in it may be ambiguous.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "lockstep/core/error.h"

namespace lockstep {

// An object. Error naming `where`: not JSON, no object, nested deeper than 64, a key for the second time in
// one object.
nlohmann::json parse_json_object(const std::string& where, std::string_view text, ErrorKind kind);

// All of a text file of at most `most_bytes`, or of what comes out of a pipe. Error naming it.
std::string read_small_file(const std::string& path, size_t most_bytes, ErrorKind kind);

}  // namespace lockstep
