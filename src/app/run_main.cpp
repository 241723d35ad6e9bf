// The lockstep command line.
#include "app/run_main.h"

namespace lockstep {
int run_main(int, char**) { return 2; }
}  // namespace lockstep
