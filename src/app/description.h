// The keys of the configuration as `lockstep config --describe` shows them.
#pragma once

#include <string>
#include <vector>

#include "lockstep/core/configuration.h"

namespace lockstep {

// The keys of a part: of a section with the tables in it ("optimizer", "model"), of a type, with those of any
// type
// ("optimizer.adamw", "model.layers.linear"), or one key ("optimizer.learning_rate"); of "" all. Error
// (kUsage) with the nearest names when there is no such part.
std::vector<KeyDescription> keys_of_part(const std::vector<KeyDescription>& keys, const std::string& part);

// Section by section and type by type: a key's name, default and meaning, and below them what it takes. At
// most 100 columns.
std::string describe_as_text(const std::vector<KeyDescription>& keys);

// A JSON array of objects: section, in_list, of_type (null: any), key, type, minimum, maximum,
// minimum_excluded (null where there is no such bound), choices (null: any), required, default (null where
// required), meaning.
std::string describe_as_json(const std::vector<KeyDescription>& keys);

}  // namespace lockstep
