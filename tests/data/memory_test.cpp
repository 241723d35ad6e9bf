// Small files that hold more than fits: one line before memory is taken, in a process that may take little.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/data/dataset.h"

namespace lockstep {
namespace {

class Bomb : public ::testing::Test {
 protected:
  // What reading says in a process that may take 200 MiB more; "" when it works, "ended by signal" when it
  // does.
  static std::string message_of(const DatasetOptions& options,
                                const std::function<void(const DatasetOptions&)>& reading = read_dataset) {
    int ends[2];
    if (pipe(ends) != 0) return "no pipe";
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      int64_t pages = 0;
      std::ifstream("/proc/self/statm") >> pages;
      const auto most = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (int64_t{200} << 20));
      const rlimit limit{most, most};
      setrlimit(RLIMIT_AS, &limit);
      std::string message;
      try {
        reading(options);
      } catch (const Error& error) {
        message = error.kind() == ErrorKind::kData ? error.what() : "wrong kind";
      } catch (const std::bad_alloc&) {
        message = "bad_alloc";
      }
      if (write(ends[1], message.data(), message.size()) < 0) _exit(1);
      _exit(0);
    }
    close(ends[1]);
    std::string message;
    char buffer[4096];
    for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
      message.append(buffer, static_cast<size_t>(got));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? message : "ended by signal";
  }
  static void expect_refused(const DatasetOptions& options,
                             const std::function<void(const DatasetOptions&)>& reading = read_dataset) {
    const std::string message = message_of(options, reading);
    EXPECT_NE(message.find(options.path + ": takes "), std::string::npos) << message;
    EXPECT_NE(message.find(" bytes of memory: "), std::string::npos) << message;
    EXPECT_NE(message.find(" are available"), std::string::npos) << message;
  }
  // `start`, then `piece` so many times, inside gzip.
  void zip(const std::string& name, const std::string& start, const std::string& piece, int times) {
    gzFile file = gzopen(directory_.file(name).c_str(), "wb1");
    gzwrite(file, start.data(), static_cast<unsigned>(start.size()));
    for (int i = 0; i < times; ++i) gzwrite(file, piece.data(), static_cast<unsigned>(piece.size()));
    gzclose(file);
  }
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizer's own memory does not fit below a limit";
#endif
  }

  testing::ScratchDirectory directory_;
};

TEST_F(Bomb, OfRowsInsideGzip) {
  std::string rows;
  for (int i = 0; i < 100000; ++i) rows += "1,2,3,0\n1,2,3,1\n";
  zip("rows.csv.gz", "a,b,c,y\n", rows, 300);
  expect_refused({.path = directory_.file("rows.csv.gz")});
  zip("few.csv.gz", "a,b,c,y\n", rows, 2);
  EXPECT_EQ(message_of({.path = directory_.file("few.csv.gz")}), "");
}

TEST_F(Bomb, OfOneLineInsideGzip) {
  zip("line.csv.gz", "a,b,c,y\n", std::string(1 << 20, '1'), 400);
  expect_refused({.path = directory_.file("line.csv.gz")});
  zip("blank.csv.gz", "a,b,c,y\n1,2,3,0\n", std::string(1 << 20, '\n'), 400);
  expect_refused({.path = directory_.file("blank.csv.gz")});
}

TEST_F(Bomb, OfImagesInsideGzip) {
  // 20000 images of 100 x 100
  zip("images-idx3-ubyte.gz", std::string("\0\0\x08\x03\0\0\x4E\x20\0\0\0\x64\0\0\0\x64", 16),
      std::string(1 << 20, '\0'), 191);
  expect_refused({.path = directory_.file("images-idx3-ubyte.gz")});
  zip("cifar.bin.gz", "", std::string(3073 * 400, '\1'), 200);
  expect_refused({.path = directory_.file("cifar.bin.gz")});
}

TEST_F(Bomb, OfAnArrayInHdf5) {
  if (!testing::shell("/usr/bin/python3 -c 'import h5py'")) GTEST_SKIP() << "h5py is not installed";
  testing::overwrite(directory_.file("make.py"), R"(
import h5py, numpy as np, os, sys, zlib
os.chdir(sys.argv[1])
def new(name, n):
    file = h5py.File(name, 'w')
    file.create_dataset('y', data=np.arange(n) % 2, compression='gzip')
    return file
with new('zeros.h5', 1 << 20) as file:
    x = file.create_dataset('x', (1 << 20, 256), 'u1', chunks=(1 << 14, 256), compression='gzip')
    for row in range(0, 1 << 20, 1 << 14): x.id.write_direct_chunk((row, 0), zlib.compress(bytes(1 << 22), 9))
with new('fill.h5', 1 << 20) as file:
    file.create_dataset('x', (1 << 20, 64), 'u1', chunks=(1 << 10, 64), fillvalue=3)[:1 << 10] = 1
with new('chunk.h5', 4) as file:
    file.create_dataset('x', (4, 1 << 20), 'u1', chunks=(4, 1 << 26), maxshape=(4, None), compression='gzip')[0] = 1
)");
  ASSERT_TRUE(testing::shell("/usr/bin/python3 " + directory_.file("make.py") + " " + directory_.path()));
  for (const char* name : {"zeros.h5", "fill.h5", "chunk.h5"})
    expect_refused({.path = directory_.file(name)});
  // Nor is it unpacked before, to see whether it can be.
  expect_refused({.path = directory_.file("zeros.h5")},
                 [](const DatasetOptions& options) { try_dataset(options); });
  EXPECT_EQ(message_of({.path = directory_.file("zeros.h5")},
                       [](const DatasetOptions& options) { try_dataset(options, {.whole = false}); }),
            "");
}

}  // namespace
}  // namespace lockstep
