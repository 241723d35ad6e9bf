// Weights of other programs. Either the input is the file, or a header and, behind a NUL, data: its length is
// put before it here.
#include "lockstep/exchange/safetensors.h"

#include <cstring>

#include "target.h"

using namespace lockstep;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  std::string content;
  if (input.flag()) {
    const std::string_view header = input.until(std::string_view("\0", 1));
    const uint64_t length = header.size();
    content.assign(reinterpret_cast<const char*>(&length), sizeof length);
    content += header;
  }
  content += input.rest();
  const std::string path = directory.write("model.safetensors", content);
  fuzz::accepts([&] {
    const SafetensorsFile file(path);
    size_t covered = 0;
    for (const SafetensorsEntry& entry : file.entries()) {
      covered += file.bytes(entry).size();
      fuzz::accepts([&] { file.read(entry); });
    }
    if (covered > content.size()) fuzz::wrong("bytes that belong to two tensors");
  });
  fuzz::accepts([&] { SafetensorsDirectory(std::filesystem::path(path).parent_path().string()).names(); });
  return 0;
}
