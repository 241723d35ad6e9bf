// Chunks end with lines, or where the tokenizer lets text be cut.
#include "lockstep/text/corpus.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/utf8.h"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr size_t kChunkBytes = size_t{256} << 10;
constexpr size_t kMostBytes = size_t{1} << 30;

enum class Kind { kText, kJsonLines, kOther };

// What files that are no text begin with. (Compressed ones whose readers are not built in are among them.)
constexpr std::array<std::pair<std::string_view, const char*>, 6> kFormats = {
    {{"BZh", "bzip2"},
     {{"\xfd\x37zXZ\0", 6}, "xz"},
     {"PK\3\4", "zip"},
     {"PAR1", "parquet"},
     {"\xff\xfe", "UTF-16: convert it to UTF-8"},
     {"\xfe\xff", "UTF-16: convert it to UTF-8"}}};

void refuse_other_formats(std::string_view beginning, const std::string& path) {
  if (apparent_state(beginning))
    fail(ErrorKind::kData, path + ": is no text but HDF5: it may be a token file already");
  for (const auto& [magic, name] : kFormats) {
    if (beginning.starts_with(magic))
      fail(ErrorKind::kData, fmt::format("{}: is no text but {}", path, name));
  }
}

// ".txt" of a.txt and of a.txt.gz.
fs::path extension_of(fs::path path) {
  if (path.extension() == ".gz" || path.extension() == ".zst") path.replace_extension();
  return path.extension();
}

Kind kind_of(const fs::path& path) {
  const fs::path extension = extension_of(path);
  if (extension == ".jsonl" || extension == ".ndjson") return Kind::kJsonLines;
  return extension == ".txt" ? Kind::kText : Kind::kOther;
}

// What may come out of it only once, or by a name that says nothing of it.
bool is_pipe(const std::string& input) {
  std::error_code error;
  return input == kStandardInput || input.starts_with("/dev/fd/") || input.starts_with("/proc/self/fd/") ||
         fs::is_other(input, error);
}

// By whatever name.
std::pair<dev_t, ino_t> identity_of(const std::string& pipe) {
  struct stat status {};
  const int result = pipe == kStandardInput ? ::fstat(STDIN_FILENO, &status) : ::stat(pipe.c_str(), &status);
  if (result != 0) fail(ErrorKind::kUsage, fmt::format("{}: cannot be read: {}", pipe, std::strerror(errno)));
  return {status.st_dev, status.st_ino};
}

CorpusFile pipe_of(const std::string& input, const std::string& content) {
  const Kind kind = kind_of(input);
  if (kind == Kind::kOther && content.empty()) {
    fail(ErrorKind::kUsage,
         fmt::format(
             "{}: does not tell by its name what it holds: --pipe jsonl (a document a line) or txt (one "
             "document)",
             input));
  }
  const bool lines = kind == Kind::kOther ? content == "jsonl" : kind == Kind::kJsonLines;
  return {input, lines, 0, InputFile::Kind::kPipe};
}

}  // namespace

std::vector<CorpusFile> corpus_files(const CorpusOptions& options) {
  if (!options.prompt.empty() && options.prompt == options.text_field()) {
    fail(ErrorKind::kUsage,
         fmt::format("--prompt and --completion: both are the field \"{}\", which would stand there twice",
                     options.text_field()));
  }
  std::vector<CorpusFile> files;
  std::set<std::pair<dev_t, ino_t>> pipes;
  const auto add = [&](const fs::path& path) {
    std::error_code error;
    const uintmax_t bytes = fs::file_size(path, error);
    if (extension_of(path) == ".json") {
      fail(ErrorKind::kUsage,
           path.string() + ": neither lines of JSON (name it .jsonl) nor text (name it .txt)");
    }
    if (error) fail(ErrorKind::kUsage, fmt::format("{}: cannot be read: {}", path.string(), error.message()));
    files.push_back({path.string(), kind_of(path) == Kind::kJsonLines, static_cast<int64_t>(bytes)});
  };
  for (const std::string& given : options.inputs) {
    const std::string input = given == "/dev/stdin" ? kStandardInput : given;
    std::error_code error;
    if (is_pipe(input)) {
      if (!pipes.insert(identity_of(input)).second)
        fail(ErrorKind::kUsage, given + ": a second time: what has come out of a pipe does not come again");
      files.push_back(pipe_of(input, options.pipe));
      continue;
    }
    if (!fs::is_directory(input, error)) {
      if (!fs::exists(input, error)) fail(ErrorKind::kUsage, input + ": there is no such file or directory");
      add(input);
      continue;
    }
    std::set<std::string> found;  // by name, whatever the order of the file system
    std::set<fs::path> entered = {fs::canonical(input, error)};
    for (auto entry =
             fs::recursive_directory_iterator(input, fs::directory_options::follow_directory_symlink, error);
         !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
      std::error_code ignored;
      // Links may lead back.
      if (entry->is_directory(ignored) && !entered.insert(fs::canonical(entry->path(), ignored)).second)
        entry.disable_recursion_pending();
      if (entry->path().filename().string().starts_with('.')) {  // .git, .ipynb_checkpoints
        if (entry->is_directory(ignored)) entry.disable_recursion_pending();
        continue;
      }
      // What is no file that can be read, a link to nothing for example, is named as if the user had.
      if (!entry->is_directory(ignored) && kind_of(entry->path()) != Kind::kOther)
        found.insert(entry->path().string());
    }
    if (error) fail(ErrorKind::kUsage, fmt::format("{}: cannot be read: {}", input, error.message()));
    if (found.empty()) fail(ErrorKind::kUsage, input + ": has no .txt or .jsonl in it, plain, .gz or .zst");
    for (const std::string& path : found) add(path);
  }
  const auto told = [](const CorpusFile& file) {
    return file.kind == InputFile::Kind::kPipe && kind_of(file.path) == Kind::kOther;
  };
  if (!options.pipe.empty() && std::ranges::none_of(files, told))
    fail(ErrorKind::kUsage, fmt::format("--pipe {}: there is no pipe, or its name tells it", options.pipe));
  // A file of lines under another name would be taken for text, JSON and all; where prompts are asked for,
  // visit_documents() refuses each such file.
  if (options.field && *options.field != CorpusOptions{}.text_field() && options.prompt.empty() &&
      std::ranges::none_of(files, &CorpusFile::json_lines))
    fail(ErrorKind::kUsage, fmt::format("--field {}: no .jsonl is among the inputs", *options.field));
  return files;
}

