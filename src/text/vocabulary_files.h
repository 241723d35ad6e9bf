// Readers of vocabularies, one a format.
#pragma once

#include <memory>
#include <string>

#include "lockstep/text/tokenizer.h"

namespace lockstep {

// All of a file. Errors (kData): cannot be read, larger than a vocabulary can be.
std::string read_vocabulary_file(const std::string& path);

// tokenizer.json of Hugging Face: byte-level BPE. What it asks for and is not done is refused by its key.
std::unique_ptr<Tokenizer> read_tokenizer_json(const std::string& path, const std::string& text);
// Lines of base64 and rank. `pattern` as TokenizerOptions.
std::unique_ptr<Tokenizer> read_tiktoken(const std::string& path, const std::string& text,
                                         const std::string& pattern);
// GPT-2's merges (vocab.bpe, merges.txt) with the ids of encoder.json or vocab.json.
std::unique_ptr<Tokenizer> read_gpt2_files(const std::string& merges_path, const std::string& ids_path);
// tokenizer.bin of llm.c.
std::unique_ptr<Tokenizer> read_llmc_tokenizer(const std::string& path, const std::string& bytes);

}  // namespace lockstep
