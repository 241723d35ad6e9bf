// The one exception type of Lockstep and the exit code that belongs to each kind of failure.
#pragma once

#include <stdexcept>
#include <string>

namespace lockstep {

enum class ErrorKind { kUsage, kData, kCheckpoint, kNumeric, kCommunication, kInternal };

// A failure that the user can be told about in one line: who, where, rule, values.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws Error. Callers format the message: "where: rule: values".
[[noreturn]] void fail(ErrorKind kind, const std::string& message);

// Exit codes of the command: 0 done, 1 internal, 2 usage, 3 data, 4 checkpoint, 5 numeric, 6 communication.
int exit_code(ErrorKind kind);

inline constexpr int kExitStopped =
    75;  // stopped by a signal after saving a checkpoint (EX_TEMPFAIL: requeue me)

}  // namespace lockstep
