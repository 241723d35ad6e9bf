// Gathering texts.
#include "lockstep/train/worker_texts.h"

#include <algorithm>

namespace lockstep {

std::vector<std::string> worker_texts(Communicator& communicator, const std::string& text,
                                      const std::string& label) {
  std::vector<uint64_t> sizes(static_cast<size_t>(communicator.world_size()));
  const uint64_t size = text.size();
  communicator.all_gather(&size, sizeof size, sizes.data(), label)->wait();
  const size_t longest = std::ranges::max(sizes);
  std::string mine = text, all(sizes.size() * longest, '\0');
  mine.resize(longest);
  if (longest > 0) communicator.all_gather(mine.data(), longest, all.data(), label)->wait();
  std::vector<std::string> texts;
  for (size_t worker = 0; worker < sizes.size(); ++worker)
    texts.push_back(all.substr(worker * longest, sizes[worker]));
  return texts;
}

}  // namespace lockstep
