// Putting a file there and looking for it.
#include "lockstep/train/shared_directory.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>

#include "lockstep/comm/deadline.h"
#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

std::vector<bool> workers_that_see(const std::string& directory, Communicator& communicator) {
  const bool leader = communicator.rank() == 0;
  // A name that nobody has looked for before: what a network file system remembers of names may be old.
  std::string name = leader ? fmt::format(".lockstep.seen-{}-{}-{}", host_name(), ::getpid(),
                                          std::chrono::system_clock::now().time_since_epoch().count())
                            : "";
  broadcast_text(communicator, name, "shared directory");
  const std::string path = directory + "/" + name;
  // Where it could not be written, nobody sees it: one directory would be taken for several.
  run_agreed(
      communicator,
      [&] {
        if (leader) replace_file(path, name, ErrorKind::kCheckpoint);
      },
      "shared directory");
  const int64_t sees = leader || ::access(path.c_str(), F_OK) == 0 ? 1 : 0;
  std::vector<int64_t> all(static_cast<size_t>(communicator.world_size()));
  communicator.all_gather(&sees, sizeof sees, all.data(), "shared directory")->wait();
  if (leader) ::unlink(path.c_str());
  return {all.begin(), all.end()};
}

}  // namespace lockstep
