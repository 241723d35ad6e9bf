// doctor: what each worker looks at, and what is measured between hosts.
#include "lockstep/app/doctor_command.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "lockstep/app/results.h"
#include "lockstep/checkpoint/running_digest.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/comm/deadline.h"
#include "lockstep/comm/neighbours.h"
#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/printable.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/shared_directory.h"
#include "lockstep/train/worker_texts.h"

extern char** environ;

namespace lockstep {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr double kGiB = 1073741824.0;

struct DoctorArguments {
  std::string hostfile, output = ".";
};

// XXH3-128 of the command and of the library that it uses.
std::string program_digest() {
  std::vector<std::string> files = {"/proc/self/exe"};
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&cpu_backend), &info) != 0 && info.dli_fname != nullptr)
    files.emplace_back(info.dli_fname);
  RunningDigest digest;
  std::vector<char> buffer(size_t{1} << 20);
  for (const std::string& file : files) {
    std::ifstream stream(file, std::ios::binary);
    while (stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || stream.gcount() > 0)
      digest.add(buffer.data(), static_cast<size_t>(stream.gcount()));
  }
  return digest.hex();
}

double free_gib(const std::string& path) {
  struct statvfs status {};
  if (::statvfs(path.c_str(), &status) != 0) return -1.0;
  return static_cast<double>(status.f_bavail) * static_cast<double>(status.f_frsize) / kGiB;
}

// Name -> IPv4 address of interfaces that are up, the loopback left out.
json interfaces() {
  json found = json::object();
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return found;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET || (one->ifa_flags & IFF_UP) == 0 ||
        (one->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    std::array<char, INET_ADDRSTRLEN> text{};
    sockaddr_in address{};
    std::memcpy(&address, one->ifa_addr, sizeof address);
    ::inet_ntop(AF_INET, &address.sin_addr, text.data(), text.size());
    found[one->ifa_name] = text.data();
  }
  ::freeifaddrs(all);
  return found;
}

// What is wrong with the directory for a run on this worker; "" nothing. locks: whether locks keep another
// process out.
std::string directory_fault(const std::string& directory, bool& locks) {
  const std::string path = fmt::format("{}/.lockstep.doctor-{}-{}", directory, host_name(), ::getpid());
  std::string fault;
  try {
    const OutputFile one(path, ErrorKind::kUsage), other(path, ErrorKind::kUsage);
    if (one.append("x", 1) != 1 || ::fsync(one.descriptor()) != 0) fault = std::strerror(errno);
    locks = ::flock(one.descriptor(), LOCK_EX | LOCK_NB) == 0 &&
            ::flock(other.descriptor(), LOCK_EX | LOCK_NB) != 0;
  } catch (const Error& error) {
    fault = error.what();
  }
  ::unlink(path.c_str());
  return fault;
}

json facts(const DoctorArguments& arguments, const Communicator& communicator) {
  json found;
  found["host"] = host_name();
  found["place"] = communicator.host_place().rank;
  found["workers_here"] = communicator.host_place().workers;
  found["program"] = program_digest();
  found["device"] = cpu_backend().description();
  found["library"] = communication_library();
  found["cores"] = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  found["usable"] = usable_cores();
  found["memory_gib"] = static_cast<double>(AvailableMemory().bytes()) / kGiB;
  found["shm_gib"] = free_gib("/dev/shm");
  found["interfaces"] = interfaces();
  found["gpus"] = cuda_device_count();
  found["time"] = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  bool locks = false;
  found["directory"] = arguments.output;
  found["directory_fault"] = directory_fault(arguments.output, locks);
  found["locks"] = locks;
  found["free_gib"] = free_gib(arguments.output);
  return found;
}

struct Link {
  int a, b;
  double microseconds, megabytes_per_second;
};

// Between ranks a < b, alone; on a the result. Half of a message there and back; then 16 MiB there. Others
// come to the same exchanges, with nothing for anybody: messages go by the number of the exchange.
Link measure(Communicator& communicator, int a, int b) {
  constexpr int kRounds = 50, kBlocks = 4;
  constexpr size_t kBlock = size_t{4} << 20;
  const bool first = communicator.rank() == a, takes_part = first || communicator.rank() == b;
  const int other = first ? b : a;
  std::vector<char> block(takes_part ? kBlock : 0);
  const auto send = [&](size_t bytes) {
    communicator.exchange({{other, block.data(), bytes}}, {}, "doctor")->wait();
  };
  const auto receive = [&](size_t bytes) {
    communicator.exchange({}, {{other, block.data(), bytes}}, "doctor")->wait();
  };
  const auto there_and_back = [&](size_t there, size_t back) {
    if (!takes_part) {
      for (int i = 0; i < 2; ++i) communicator.exchange({}, {}, "doctor")->wait();
      return;
    }
    if (first) send(there);
    receive(first ? back : there);
    if (!first) send(back);
  };
  for (int i = 0; i < 5; ++i) there_and_back(8, 8);
  std::vector<double> rounds;
  for (int i = 0; i < kRounds; ++i) {
    const Clock::time_point begin = Clock::now();
    there_and_back(8, 8);
    rounds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::ranges::nth_element(rounds, rounds.begin() + kRounds / 2);
  there_and_back(kBlock, 8);
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < kBlocks; ++i) there_and_back(kBlock, 8);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return {a, b, rounds[kRounds / 2] * 1e6, kBlocks * static_cast<double>(kBlock) / seconds * 1e-6};
}

