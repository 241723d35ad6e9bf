// Lockstep jobs for tests: starting the real command on any number of workers, watching it, interrupting it,
// ending it.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hdf5/scratch_directory.h"
#include "sanitized.h"

namespace lockstep::testing {

struct Outcome {
  int exit_code = -1;  // 128 + signal for a killed process; -1 when it did not end in time
  std::string out, err;
  double seconds = 0.0;
};

// Whether the process has a handler for the signal.
inline bool catches(pid_t process, int signal) {
  std::istringstream status(bytes_of("/proc/" + std::to_string(process) + "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("SigCgt:"))
      return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

// A shell cannot catch what it was started to ignore: of a child of tests that run in the background, or
// under nohup, before it becomes one.
inline void ignore_no_signal() {
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT}) ::signal(signal, SIG_DFL);
}

// The command by itself (no launcher).
inline constexpr int kNoLauncher = 0;

// mpirun with its workers, or one process. Whatever is left of it dies with the object.
class Job {
 public:
  explicit Job(std::vector<std::string> command) : start_(Clock::now()) {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_ = ::fork();
    if (pid_ == 0) become(command);
  }
  ~Job() { kill_all(); }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // `lockstep ARGUMENTS` on `workers` workers; with mpirun's own account of a job that ends with another code
  // than 0 only when `mpirun_speaks`.
  static std::vector<std::string> on_workers(int workers, const std::vector<std::string>& arguments,
                                             bool mpirun_speaks = false) {
    std::vector<std::string> command;
    if (workers != kNoLauncher) command = {LOCKSTEP_MPIEXEC, "-np", std::to_string(workers)};
    if (workers != kNoLauncher && !mpirun_speaks) command.emplace_back("-q");
    command.push_back(LOCKSTEP_COMMAND);
    command.insert(command.end(), arguments.begin(), arguments.end());
    return command;
  }

  // The command on a machine of that much memory, as far as addresses tell.
  static std::vector<std::string> within_mebibytes(int mebibytes, const std::vector<std::string>& command) {
    std::vector<std::string> limited = {"sh", "-c", R"(ulimit -v "$0" && exec "$@")",
                                        std::to_string(1024 * mebibytes)};
    limited.insert(limited.end(), command.begin(), command.end());
    return limited;
  }

  bool running() {
    if (status_ >= 0) return false;
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return true;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    ended_ = Clock::now();
    return false;
  }

  // False when the job ends, or too much time goes by, before the condition holds.
  bool wait_until(const std::function<bool()>& condition, double seconds = 60.0) {
    const Clock::time_point limit =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(seconds));
    while (!condition()) {
      if (!running() || Clock::now() > limit) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  Outcome wait(double seconds = 60.0) {
    wait_until([] { return false; }, seconds);
    Outcome outcome;
    if (status_ >= 0) {
      outcome.exit_code = status_;
      outcome.seconds = Seconds(ended_ - start_).count();
    } else {
      outcome.seconds = seconds;
    }
    kill_all();
    outcome.out = bytes_of(scratch_.file("out"));
    outcome.err = bytes_of(scratch_.file("err"));
    return outcome;
  }

  pid_t pid() const { return pid_; }
  std::string err() const { return bytes_of(scratch_.file("err")); }

  // To mpirun, or to the command where it runs by itself.
  void signal(int number) { ::kill(pid_, number); }

  void signal_rank(int rank, int number) {
    for (const pid_t process : processes("OMPI_COMM_WORLD_RANK=" + std::to_string(rank)))
      ::kill(process, number);
  }

  // Whether this many workers of mpirun run and have a handler for the signal.
  bool ranks_catch(int number, int workers) const {
    for (int rank = 0; rank < workers; ++rank) {
      const std::vector<pid_t> found = processes("OMPI_COMM_WORLD_RANK=" + std::to_string(rank));
      if (found.empty() || !catches(found.back(), number)) return false;
    }
    return true;
  }

  // Every process of the job at once, as when a machine loses power.
  void kill_all() {
    std::set<pid_t> killed;
    do {
      for (const pid_t process : processes()) {
        ::kill(process, SIGKILL);
        killed.insert(process);
      }
      if (status_ < 0) ::kill(pid_, SIGKILL);  // it may not be what it will become yet
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } while (running() || !processes().empty());
    // Workers that have lost their mpirun are now ours to bury.
    for (const pid_t process : killed) ::waitpid(process, nullptr, 0);
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;

  [[noreturn]] void become(std::vector<std::string>& command) {
    ::setsid();
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // a test that is ended for taking too long leaves nothing running
    ignore_no_signal();
    const auto redirect = [](const std::string& path, int flags, int descriptor) {
      ::dup2(::open(path.c_str(), flags, 0666), descriptor);
    };
    redirect("/dev/null", O_RDONLY, STDIN_FILENO);
    redirect(scratch_.file("out"), O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    redirect(scratch_.file("err"), O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    const std::string scratch = scratch_.path();
    for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
             {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
             {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
             {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
             {"OMPI_MCA_hwloc_base_binding_policy", "none"},
             // A killed job cleans nothing up: its files go with the scratch directory.
             {"TMPDIR", scratch},
             {"OMPI_MCA_btl_vader_backing_directory", scratch}}) {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
    std::vector<char*> arguments;
    for (std::string& argument : command) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }

  // Those that inherited the job's own variable (and this one). The session would not do: the launch script
  // makes another.
  std::vector<pid_t> processes(const std::string& variable = "") const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename().string();
      if (!std::isdigit(static_cast<unsigned char>(name[0]))) continue;
      const std::string environment = '\0' + bytes_of(entry.path().string() + "/environ");
      const auto has = [&](const std::string& text) {
        return environment.find('\0' + text + '\0') != std::string::npos;
      };
      if (has("TMPDIR=" + scratch_.path()) && (variable.empty() || has(variable)))
        found.push_back(std::stoi(name));
    }
    return found;
  }

  ScratchDirectory scratch_;
  Clock::time_point start_, ended_;
  pid_t pid_ = -1;
  int status_ = -1;
};

// Runs `lockstep ARGUMENTS` on `workers` workers to its end.
inline Outcome run(int workers, const std::vector<std::string>& arguments, double seconds = 60.0) {
  return Job(Job::on_workers(workers, arguments)).wait(seconds);
}

}  // namespace lockstep::testing
