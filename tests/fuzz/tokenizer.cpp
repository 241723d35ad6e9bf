// Vocabularies in four formats. "@BYTES@" in a text stands for tokens of all bytes, as each format has them,
// so that seeds are short; behind the bytes "--" follows what GPT-2's pair has as its second file, and behind
// another a text to encode.
#include "lockstep/text/tokenizer.h"

#include <vector>

#include "lockstep/text/byte_alphabet.h"
#include "target.h"

using namespace lockstep;

namespace {

constexpr int kBytes = 256;

std::string base64(unsigned char byte) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  return {kDigits[byte >> 2], kDigits[(byte & 3) << 4], '=', '='};
}

std::string byte_tokens(bool json) {
  std::string text;
  for (int i = 0; i < kBytes; ++i) {
    const auto byte = static_cast<unsigned char>(i);
    std::string spelling = json ? to_byte_alphabet(std::string(1, static_cast<char>(byte))) : base64(byte);
    if (spelling == "\"" || spelling == "\\") spelling.insert(0, "\\");
    text += json ? (i == 0 ? "\"" : ",\"") + spelling + "\":" + std::to_string(i)
                 : spelling + " " + std::to_string(i) + "\n";
  }
  return text;
}

std::string filled(std::string_view text, bool json) {
  static const std::string in_json = byte_tokens(true), in_lines = byte_tokens(false);
  constexpr std::string_view kPlace = "@BYTES@";
  std::string result(text);
  if (const size_t at = result.find(kPlace); at != std::string::npos)
    result.replace(at, kPlace.size(), json ? in_json : in_lines);
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  const uint8_t format = input.byte() % 4;
  const std::string_view first = input.until("--"), second = input.until("--"), text = input.rest();
  TokenizerOptions options;
  switch (format) {
    case 0:
      options.path = directory.write("tokenizer.json", filled(first, true));
      break;
    case 1:
      options.path = directory.write("vocabulary.tiktoken", filled(first, false));
      options.pattern = "gpt2";
      break;
    case 2:
      options.path = directory.write("vocab.bpe", first);
      directory.write("encoder.json", filled(second, true));
      break;
    default:
      // A header of 256 numbers, most of which are zeros.
      std::string file(first.substr(0, 16));
      file.resize(1024);
      options.path = directory.write("tokenizer.bin",
                                     file + std::string(first.substr(std::min<size_t>(first.size(), 16))));
  }
  fuzz::accepts([&] {
    const auto tokenizer = open_tokenizer(options);
    for (int32_t id = 0; id < std::min<int64_t>(tokenizer->vocabulary_size(), 512); ++id)
      fuzz::accepts([&] { tokenizer->decode(std::vector<int32_t>{id}); });
    for (const auto spelling : {SpecialSpelling::kToken, SpecialSpelling::kText}) {
      const std::vector<int32_t> ids = tokenizer->encode(text, spelling);
      for (const int32_t id : ids) {
        if (id < 0 || id >= tokenizer->vocabulary_size())
          fuzz::wrong("a token that the vocabulary does not have");
      }
      tokenizer->decode(ids);
    }
    if (tokenizer->cut(text) > text.size()) fuzz::wrong("a cut outside of the text");
  });
  return 0;
}
