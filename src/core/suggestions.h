// What a name that does not exist was probably meant to be.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

// At most three of `names`, nearest first: few edits away, or with `name` as their initials ("lr" of
// "learning_rate").
std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& names);

// "did you mean train or eval?"; "" of none.
std::string did_you_mean(const std::vector<std::string>& names);

}  // namespace lockstep
