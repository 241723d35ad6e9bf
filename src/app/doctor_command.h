// The command that says what is wrong with hosts before a run finds out, doctor.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

constexpr const char* kDoctor = "doctor";

// As add_text_commands().
std::function<std::optional<int>()> add_doctor_command(CLI::App& app);

// What doctor says, apart from measuring: for tests of hosts that are not there.
struct Complaint {
  bool fatal;  // training would fail
  std::string text, remedy;
};
// workers: what each worker found, by rank, as doctor gathers it; a value that is no use is left out.
std::vector<Complaint> complaints_about(const std::vector<nlohmann::json>& workers);

}  // namespace lockstep
