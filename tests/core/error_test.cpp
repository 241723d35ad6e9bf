// Failures carry their kind, and each kind has the exit code that the documentation promises.
#include "lockstep/core/error.h"

#include <gtest/gtest.h>

#include <exception>
#include <string>

namespace lockstep {
namespace {

TEST(Error, CarriesKindAndMessage) {
  try {
    fail(ErrorKind::kData, "digits.h5: label out of range: 12");
    FAIL() << "no error";
  } catch (const std::exception& exception) {
    const auto* error = dynamic_cast<const Error*>(&exception);
    ASSERT_NE(error, nullptr);
    EXPECT_EQ(error->kind(), ErrorKind::kData);
    EXPECT_STREQ(error->what(), "digits.h5: label out of range: 12");
  }
}

TEST(Error, KindsHaveTheDocumentedExitCodes) {
  EXPECT_EQ(exit_code(ErrorKind::kInternal), 1);
  EXPECT_EQ(exit_code(ErrorKind::kUsage), 2);
  EXPECT_EQ(exit_code(ErrorKind::kData), 3);
  EXPECT_EQ(exit_code(ErrorKind::kCheckpoint), 4);
  EXPECT_EQ(exit_code(ErrorKind::kNumeric), 5);
  EXPECT_EQ(exit_code(ErrorKind::kCommunication), 6);
  EXPECT_EQ(kExitStopped, 75);
}

}  // namespace
}  // namespace lockstep
