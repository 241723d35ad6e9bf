// Throwing and classifying failures.
#include "lockstep/core/error.h"

namespace lockstep {

void fail(ErrorKind kind, const std::string& message) {
  throw Error(kind, message);
}

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kData:
      return 3;
    case ErrorKind::kCheckpoint:
      return 4;
    case ErrorKind::kNumeric:
      return 5;
    case ErrorKind::kCommunication:
      return 6;
    case ErrorKind::kInternal:
      return 1;
  }
  return 1;
}

}  // namespace lockstep
