// Text files that a run leaves in its directory. A symbolic link under the name of one is never followed:
// what it points to is somebody else's.
#pragma once

#include <functional>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

// An open descriptor, closed with the object.
class OutputFile {
 public:
  // Opens the regular file `path` for reading and writing, or creates it. Error of `kind` when that cannot
  // be, when it is a symbolic link, or when it is anything but a file.
  OutputFile(const std::string& path, ErrorKind kind);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  int descriptor() const { return descriptor_; }
  // Bytes written at the end of the file, as many as there was room for; errno tells why they are not all.
  size_t append(const char* bytes, size_t count) const;

 private:
  int descriptor_ = -1;
};

// For commands, before they work for long: whether a new file may take the place of `path`. Error (kUsage)
// when it is empty, "-" or in no directory, or when something stands there that is no empty file and that
// `own` does not know as what the command writes (false, or an Error): it may be an input, given in the wrong
// place. Links are not replaced.
void require_replaceable(const std::string& path, const std::string& what, const std::function<bool()>& own);

// Puts a file with this text in the place of whatever stood at `path`, at once: nobody ever sees half of it.
// Error of `kind`; the file that stood there is untouched then.
void replace_file(const std::string& path, const std::string& text, ErrorKind kind);
// The same for what `write` puts into the new file; false: errno tells why it could not.
void replace_file(const std::string& path, ErrorKind kind,
                  const std::function<bool(const OutputFile&)>& write);

// The same for what a run can do without: a failure is a warning. Returns whether it is there.
bool replace_record(const std::string& path, const std::string& text);

}  // namespace lockstep
