// Opening without following links, appending, and replacing by rename.
#include "lockstep/core/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "lockstep/core/log.h"

namespace lockstep {

namespace {

[[noreturn]] void fail_errno(ErrorKind kind, const std::string& path, int error) {
  fail(kind, fmt::format("{}: cannot be written: {}", path, std::generic_category().message(error)));
}

}  // namespace

// O_NONBLOCK: a pipe without a reader would keep the run waiting.
OutputFile::OutputFile(const std::string& path, ErrorKind kind)
    : descriptor_(
          ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0 && errno == ELOOP)
    fail(kind, path + ": cannot be written: a symbolic link, which is not followed");
  if (descriptor_ < 0) fail_errno(kind, path, errno);
  struct stat status {};
  const int error = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (error == 0 && S_ISREG(status.st_mode)) return;
  ::close(descriptor_);
  if (error != 0) fail_errno(kind, path, error);
  fail(kind, path + ": cannot be written: not a regular file");
}

OutputFile::~OutputFile() {
  ::close(descriptor_);
}

size_t OutputFile::append(const char* bytes, size_t count) const {
  size_t done = 0;
  while (done < count) {
    const ssize_t written = ::write(descriptor_, bytes + done, count - done);
    if (written > 0) {
      done += static_cast<size_t>(written);
    } else if (written == 0) {
      errno = ENOSPC;
      break;
    } else if (errno != EINTR) {
      break;
    }
  }
  return done;
}

void require_replaceable(const std::string& path, const std::string& what, const std::function<bool()>& own) {
  namespace fs = std::filesystem;
  const auto refuse = [&](const std::string& rule) { fail(ErrorKind::kUsage, path + ": " + rule); };
  if (path.empty()) fail(ErrorKind::kUsage, "the output must have a name");
  if (path == "-") refuse("is not standard output, whose place no file can take; ./- is a file");
  std::error_code error;
  const fs::path directory = fs::path(path).parent_path();
  if (!directory.empty() && !fs::is_directory(directory, error))
    refuse(fmt::format("there is no directory {}", directory.string()));
  if (fs::is_symlink(path, error)) refuse("is a symbolic link: not replaced");
  if (!fs::exists(path, error)) return;
  if (!fs::is_regular_file(path, error)) refuse("exists and is no plain file: not replaced");
  if (fs::file_size(path, error) == 0) return;
  bool known = false;
  try {
    known = own();
  } catch (const Error&) {
    // Damaged, or something else.
  }
  if (!known) refuse(fmt::format("exists and {}: not replaced", what));
}

void replace_file(const std::string& path, ErrorKind kind,
                  const std::function<bool(const OutputFile&)>& write) {
  const std::filesystem::path target(path);
  const std::string temporary =
      (target.parent_path() / fmt::format(".{}.tmp-{}", target.filename().string(), ::getpid())).string();
  // Left by a process of the same number, or put there for us to follow.
  ::unlink(temporary.c_str());
  int error = 0;
  try {
    const OutputFile file(temporary, kind);
    if (!write(file)) error = errno;
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return;
  ::unlink(temporary.c_str());
  fail_errno(kind, path, error);
}

void replace_file(const std::string& path, const std::string& text, ErrorKind kind) {
  replace_file(path, kind, [&text](const OutputFile& file) {
    return file.append(text.data(), text.size()) == text.size();
  });
}

bool replace_record(const std::string& path, const std::string& text) {
  try {
    replace_file(path, text, ErrorKind::kUsage);
    return true;
  } catch (const Error& error) {
    log_warning(fmt::format("{}; the run goes on without it", error.what()));
    return false;
  }
}

}  // namespace lockstep
