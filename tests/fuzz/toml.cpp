// Configurations: a file and, behind a line "--set", an override a line.
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/train/settings.h"
#include "target.h"

using namespace lockstep;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  const std::string path = directory.write("run.toml", input.until("\n--set\n"));
  std::vector<std::string> overrides;
  // As many as a command line has.
  while (!input.empty() && overrides.size() < 64) overrides.emplace_back(input.until("\n"));
  for (const std::string& text : overrides) Configuration::is_override(text);
  fuzz::accepts([&] {
    Configuration configuration = Configuration::load(path, overrides);
    read_settings(configuration);
    const std::string resolved = configuration.resolved();
    Configuration again = Configuration::parse(resolved, "resolved", {});
    bool read = fuzz::accepts([&] { read_settings(again); });
    if (!read || again.resolved() != resolved) fuzz::wrong("another configuration than it resolves to");
    configuration.reject_unknown();
  });
  return 0;
}
