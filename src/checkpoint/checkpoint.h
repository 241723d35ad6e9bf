// One checkpoint file: written sealed, verified before it is opened, compared.
//
// The layout, here in h5py's words:
//   f['parameters/layers.0.weight'][...]   an array at its path; its attribute `order` is its place in store
//                                          order
//   f['rng'].attrs['seed']                 the scalar /rng/seed: an attribute of the group /rng (int64,
//   float64
//                                          or text)
//   f['configuration'].asstr()[()]         TOML text
//   f['metrics'].asstr()[()]               State::metrics, JSON lines
//   f['metrics_file'].asstr()[()]          State::metrics_file; not there where it is empty
//   f['data_outline'].asstr()[()]          State::data; not there where it is empty
//   f['best'].asstr()[()]                  State::best; not there where it is empty
//   f['begun'].asstr()[()]                 State::begun; not there where it is empty
//   f['pending'].asstr()[()]               State::pending; not there where it is empty
//   f['plans'].asstr()[()]                 State::plans; not there where it is empty
//   f['format'].attrs['version']           kCheckpointVersion
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"

namespace lockstep {

// Where write_checkpoint prepares the file that ends up at `path`: ".NAME.tmp-PID" in the same directory.
// writer: where workers of other hosts may write to the same path, which of them this is; its number stands
// above the 32 bits of PID.
std::string temporary_path(const std::string& path, int64_t writer = 0);

// temp file -> HDF5 -> close -> seal -> fsync -> verify -> rename -> fsync directory. Verifying compares
// every byte in the file with the state. Error (kCheckpoint) names the file, the rule and errno's text (disk
// full); whatever stood at `path` before is then untouched and the temporary file is gone. One thread of a
// process may write to a path at a time.
void write_checkpoint(const State& state, const std::string& path, int64_t writer = 0);

// Verifies the seal, then reads. Error (kCheckpoint).
State read_checkpoint(const std::string& path);
// The same of everything but the arrays' bytes.
State read_checkpoint_outline(const std::string& path);
// The same of State::begun alone.
std::string read_begun(const std::string& path);

struct TensorDifference {
  std::string path;
  std::string what;  // "max |a-b| 1.2e-7 at (3,5), 17 of 8192 elements differ", "only in A",
                     // "(64,128) fp32 vs (64,64) fp32"
};
// Empty when bitwise equal: arrays and scalars (step counters included), as state_digest sees them.
std::vector<TensorDifference> compare_states(const State& a, const State& b);

// Expected arrays against found ones: every missing, extra, wrong-shape and wrong-dtype tensor in one Error
// (kCheckpoint); nothing is changed by the check. `expected` needs paths, dtypes and shapes only.
void check_matches(const State& expected, const State& found, const std::string& path);

}  // namespace lockstep
