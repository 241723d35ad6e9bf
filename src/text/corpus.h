// Documents of a corpus: files of text and of JSON lines, compressed or not, in an order that does not
// change.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/input_file.h"

namespace lockstep {

struct CorpusOptions {
  std::vector<std::string> inputs;  // files, directories and pipes
  std::string pipe = {};            // what comes out of pipes without a name: "jsonl" or "txt"; "": not said
  std::optional<std::string> field = {};  // of each line of .jsonl; "text" where it is not said
  // The field of each line that holds what `field` answers, whose tokens do not count; "": there is none.
  std::string prompt = {};

  std::string text_field() const { return field.value_or("text"); }
};

struct CorpusFile {
  std::string path;
  bool json_lines = false;
  int64_t bytes = 0;  // as stored
  InputFile::Kind kind = InputFile::Kind::kFile;
};

// The files of the inputs in their order, those of a directory and all below it by name. A .jsonl or .ndjson,
// plain or behind .gz or .zst, has a document a line; any other file is one document. Of directories only
// these and .txt are taken, links to directories followed, each directory once. What pipes hold ("-" is
// standard input) options.pipe says where their names do not. Errors: kUsage for an input that is not there
// or has no such file, for a pipe of unknown content or that is there twice, for options.pipe where there is
// none, for options.field where no file has lines, and for a prompt in the field of what answers it.
std::vector<CorpusFile> corpus_files(const CorpusOptions& options);

// A part of one document, or several whole ones.
struct TextChunk {
  const CorpusFile* file = nullptr;
  std::string text;
  int64_t first_line = 0;  // of JSON lines: the number of the first, from 1
  bool begins = true, ends = true;
};

// A document, or the part of one that a chunk holds.
struct TextDocument {
  std::string_view prompt, text;
  std::string place;  // file, and line where it has lines; for messages
};

// Calls document(part) for each in a chunk: itself, or the fields of each of its lines. Errors naming file
// and line: kData for what is no JSON object, or is without those fields as texts; kUsage for a file without
// lines where prompts are asked for.
void visit_documents(const TextChunk& chunk, const CorpusOptions& options,
                     const std::function<void(const TextDocument&)>& document);

// Reads files chunk by chunk.
class CorpusReader {
 public:
  // cut: as Tokenizer::cut, for documents that are longer than a chunk. `files` must live as long.
  CorpusReader(const std::vector<CorpusFile>& files, std::function<size_t(std::string_view)> cut);
  // False at the end. Errors (kData) as InputFile, and for a line or an uncut document above 1 GiB.
  bool next(TextChunk& chunk);
  // Stored bytes of all files so far.
  int64_t bytes_done() const { return done_ + (input_ ? input_->stored_offset() : 0); }

 private:
  bool open_next();
  void fill(size_t bytes);

  const std::vector<CorpusFile>& files_;
  std::function<size_t(std::string_view)> cut_;
  size_t next_file_ = 0;
  const CorpusFile* file_ = nullptr;
  std::unique_ptr<InputFile> input_;
  bool exhausted_ = false;
  bool begins_ = true;  // a document
  int64_t line_ = 1;
  int64_t done_ = 0;  // stored bytes of files before this one
  std::string buffer_;
};

}  // namespace lockstep
