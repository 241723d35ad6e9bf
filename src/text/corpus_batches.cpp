// Two batches at a time.
#include "lockstep/text/corpus_batches.h"

#include <future>
#include <utility>

namespace lockstep {

namespace {

constexpr int64_t kBatchBytes = int64_t{16} << 20;
constexpr size_t kMostChunks = 4096;  // of small files

struct Batch {
  std::vector<TextChunk> chunks;
  int64_t stored_bytes = 0;  // of the corpus, with this batch
};

Batch read_batch(CorpusReader& reader) {
  Batch batch;
  for (int64_t bytes = 0; bytes < kBatchBytes && batch.chunks.size() < kMostChunks;) {
    TextChunk chunk;
    if (!reader.next(chunk)) break;
    bytes += std::ssize(chunk.text);
    batch.chunks.push_back(std::move(chunk));
  }
  batch.stored_bytes = reader.bytes_done();
  return batch;
}

}  // namespace

void for_each_batch(const CorpusOptions& options, std::function<size_t(std::string_view)> cut,
                    const std::function<void(const std::vector<TextChunk>&)>& work,
                    const std::function<void(int64_t, int64_t)>& progress) {
  const std::vector<CorpusFile> files = corpus_files(options);
  int64_t all_bytes = 0;
  bool known = true;
  for (const CorpusFile& file : files) {
    all_bytes += file.bytes;
    known = known && file.kind == InputFile::Kind::kFile;
  }
  CorpusReader reader(files, std::move(cut));
  Batch batch = read_batch(reader);
  while (!batch.chunks.empty()) {
    std::future<Batch> following = std::async(std::launch::async, [&] { return read_batch(reader); });
    work(batch.chunks);
    if (progress && known) progress(batch.stored_bytes, all_bytes);
    batch = following.get();
  }
}

}  // namespace lockstep