// One worker a host, or two of the only one; every pair of up to eight hosts, of more each with the next.
std::vector<std::pair<int, int>> pairs_of(const std::vector<json>& workers) {
  std::map<std::string, int> first_of;
  std::vector<int> firsts;
  for (size_t rank = 0; rank < workers.size(); ++rank) {
    if (first_of.emplace(workers[rank]["host"].get<std::string>(), static_cast<int>(rank)).second)
      firsts.push_back(static_cast<int>(rank));
  }
  if (firsts.size() == 1 && workers.size() > 1) firsts = {0, 1};
  std::vector<std::pair<int, int>> pairs;
  for (size_t i = 0; i < firsts.size(); ++i) {
    for (size_t j = i + 1; j < firsts.size(); ++j) {
      if (firsts.size() <= 8 || j == i + 1) pairs.emplace_back(firsts[i], firsts[j]);
    }
  }
  return pairs;
}

// Whether the hosts see one another's files in the directory, in words.
std::string sharing(const DoctorArguments& arguments, Communicator& communicator) {
  std::vector<bool> sees;
  try {
    sees = workers_that_see(arguments.output, communicator);
  } catch (const AgreedFailure& failure) {
    return failure.what();
  }
  std::set<std::string> blind;
  for (int rank = 0; rank < communicator.world_size(); ++rank)
    if (!sees[static_cast<size_t>(rank)]) blind.insert(communicator.host_of(rank));
  return blind.empty()
             ? "all hosts see the same files"
             : fmt::format(
                   "not shared with {}: rank 0's host alone keeps the checkpoints, and resumes, without "
                   "checkpoint.replicas",
                   fmt::join(blind, ", "));
}

// Starts the same command once on each host of the file, as a run is started there.
int run_on_hosts(const DoctorArguments& arguments) {
  const std::string text = read_small_file(arguments.hostfile, size_t{1} << 20, ErrorKind::kUsage);
  std::istringstream lines(text);
  std::set<std::string> hosts;  // one may have several lines
  for (std::string line, host; std::getline(lines, line);) {
    if (std::istringstream(line) >> host && host[0] != '#') hosts.insert(host);
  }
  if (hosts.empty()) fail(ErrorKind::kUsage, arguments.hostfile + ": names no host");
  const fs::path self = fs::read_symlink("/proc/self/exe");
  // It passes over interfaces that lead nowhere, as it does for a run.
  std::string mpirun = (self.parent_path().parent_path() / "share/lockstep/launch/mpirun.sh").string();
  if (::access(mpirun.c_str(), X_OK) != 0)
    fail(ErrorKind::kUsage,
         fmt::format("--hostfile: doctor starts {}, which cannot be run: {}; without it: "
                     "mpirun --hostfile {} --map-by ppr:1:node {} doctor --output {}",
                     mpirun, std::strerror(errno), arguments.hostfile, self.string(), arguments.output));
  std::vector<std::string> words = {mpirun,
                                    "--hostfile",
                                    arguments.hostfile,
                                    "--map-by",
                                    "ppr:1:node",
                                    "-np",
                                    std::to_string(hosts.size()),
                                    self.string(),
                                    kDoctor,
                                    "--output",
                                    arguments.output};
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  pid_t child = 0;
  if (const int error = ::posix_spawn(&child, mpirun.c_str(), nullptr, nullptr, pointers.data(), environ);
      error != 0)
    fail(ErrorKind::kUsage, fmt::format("{}: cannot be started: {}", mpirun, std::strerror(error)));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  if (code == 0 || code == exit_code(ErrorKind::kUsage)) return code;
  fail(ErrorKind::kUsage,
       fmt::format(
           "--hostfile {}: mpirun ended with exit code {}: every host must be reachable by ssh without a "
           "password, and have {} at the same path",
           arguments.hostfile, code, self.string()));
}

