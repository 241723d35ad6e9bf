// What the library has to say. Nobody hears it unless the program asks: the command does.
#pragma once

#include <functional>
#include <string>

namespace lockstep {

enum class LogLevel { kInfo, kWarning, kError };

// Gets each message with its level, one line without its end, one at a time, from whichever thread has it.
// Line breaks and other control bytes that came with a path or a setting are still in it. Null, as at the
// start: they are dropped.
using LogSink = std::function<void(LogLevel level, const std::string& message)>;
void set_log(LogSink sink);

// To stderr, so that stdout carries results: "warning: ...", "error: ...". Ranks other than 0 say warnings
// and errors only unless verbose, each line with "[rank r]".
void log_to_stderr(int rank, int world_size, bool verbose);

void log_info(const std::string& message);
void log_warning(const std::string& message);
void log_error(const std::string& message);

}  // namespace lockstep
