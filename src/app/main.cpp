// The lockstep command.
#include "lockstep/app/run_main.h"

int main(int argc, char** argv) {
  return lockstep::run_main(argc, argv);
}
