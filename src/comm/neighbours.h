// The workers of this job on this host, seen from outside of MPI: which of them have come to a phase of MPI's
// own start or end, in which MPI can be asked nothing.
#pragma once

#include <string>
#include <vector>

namespace lockstep {

// Whether a process of this number runs: it is there, and neither stopped nor dead.
bool process_runs(int process);

// The process that has started this worker: Open MPI's daemon or mpirun, where one is among its ancestors (a
// shell may stand between), else its parent.
int launching_process();

// This worker's rank as the launcher's environment tells it; -1 without a launcher.
int launched_rank();
// Whether they are on more than one host, as far as it tells.
bool launched_on_several_hosts();

// NAME=VALUE of all variables of this process but those by which a launcher makes one a worker of its job:
// for a process that is none.
std::vector<std::string> environment_of_no_worker();

// Makes the calling thread known to neighbours as one that waits in this phase; at most 15 characters.
void announce_phase(const std::string& phase);

struct PhaseReport {
  // "rank 2 (stopped), rank 3": workers of this host that are stopped, or in which no thread has announced
  // the phase. Empty when all are there.
  std::string missing;
  // Whether this worker is the lowest of those that are there.
  bool speaks = true;
};

// From /proc, where the launcher has given its processes a name for the job; else nobody is missing.
PhaseReport look_at_neighbours(const std::string& phase);

}  // namespace lockstep
