// What HDF5 keeps for the whole process.
#include "lockstep/hdf5/library.h"

namespace lockstep {

namespace {

std::mutex& library_mutex() {
  static std::mutex instance;
  return instance;
}

}  // namespace

LibraryLock::LibraryLock() : lock_(library_mutex()) {
  // Reasons reach the user through exceptions; HDF5 would print its stack of them to stderr.
  static const herr_t silenced = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  (void)silenced;
}

std::string deepest_reason() {
  std::string reason = "no reason given";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned position, const H5E_error2_t* entry, void* result) -> herr_t {
        if (position == 0 && entry->desc != nullptr) *static_cast<std::string*>(result) = entry->desc;
        return 0;
      },
      &reason);
  return reason;
}

}  // namespace lockstep
