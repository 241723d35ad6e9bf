// Whose an output directory is.
#pragma once

#include <mutex>
#include <string>

namespace lockstep {

// Error (kUsage) when it can neither be created nor is one.
void create_output_directory(const std::string& directory);

// Exclusive ownership of an output directory by one run: a locked file DIRECTORY/.lockstep.lock with host and
// pid in it. The system gives the lock up when its process ends, however it ends, so a stale file is simply
// taken over. Creates the directory. Error (kUsage) when it is in use (names host and pid), and still is
// three seconds later, or not writable, or when the file is a symbolic link. On a file system without locks
// it warns.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

  // Whether it was locked, so that whatever other runs left here has nobody who still writes it.
  bool locked() const { return locked_; }
  // Error (kCheckpoint) when the directory is another one by now: what is in it may be another run's. Where
  // the file alone is gone, it is made and locked anew. From any thread.
  void require_held();

 private:
  bool write_text(int descriptor) const;
  bool taken_again();

  std::string path_, text_;  // of the file; in it
  bool locked_ = true;
  int directory_ = -1;  // to know it by; -1: it cannot be opened
  std::mutex mutex_;    // of what follows
  int descriptor_ = -1;
};

}  // namespace lockstep
