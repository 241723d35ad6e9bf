// What layers and models say about options that they cannot take.
#pragma once

#include <string>

#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"

namespace lockstep {

// Error (kUsage) "OWNER: KEY: RULE". What was read from a configuration is reported with its place there
// instead (Section::reject); a rule about the layer or model as a whole has the key "type".
class RefusedOption : public Error {
 public:
  RefusedOption(const std::string& owner, std::string key, std::string rule)
      : Error(ErrorKind::kUsage, owner + ": " + key + ": " + rule),
        key_(std::move(key)),
        rule_(std::move(rule)) {}
  const std::string& key() const { return key_; }
  const std::string& rule() const { return rule_; }

 private:
  std::string key_, rule_;
};

// Refuses an option that is not in the range.
void require_option(const char* owner, const char* key, double value, const Range& range);

}  // namespace lockstep
