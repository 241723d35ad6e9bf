// Compressed tables and images. Either the input is the stream; or its parts between the bytes "--" are
// packed here, the last one excepted, and stand behind each other: what is read then is what was packed, and
// a last part that is no padding is refused.
#include <zlib.h>

#include "lockstep/core/input_file.h"
#include "lockstep/data/dataset.h"
#include "target.h"

using namespace lockstep;

namespace {

std::string packed(std::string_view text) {
  z_stream stream{};
  constexpr int kGzip = 15 + 16;
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY) != Z_OK) std::abort();
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  std::string in(text);
  stream.next_in = reinterpret_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  if (deflate(&stream, Z_FINISH) != Z_STREAM_END) std::abort();
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string content_of(const std::string& path) {
  InputFile file(path);
  std::string text, piece(4096, '\0');
  while (const size_t got = file.read_up_to(piece.data(), piece.size())) text.append(piece, 0, got);
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  const uint8_t choice = input.byte();
  DatasetOptions options;
  options.format = (choice & 4) == 0 ? "auto" : (choice & 8) != 0 ? "csv" : "idx";
  options.unlabelled = (choice & 2) != 0;
  if ((choice & 1) == 0) {
    options.path = directory.write("images-idx3", input.rest());
    fuzz::accepts([&] { read_dataset(options); });
    return 0;
  }
  std::string stream, expected;
  std::string_view part = input.until("--");
  while (!input.empty()) {
    stream += packed(part);
    expected += part;
    part = input.until("--");
  }
  // What begins like a stream may be one.
  if (stream.empty() || part.starts_with('\x1f')) return 0;
  const bool padding = std::ranges::all_of(part, [](char c) { return c == '\0'; });
  options.path = directory.write("images-idx3", stream + std::string(part));
  std::string found;
  const bool taken = fuzz::accepts([&] { found = content_of(options.path); });
  if (taken != padding)
    fuzz::wrong(taken ? "bytes behind the stream are passed over" : "a stream is refused");
  if (taken && found != expected) fuzz::wrong("other bytes than those that were packed");
  const bool read = fuzz::accepts([&] { read_dataset(options); });
  if (read && !padding) fuzz::wrong("a data set that is damaged");
  return 0;
}
