// Where the bytes of a new HDF5 file go: a driver whose writes never fail as far as HDF5 can see.
//
// HDF5 1.10 does not survive a full disk: after a failed flush its structures stay half freed, and the
// process crashes in its exit handler (observed with a small tmpfs). So a failure is remembered here, HDF5
// finishes undisturbed, and the owner asks for the verdict.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <string>

namespace lockstep {

class WriteDriver {
 public:
  // Creates or truncates the file. error() tells whether that worked.
  explicit WriteDriver(const std::string& path);
  ~WriteDriver();
  WriteDriver(const WriteDriver&) = delete;
  WriteDriver& operator=(const WriteDriver&) = delete;

  // Makes the file that is created with this access list go through this driver, which must outlive it.
  // Negative on failure, as HDF5 calls do.
  herr_t install(hid_t access_list);

  // errno of the first call that failed; 0 when none did.
  int error() const { return error_; }
  // Closes the file and includes what that reports in error().
  void close();

 private:
  friend struct WriteDriverCallbacks;

  void write(uint64_t offset, const void* bytes, size_t count);
  void read(uint64_t offset, void* bytes, size_t count);
  void truncate(uint64_t size);
  void note(int error) { error_ = error_ != 0 ? error_ : error; }

  int descriptor_;
  int error_ = 0;
};

}  // namespace lockstep
