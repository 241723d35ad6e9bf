// A corpus in batches of chunks: one thread reads the next while the caller works on this one.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "lockstep/text/corpus.h"

namespace lockstep {

// Calls work(chunks) for all of the corpus in order, in memory that does not depend on its size. cut: as
// CorpusReader; progress (may be empty): with the stored bytes that are done and those of all files, if there
// are no pipes.
void for_each_batch(const CorpusOptions& options, std::function<size_t(std::string_view)> cut,
                    const std::function<void(const std::vector<TextChunk>&)>& work,
                    const std::function<void(int64_t, int64_t)>& progress);

}  // namespace lockstep
