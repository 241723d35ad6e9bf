// What a process needs before it does anything else.
#pragma once

namespace lockstep {

// Opens /dev/null for standard descriptors that the program was started without, so that no file of the run
// gets their numbers and, with them, the log; and makes writes into a pipe that nobody reads (SIGPIPE) or
// beyond the limit of a file's size (SIGXFSZ) fail instead of ending the process. The first call of a
// program's main, before there are threads.
void prepare_process();

// Ends the process as a write into a pipe that nobody reads does by default: for programs whose output is all
// that they do.
[[noreturn]] void end_by_broken_pipe();

}  // namespace lockstep
