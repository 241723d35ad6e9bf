// What a command prints as its result, on stdout.
#pragma once

namespace lockstep {

// Error (kUsage) when what was printed did not get there; nobody who wants to read on ends the process.
void flush_results();

}  // namespace lockstep
