// The readers behind read_dataset, one a file format, and the label check that they share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "data/dataset.h"

namespace lockstep {

Dataset read_hdf5(const DatasetOptions& options);

// An HDF5 data set whose inputs are read in pieces.
class Hdf5Rows {
 public:
  explicit Hdf5Rows(const DatasetOptions& options);
  ~Hdf5Rows();
  // All but the inputs.
  const Dataset& outline() const;
  // The inputs of `count` rows from `first` on take the place of those of `dataset`, which is a copy of the
  // outline.
  void read_inputs(int64_t first, int64_t count, Dataset& dataset) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
void try_hdf5(const DatasetOptions& options, int64_t seconds);
Dataset read_idx(const DatasetOptions& options);
Dataset read_cifar10(const DatasetOptions& options);
Dataset read_csv(const DatasetOptions& options);

// Makes the data set a classification with these labels. classes > 0 states their number, 0 takes the largest
// label + 1. place(i) names where label i stands ("train.csv: row 3, column 'digit'"), for the Error (kData)
// when it is out of range.
void assign_labels(Dataset& dataset, std::span<const int64_t> labels, int64_t classes,
                   const std::function<std::string(int64_t)>& place);

}  // namespace lockstep
