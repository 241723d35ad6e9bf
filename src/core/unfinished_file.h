// Files under way, of which nothing is left when they are not finished.
#pragma once

#include <string>

namespace lockstep {

// The name of a file that gets another one when it is whole. Whatever stands under it is removed with the
// object, and when a signal ends the process (remove_unfinished_on_signals).
class UnfinishedFile {
 public:
  explicit UnfinishedFile(std::string path);
  ~UnfinishedFile();
  UnfinishedFile(const UnfinishedFile&) = delete;
  UnfinishedFile& operator=(const UnfinishedFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int slot_;  // -1: signals do not know of it
};

// For commands that nothing else stops: SIGINT, SIGTERM and SIGHUP, where they would end the process, remove
// the unfinished files before they do. Ignored signals stay ignored. Before there are threads.
void remove_unfinished_on_signals();

}  // namespace lockstep
