// Files that change while they are mapped: told, and survived.
#include "lockstep/core/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>
#include <vector>

namespace lockstep {
namespace {

class MappedFileTest : public ::testing::Test {
 protected:
  MappedFileTest() : path_("/tmp/lockstep-mapped-" + std::to_string(::getpid())) {
    std::ofstream(path_, std::ios::binary) << std::string(kBytes, 'x');
    outlive_bus_errors();
  }
  ~MappedFileTest() override { std::filesystem::remove(path_); }

  static std::string error_of(const MappedFile& file) {
    try {
      file.require_readable();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      return error.what();
    }
    return "";
  }
  static size_t sum(std::span<const std::byte> bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), size_t{0},
                           [](size_t total, std::byte byte) { return total + static_cast<size_t>(byte); });
  }

  static constexpr size_t kBytes = 5 * 65536;
  std::string path_;
};

TEST_F(MappedFileTest, HoldsTheFilesBytes) {
  const MappedFile file(path_, kBytes - 7, ErrorKind::kData);
  EXPECT_EQ(file.bytes().size(), kBytes - 7);
  file.read_ahead(70000, 200000);
  EXPECT_EQ(sum(file.bytes()), (kBytes - 7) * 'x');
  EXPECT_EQ(error_of(file), "");
  EXPECT_THROW(MappedFile(path_, kBytes + 1, ErrorKind::kData), Error);
  EXPECT_THROW(MappedFile(path_ + "-not", 1, ErrorKind::kData), Error);
}

TEST_F(MappedFileTest, AFileThatBecomesShorterIsToldInsteadOfEndingTheProcess) {
  const MappedFile file(path_, kBytes, ErrorKind::kData), other(path_, 1000, ErrorKind::kData);
  std::filesystem::resize_file(path_, 65536 + 10);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { EXPECT_EQ(sum(file.bytes()), (65536u + 10) * 'x'); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(error_of(file), path_ + ": has become shorter while it is in use");
  EXPECT_EQ(error_of(other), "");
  // That the bytes are those of another time stays known when the file has grown again.
  std::filesystem::resize_file(path_, kBytes);
  EXPECT_EQ(error_of(file), path_ + ": a part of it can no longer be read");
}

TEST_F(MappedFileTest, WhatIsMissingOfTheLastPageIsToldToo) {
  const MappedFile file(path_, kBytes, ErrorKind::kData);
  std::filesystem::resize_file(path_, kBytes - 1);
  EXPECT_EQ(sum(file.bytes()), (kBytes - 1) * 'x');
  EXPECT_EQ(error_of(file), path_ + ": has become shorter while it is in use");
}

TEST_F(MappedFileTest, OtherBusErrorsEndTheProcessAsBefore) {
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, SIG_DFL);  // sanitizers have handlers of their own
        outlive_bus_errors();
        outlive_bus_errors();
        std::FILE* foreign = std::tmpfile();
        auto* bytes =
            static_cast<volatile char*>(::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, ::fileno(foreign), 0));
        std::exit(bytes[0]);
      },
      ::testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, SIG_DFL);
        outlive_bus_errors();
        ::raise(SIGBUS);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace lockstep
