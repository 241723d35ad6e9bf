// Where the values of a data set lie, and whether all of them can be read: HDF5 gives zeros (the fill value)
// for what was never written and for parts of a virtual data set whose source is missing, without a word.
#pragma once

#include <string>

#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/library.h"

namespace lockstep {

// Access to data sets and links: names of other files are looked up beside the file that names
// them. `traverse` is asked at each link into another file.
Handle data_access(H5L_elink_traverse_t traverse, void* traverse_data);

// Of a data set that was opened through `access`. `where` opens messages: "a.h5: /x". Errors of `kind`: a
// filter that is not there; values in other files, unless `follow`; a source that is missing, or that does
// not hold what is taken from it, by its name; parts without a source; a data set of which no value was ever
// written.
Hdf5Storage inspect_storage(hid_t dataset, hid_t access, const std::string& where, ErrorKind kind,
                            bool follow);

}  // namespace lockstep
