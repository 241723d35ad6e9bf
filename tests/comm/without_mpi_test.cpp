// A build without MPI must not quietly run a launched job as independent copies.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

TEST(WithoutMpi, RefusesToRunUnderALauncher) {
  setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
  try {
    make_communicator({});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("this build has no MPI"), std::string::npos);
  }
  unsetenv("OMPI_COMM_WORLD_SIZE");
}

}  // namespace
}  // namespace lockstep
