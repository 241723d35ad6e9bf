// Files of a run's directory: replaced at once or not at all, and links never followed.
#include "lockstep/core/output_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include "core/error_message.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/log.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::message_of;

TEST(OutputFile, OnlyWhatACommandKnowsAsItsOwnIsReplaced) {
  const testing::ScratchDirectory scratch;
  const auto refusal = [&](const std::string& path, bool own) -> std::string {
    try {
      require_replaceable(path, "is no such thing", [own] { return own; });
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "";
  };
  const std::string path = scratch.file("a");
  EXPECT_EQ(refusal(path, false), "");  // nothing there
  testing::overwrite(path, "");
  EXPECT_EQ(refusal(path, false), "");
  testing::overwrite(path, "text");
  EXPECT_EQ(refusal(path, false), path + ": exists and is no such thing: not replaced");
  EXPECT_EQ(refusal(path, true), "");
  EXPECT_THROW(require_replaceable(path, "", []() -> bool { fail(ErrorKind::kData, "damaged"); }), Error);
  fs::create_symlink(path, scratch.file("link"));
  EXPECT_EQ(refusal(scratch.file("link"), true), scratch.file("link") + ": is a symbolic link: not replaced");
  EXPECT_NE(refusal(scratch.file("."), true).find("is no plain file: not replaced"), std::string::npos);
  EXPECT_NE(refusal("/dev/null", true).find("is no plain file: not replaced"), std::string::npos);
  EXPECT_NE(refusal(scratch.file("none/a"), true).find("there is no directory"), std::string::npos);
  EXPECT_EQ(refusal("", true), "the output must have a name");
  EXPECT_EQ(refusal("-", true), "-: is not standard output, whose place no file can take; ./- is a file");
}

TEST(OutputFile, AppendsToWhatIsThereOrMakesIt) {
  const testing::ScratchDirectory scratch;
  for (const char* text : {"one\n", "two\n"}) {
    const OutputFile file(scratch.file("f"), ErrorKind::kCheckpoint);
    EXPECT_EQ(file.append(text, 4), 4u);
  }
  EXPECT_EQ(bytes_of(scratch.file("f")), "one\ntwo\n");
}

TEST(OutputFile, RefusesLinksPipesDirectoriesAndDevices) {
  const testing::ScratchDirectory scratch;
  testing::overwrite(scratch.file("precious"), "precious");
  fs::create_symlink(scratch.file("precious"), scratch.file("link"));
  fs::create_symlink(scratch.file("absent"), scratch.file("dangling"));
  fs::create_directory(scratch.file("directory"));
  ASSERT_EQ(::mkfifo(scratch.file("pipe").c_str(), 0666), 0);
  for (const std::string& path : {scratch.file("link"), scratch.file("dangling"), scratch.file("directory"),
                                  scratch.file("pipe"), std::string("/dev/null")}) {
    const std::string message =
        message_of([&] { OutputFile file(path, ErrorKind::kCheckpoint); }, ErrorKind::kCheckpoint);
    EXPECT_EQ(message.rfind(path + ": cannot be written: ", 0), 0u) << message;
  }
  EXPECT_FALSE(fs::exists(scratch.file("absent")));
  EXPECT_EQ(bytes_of(scratch.file("precious")), "precious");
}

TEST(ReplaceFile, PutsTheTextInThePlaceOfALinkNotOfWhatItPointsTo) {
  const testing::ScratchDirectory scratch;
  testing::overwrite(scratch.file("precious"), "precious");
  fs::create_symlink(scratch.file("precious"), scratch.file("f"));
  for (const std::string text : {"first", "second"}) {
    replace_file(scratch.file("f"), text, ErrorKind::kCheckpoint);
    EXPECT_EQ(bytes_of(scratch.file("f")), text);
  }
  EXPECT_FALSE(fs::is_symlink(scratch.file("f")));
  EXPECT_EQ(bytes_of(scratch.file("precious")), "precious");
  EXPECT_EQ(testing::files_in(scratch.path()), 2u) << "no temporary file is left";
}

TEST(ReplaceFile, LeavesWhatStoodThereWhenItFails) {
  const testing::ScratchDirectory scratch;
  const std::string path = scratch.file("f");
  replace_file(path, "before", ErrorKind::kCheckpoint);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4000, before.rlim_max};  // room for what is said
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = message_of(
      [&] { replace_file(path, std::string(5000, 'x'), ErrorKind::kCheckpoint); }, ErrorKind::kCheckpoint);
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  replace_record(path, std::string(5000, 'x'));
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(message, path + ": cannot be written: File too large");
  EXPECT_EQ(::testing::internal::GetCapturedStderr().rfind("warning: " + message, 0), 0u);
  EXPECT_EQ(bytes_of(path), "before");
  EXPECT_EQ(testing::files_in(scratch.path()), 1u);
}

}  // namespace
}  // namespace lockstep
