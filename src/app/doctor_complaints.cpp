// What is wrong with what the workers of doctor have found.
#include <fmt/format.h>

#include <cmath>
#include <map>

#include "lockstep/app/doctor_command.h"

namespace lockstep {

using nlohmann::json;

std::vector<Complaint> complaints_about(const std::vector<json>& workers) {
  std::vector<Complaint> complaints;
  const auto say = [&](bool fatal, const std::string& text, const std::string& remedy) {
    complaints.push_back({fatal, text, remedy});
  };
  const auto host = [&](size_t rank) { return workers[rank].value("host", std::string()); };
  // Once a host.
  std::map<std::string, size_t> hosts;
  for (size_t rank = 0; rank < workers.size(); ++rank) hosts.emplace(host(rank), rank);
  const auto differs = [&](const char* key, bool fatal, const char* what, const char* remedy) {
    for (const auto& [name, rank] : hosts) {
      const std::string own = workers[rank].value(key, std::string()),
                        first = workers[0].value(key, std::string());
      if (own != first)
        say(fatal, fmt::format("{}: {}: {}; on {}: {}", name, what, own, host(0), first), remedy);
    }
  };
  differs("program", true, "another program", "install one build at the same path on all hosts");
  differs("device", true, "another processor or other kernels",
          "bits depend on them: choose hosts that are alike, or build with LOCKSTEP_CPU_ARCH=portable and "
          "give all one "
          "LOCKSTEP_CPU_KERNELS");
  differs("library", true, "another MPI", "install the same one on all hosts");
  std::map<std::string, std::vector<std::string>> owners;  // of an address
  for (const auto& [name, rank] : hosts) {
    const json& worker = workers[rank];
    const std::string fault = worker.value("directory_fault", std::string());
    const bool keeps = name == host(0);  // rank 0 alone writes
    if (!fault.empty() && keeps)
      say(true,
          fmt::format("{}: {}: a run cannot write there: {}", name, worker.value("directory", std::string()),
                      fault),
          "make the directory, or choose another one with --output");
    if (fault.empty() && keeps && !worker.value("locks", true))
      say(false, fmt::format("{}: {}: locks keep nobody out", name, worker.value("directory", std::string())),
          "mount the file system with locks, or see to it that one run alone writes to a directory");
    if (keeps && fault.empty() && worker.value("free_gib", 1e9) < 1.0)
      say(false,
          fmt::format("{}: {}: {:.2f} GiB free", name, worker.value("directory", std::string()),
                      worker.value("free_gib", 0.0)),
          "make room for checkpoints: a full disk ends a run with exit code 4");
    if (worker.value("memory_gib", 1e9) < 0.5)
      say(false, fmt::format("{}: {:.2f} GiB of memory free", name, worker.value("memory_gib", 0.0)),
          "end what else runs there, or raise the limit of the container");
    const double shm = worker.value("shm_gib", 1e9);
    if (worker.value("workers_here", 1) > 1 && shm < 0.0625 * worker.value("workers_here", 1))
      say(shm <= 0.001,
          fmt::format("{}: /dev/shm has {:.3f} GiB, through which workers of a host exchange", name,
                      std::max(shm, 0.0)),
          "give the container more (docker run --shm-size=1g; an emptyDir of medium Memory)");
    const int share = worker.value("cores", 1) / std::max(worker.value("workers_here", 1), 1);
    if (worker.value("usable", 1) < share)
      say(false,
          fmt::format("{}: a worker may use {} of {} cores", name, worker.value("usable", 1),
                      worker.value("cores", 1)),
          "mpirun --bind-to none, or as many threads as that (device.threads)");
    if (worker.value("workers_here", 1) > worker.value("cores", 1 << 20))
      say(false,
          fmt::format("{}: {} workers on {} cores", name, worker.value("workers_here", 1),
                      worker.value("cores", 1)),
          "start fewer workers, or use more hosts");
    if (worker.contains("interfaces")) {
      for (const auto& [interface, address] : worker["interfaces"].items())
        owners[address.get<std::string>()].push_back(name + " " + interface);
    }
    const double skew = worker.value("time", 0.0) - workers[0].value("time", 0.0);
    if (std::abs(skew) > 5.0)
      say(false,
          fmt::format("{}: its clock is {:.0f} s {} that of {}", name, std::abs(skew),
                      skew > 0.0 ? "ahead of" : "behind", host(0)),
          "run a time service (chrony)");
    const int gpus = worker.value("gpus", 0);
    const int first_gpus = workers[0].value("gpus", 0);
    if (gpus != first_gpus)
      say((gpus == 0) != (first_gpus == 0),
          fmt::format("{}: {} GPUs, {} has {}", name, gpus, host(0), first_gpus),
          "--device cpu, or hosts with the same GPUs");
    if (gpus > 0 && worker.value("workers_here", 1) > gpus)
      say(false, fmt::format("{}: {} workers, {} GPUs", name, worker.value("workers_here", 1), gpus),
          "one worker a GPU, or parallel.share_gpu = true, or --device cpu");
  }
  for (const auto& [address, places] : owners) {
    if (places.size() > 1)
      say(false, fmt::format("{} is the address of {}", address, fmt::join(places, " and of ")),
          "launch/mpirun.sh passes over such interfaces; by hand: mpirun --mca btl_tcp_if_include NETWORK");
  }
  return complaints;
}

}  // namespace lockstep
