// The seal of a file: what the first 512 bytes say about the others. The checksum of the block is set right
// where the input asks for it.
#include <xxhash.h>

#include <cstring>

#include "lockstep/hdf5/mapped_blocks.h"
#include "lockstep/hdf5/sealed_file.h"
#include "target.h"

using namespace lockstep;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  const uint8_t choice = input.byte();
  std::string file(input.rest());
  // Few inputs of some hundred bytes would have any other magic, length and checksum.
  constexpr size_t kHashed = 496;
  if ((choice & 1) != 0 && file.size() >= kSealBytes) {
    std::memcpy(file.data(), "\x89LOCKSTEP-SEAL\r\n", 16);
    if ((choice & 2) != 0) {
      const uint64_t length = file.size() - kSealBytes;
      std::memcpy(file.data() + 24, &length, sizeof length);
    }
    XXH128_canonical_t hash;
    XXH128_canonicalFromHash(&hash, XXH3_128bits(file.data(), kHashed));
    std::memcpy(file.data() + kHashed, &hash, sizeof hash);
  }
  const std::string path = directory.write("state.h5", file);
  fuzz::accepts([&] { apparent_state(path, ErrorKind::kData); });
  fuzz::accepts([&] { plain_signature(path, ErrorKind::kData); });
  fuzz::accepts([&] { seals_blocks(path, ErrorKind::kData); });
  fuzz::accepts([&] { verify_seal(path, ErrorKind::kCheckpoint, true); });
  fuzz::accepts([&] { verify_seal(path, ErrorKind::kData, false); });
  fuzz::accepts([&] {
    auto outline = verify_outline(path, ErrorKind::kData);
    if (!outline) return;
    const MappedBlocks blocks(path, *outline, ErrorKind::kData);
    for (int64_t i = 0; i < blocks.arrays(); ++i) blocks.first_damaged(i, 0, std::ssize(blocks.array(i)));
  });
  return 0;
}
