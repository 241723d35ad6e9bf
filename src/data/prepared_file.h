// Prepared data sets: HDF5 files whose samples are mapped rather than read.
//
// /x (n, sample...) float32, uint8, float16 or int32 (tokens) and /y, (n) int32 labels or (n, width) float32
// targets, are contiguous, begin at a page and are sealed block by block (hdf5/sealed_file.h). Around them,
// sealed as a whole: /digests (blocks, 16), those of /x before those of /y; /mean and /deviation (sample...)
// float64, of the features; /largest_index (2) int64, of tokens, with its row; /class_counts (classes) int64;
// the attributes that data/hdf5_format.cpp reads, and `layout`.
// h5py and h5dump read all of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lockstep/data/dataset.h"

namespace lockstep {

// Inputs that are read or written at a time.
inline constexpr int64_t kPieceBytes = int64_t{16} << 20;
inline constexpr const char* kLayoutAttribute = "layout";
inline constexpr int64_t kPreparedLayout = 1;
// The same with labels that count nothing, which may lie outside of the classes.
inline constexpr int64_t kPreparedLayoutIgnoring = 2;

// Writes one piece by piece. Errors are kData (the disk) and kUsage: there is no such directory, or the path
// is that of the source or of a file that is not HDF5.
class PreparedFileWriter {
 public:
  // Everything but the inputs: shapes, types, all labels or targets, texts.
  PreparedFileWriter(const Dataset& outline, const std::string& path);
  ~PreparedFileWriter();  // removes what was not finished
  // The inputs of the next rows.
  void add_inputs(const Dataset& rows);
  // Seals the file and moves it into its place. Error (kInternal) when rows are missing.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads a data set of any format and writes it as a prepared file; HDF5 in pieces, in memory that does not
// depend on the number of inputs. Returns the outline.
Dataset prepare_dataset(const DatasetOptions& options, const std::string& path);

}  // namespace lockstep
