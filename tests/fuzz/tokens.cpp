// Token files of other programs: a file and, behind the bytes "--", Megatron's index where there is one.
#include <vector>

#include "lockstep/text/token_file.h"
#include "target.h"

using namespace lockstep;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  std::string path = directory.write("text.bin", input.until("--"));
  directory.remove("text.idx");
  if (!input.empty()) path = directory.write("text.idx", input.rest());
  fuzz::accepts([&] {
    const auto file = open_token_file(path);
    std::vector<int32_t> tokens(static_cast<size_t>(file->size()));
    std::vector<float> weights(tokens.size());
    file->read_ahead(0, file->size());
    if (!fuzz::accepts([&] { file->read(0, tokens); })) return;
    file->read_weights(0, weights);
    for (const int32_t token : tokens) {
      if (token < 0) fuzz::wrong("a token below 0");
    }
    for (int64_t i = 0; i <= file->description().documents; ++i) {
      fuzz::accepts([&] {
        const int64_t begin = file->document_begin(i);
        if (begin < 0 || begin > file->size()) fuzz::wrong("a document outside of the file");
      });
    }
    if (file->description().documents > 0 && file->size() > 0) {
      fuzz::accepts([&] {
        const int64_t document = file->document_of(file->size() / 2);
        if (document < 0 || document >= file->description().documents) fuzz::wrong("no such document");
      });
    }
  });
  return 0;
}
