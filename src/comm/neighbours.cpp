// Reading /proc.
#include "lockstep/comm/neighbours.h"

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string_view>
#include <system_error>

namespace lockstep {

namespace {

namespace fs = std::filesystem;

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The value of a variable among NAME=VALUE entries that each end with a zero; empty where there is none.
std::string value_of(const std::string& environment, const std::string& name) {
  const std::string start = '\0' + name + '=';
  const size_t at = ('\0' + environment).find(start);
  if (at == std::string::npos) return "";
  return environment.substr(at + start.size() - 1, environment.find('\0', at) - (at + start.size() - 1));
}

// NAME=VALUE of what only processes of this job have; empty without a launcher that says so.
std::pair<std::string, std::string> job_variable() {
  for (const char* name : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID"}) {
    if (const char* value = std::getenv(name)) return {name, value};
  }
  return {};
}

int rank_in(const std::string& environment) {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    const std::string rank = value_of(environment, name);
    if (!rank.empty()) return std::atoi(rank.c_str());
  }
  return -1;
}

// As in /proc/PID/stat; '?' where there is none.
char state_of(const fs::path& process) {
  const std::string stat = content_of(process / "stat");
  const size_t name_end = stat.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= stat.size() ? '?' : stat[name_end + 2];
}

bool stopped(const fs::path& process) {
  return std::string("Tt").find(state_of(process)) != std::string::npos;
}

bool announces(const fs::path& process, const std::string& phase) {
  std::error_code ignored;
  for (fs::directory_iterator task(process / "task", ignored), end; task != end; task.increment(ignored)) {
    if (content_of(task->path() / "comm") == phase + '\n') return true;
  }
  return false;
}

}  // namespace

bool process_runs(int process) {
  return std::string("?TtZXx").find(state_of("/proc/" + std::to_string(process))) == std::string::npos;
}

int launching_process() {
  int process = ::getppid();
  while (process > 1) {
    const std::string name = content_of("/proc/" + std::to_string(process) + "/comm");
    if (name == "orted\n" || name == "mpirun\n" || name == "orterun\n" || name == "prted\n") return process;
    const std::string stat = content_of("/proc/" + std::to_string(process) + "/stat");
    const size_t name_end = stat.rfind(')');  // "PID (NAME) STATE PARENT"
    process = name_end == std::string::npos || name_end + 4 > stat.size()
                  ? 0
                  : std::atoi(stat.c_str() + name_end + 4);
  }
  return ::getppid();
}

int launched_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name)) return std::atoi(rank);
  }
  return -1;
}

bool launched_on_several_hosts() {
  const char* const all = std::getenv("OMPI_COMM_WORLD_SIZE");
  const char* const here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (all != nullptr) return here != nullptr && std::atoi(all) != std::atoi(here);
  const char* const nodes = std::getenv("SLURM_STEP_NUM_NODES");
  return nodes != nullptr && std::atoi(nodes) > 1;
}

std::vector<std::string> environment_of_no_worker() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable = *entry;
    bool of_job = false;
    for (const std::string_view start : {"OMPI_COMM_WORLD_", "PMIX_", "PMI_", "SLURM_STEP_NUM_TASKS="})
      of_job = of_job || variable.starts_with(start);
    if (!of_job) kept.emplace_back(variable);
  }
  return kept;
}

void announce_phase(const std::string& phase) {
  pthread_setname_np(pthread_self(), phase.substr(0, 15).c_str());
}

PhaseReport look_at_neighbours(const std::string& phase) {
  struct Worker {
    bool stopped = false, there = false;
  };
  const auto [variable, job] = job_variable();
  if (job.empty()) return {};
  // A worker may be several processes: those that it has started have its environment.
  std::map<int, Worker> workers;
  std::error_code ignored;
  for (fs::directory_iterator entry("/proc", ignored), end; entry != end; entry.increment(ignored)) {
    const fs::path process = entry->path();
    if (std::isdigit(static_cast<unsigned char>(process.filename().string()[0])) == 0) continue;
    const std::string environment = content_of(process / "environ");
    const int rank = rank_in(environment);
    if (rank < 0 || value_of(environment, variable) != job) continue;
    Worker& worker = workers[rank];
    worker.stopped = worker.stopped || stopped(process);
    worker.there = worker.there || announces(process, phase);
  }
  PhaseReport report;
  int lowest = -1;
  for (const auto& [rank, worker] : workers) {
    if (worker.there && !worker.stopped) {
      if (lowest < 0) lowest = rank;
      continue;
    }
    report.missing += fmt::format("{}rank {}{}", report.missing.empty() ? "" : ", ", rank,
                                  worker.stopped ? " (stopped)" : "");
  }
  report.speaks = lowest < 0 || lowest == launched_rank();
  return report;
}

}  // namespace lockstep