void show(const std::vector<json>& workers, const std::vector<Link>& links, const std::string& shared) {
  std::set<std::string> seen;
  for (const json& worker : workers) {
    const auto host = worker["host"].get<std::string>();
    if (!seen.insert(host).second) continue;
    std::vector<std::string> addresses;
    for (const auto& [name, address] : worker["interfaces"].items())
      addresses.push_back(name + " " + address.get<std::string>());
    const std::string directory =
        worker["directory_fault"].get<std::string>().empty()
            ? fmt::format("{:.1f} GiB free, locks {}", worker["free_gib"].get<double>(),
                          worker["locks"].get<bool>() ? "work" : "do not work")
            : "cannot be written to";
    std::puts(fmt::format(
                  "{}\n  program     {}\n  processor   {}; {} cores, {} usable by a worker of {} here\n"
                  "  memory      {:.1f} GiB free, /dev/shm {:.1f} GiB\n  interfaces  {}\n  workers     {}\n"
                  "  gpus        {}\n  directory   {}: {}",
                  printable(host), worker["program"].get<std::string>(), worker["device"].get<std::string>(),
                  worker["cores"].get<int>(), worker["usable"].get<int>(), worker["workers_here"].get<int>(),
                  worker["memory_gib"].get<double>(), worker["shm_gib"].get<double>(),
                  addresses.empty() ? "none but the loopback" : fmt::format("{}", fmt::join(addresses, ", ")),
                  worker["library"].get<std::string>(), worker["gpus"].get<int>(),
                  printable(worker["directory"].get<std::string>()), directory)
                  .c_str());
  }
  if (seen.size() > 1) std::puts(fmt::format("directory: {}", shared).c_str());
  for (const Link& link : links) {
    std::puts(fmt::format("{} (rank {}) - {} (rank {}): {:.0f} us there and back, {:.0f} MB/s",
                          workers[static_cast<size_t>(link.a)]["host"].get<std::string>(), link.a,
                          workers[static_cast<size_t>(link.b)]["host"].get<std::string>(), link.b,
                          link.microseconds, link.megabytes_per_second)
                  .c_str());
  }
}

int run_doctor(const DoctorArguments& arguments) {
  if (!arguments.hostfile.empty()) {
    if (launched_rank() > 0) return 0;  // rank 0 says it
    if (launched_by_mpi()) fail(ErrorKind::kUsage, "--hostfile: doctor starts mpirun itself");
    return run_on_hosts(arguments);
  }
  constexpr double kPatience = 60.0;
  CommunicatorOptions options;
  options.timeout_seconds = options.start_timeout_seconds = kPatience;
  const std::unique_ptr<Communicator> communicator = make_communicator(options);
  log_to_stderr(communicator->rank(), communicator->world_size(), false);
  communicator->barrier("doctor");  // clocks are read at one time
  std::vector<json> workers;
  for (const std::string& text : worker_texts(
           *communicator, facts(arguments, *communicator).dump(-1, ' ', true, json::error_handler_t::replace),
           "facts"))
    workers.push_back(json::parse(text));
  const std::string shared = sharing(arguments, *communicator);
  std::vector<Link> links;
  for (const auto& [a, b] : pairs_of(workers)) {
    communicator->barrier("pair");
    Link link = measure(*communicator, a, b);
    communicator->broadcast(&link, sizeof link, a, "pair")->wait();
    links.push_back(link);
  }
  int code = 0;
  const std::vector<Complaint> complaints = complaints_about(workers);
  for (const Complaint& complaint : complaints) {
    if (complaint.fatal) code = exit_code(ErrorKind::kUsage);
  }
  if (communicator->rank() == 0) {
    show(workers, links, shared);
    for (const Complaint& complaint : complaints) {
      std::puts(
          fmt::format("{}: {}: {}", complaint.fatal ? "PROBLEM" : "note", complaint.text, complaint.remedy)
              .c_str());
    }
    if (code == 0) std::puts("ready to train");
    flush_results();
  }
  communicator->leave(code, kPatience);
  return code;
}

}  // namespace

std::function<std::optional<int>()> add_doctor_command(CLI::App& app) {
  const auto arguments = std::make_shared<DoctorArguments>();
  CLI::App* command = app.add_subcommand(
      kDoctor, "look for what would keep this host, or under mpirun several, from training");
  command->add_option("--hostfile", arguments->hostfile, "hosts to look at, as mpirun takes them");
  command->add_option("--output", arguments->output, "directory that runs will write to")
      ->check([](const std::string& path) { return path.empty() ? "must not be empty" : ""; }, "DIR")
      ->capture_default_str();
  command->footer(
      "Examples:\n  lockstep doctor --output runs\n  lockstep doctor --hostfile hosts --output /shared/runs");
  return [arguments, command]() -> std::optional<int> {
    if (!command->parsed()) return std::nullopt;
    // Training makes a directory that is not there yet, in one that is.
    std::error_code error;
    fs::path place = fs::absolute(arguments->output, error);
    if (error)
      fail(ErrorKind::kUsage, fmt::format("{}: cannot be found: {}", arguments->output, error.message()));
    // One that cannot be looked at stays: what is tried there tells why.
    while (fs::status(place, error).type() == fs::file_type::not_found && place.has_relative_path())
      place = place.parent_path();
    arguments->output = place.string();
    return run_doctor(*arguments);
  };
}

}  // namespace lockstep
