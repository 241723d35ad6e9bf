// The commands that turn text into tokens, tokenize, and that make vocabularies, tokenizer train.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>

namespace lockstep {

// Adds the commands to the program. The function runs the one that was asked for, after parsing: its exit
// code; nullopt: another command was.
std::function<std::optional<int>()> add_text_commands(CLI::App& app);

}  // namespace lockstep