void visit_documents(const TextChunk& chunk, const CorpusOptions& options,
                     const std::function<void(const TextDocument&)>& document) {
  if (!chunk.file->json_lines) {
    if (!options.prompt.empty()) {
      fail(ErrorKind::kUsage, fmt::format("{}: has no field \"{}\": prompts are read from .jsonl",
                                          chunk.file->path, options.prompt));
    }
    document({{}, chunk.text, chunk.file->path});
    return;
  }
  std::string scratch;
  std::string_view rest = chunk.text;
  for (int64_t number = chunk.first_line; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("{}: line {}", chunk.file->path, number);
    const auto refuse = [&](const std::string& rule) {
      fail(ErrorKind::kData, fmt::format("{}: {}", place, rule));
    };
    const auto object = parse_json_object(place, well_formed(line, scratch), ErrorKind::kData);
    const auto text_of = [&](const std::string& field) -> std::string_view {
      const auto found = object.find(field);
      if (found == object.end()) {
        refuse(fmt::format("has no field \"{}\"{}", field,
                           object.empty() ? "" : fmt::format(", but \"{}\"", object.begin().key())));
      }
      if (!found->is_string())
        refuse(fmt::format("field \"{}\" must be a text: got {}", field, found->type_name()));
      return found->get_ref<const std::string&>();
    };
    const std::string_view prompt = options.prompt.empty() ? std::string_view() : text_of(options.prompt);
    document({prompt, text_of(options.text_field()), place});
  }
}

CorpusReader::CorpusReader(const std::vector<CorpusFile>& files, std::function<size_t(std::string_view)> cut)
    : files_(files), cut_(std::move(cut)) {}

bool CorpusReader::open_next() {
  if (next_file_ == files_.size()) return false;
  file_ = &files_[next_file_++];
  exhausted_ = file_->bytes == 0 && file_->kind == InputFile::Kind::kFile;
  if (exhausted_ && std::ifstream(file_->path, std::ios::binary).get() != std::ifstream::traits_type::eof()) {
    fail(ErrorKind::kData,
         fmt::format("{}: holds text and says that it is empty, as files of /proc do: copy it first",
                     file_->path));
  }
  // A compressed file has a header: a download that failed is no empty document.
  if (const fs::path path = file_->path; exhausted_ && extension_of(path) != path.extension())
    fail(ErrorKind::kData, file_->path + ": corrupted stream: ends in the middle, after 0 bytes");
  if (!exhausted_) input_ = std::make_unique<InputFile>(file_->path, file_->kind);
  begins_ = true;
  line_ = 1;
  return true;
}

// Until the buffer holds so many bytes, or the file ends.
void CorpusReader::fill(size_t bytes) {
  const size_t before = buffer_.size();
  if (exhausted_ || before >= bytes) return;
  try {
    buffer_.resize(bytes);
  } catch (const std::bad_alloc&) {
    fail(ErrorKind::kData,
         fmt::format("{}: out of memory for {} bytes of a {}", file_->path, bytes,
                     file_->json_lines ? fmt::format("line (number {})", line_) : "document"));
  }
  const size_t got = input_->read_up_to(buffer_.data() + before, bytes - before);
  buffer_.resize(before + got);
  exhausted_ = buffer_.size() < bytes;
}

bool CorpusReader::next(TextChunk& chunk) {
  if (file_ == nullptr && !open_next()) return false;
  fill(kChunkBytes);
  if (begins_ && line_ == 1) refuse_other_formats(buffer_, file_->path);
  size_t end = 0;
  while (true) {
    if (exhausted_) {
      end = buffer_.size();
      break;
    }
    end = file_->json_lines ? buffer_.rfind('\n') + 1 : cut_(buffer_);  // npos + 1 is 0
    if (end > 0) break;
    if (buffer_.size() >= kMostBytes) {
      fail(ErrorKind::kData,
           fmt::format("{}: a {} of more than {} bytes", file_->path,
                       file_->json_lines ? fmt::format("line (number {})", line_) : "document", kMostBytes));
    }
    fill(2 * buffer_.size());
  }
  chunk.file = file_;
  chunk.text.assign(buffer_, 0, end);
  chunk.first_line = line_;
  chunk.begins = std::exchange(begins_, file_->json_lines);
  buffer_.erase(0, end);
  chunk.ends = file_->json_lines || (exhausted_ && buffer_.empty());
  if (file_->json_lines) line_ += std::ranges::count(chunk.text, '\n');
  if (exhausted_ && buffer_.empty()) {
    done_ += file_->bytes;
    input_.reset();
    file_ = nullptr;
  }
  return true;
}

}  // namespace lockstep
