// The lockstep command.
#include "app/run_main.h"

int main(int argc, char** argv) {
  return lockstep::run_main(argc, argv);
}
