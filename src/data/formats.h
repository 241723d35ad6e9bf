// The readers behind read_dataset, one a file format, and the label check that they share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/data/dataset.h"

namespace lockstep {

// The format of a file by its content: hdf5 (a seal, or the signature behind whatever user block), idx (its
// magic number), csv (text), each but hdf5 also inside gzip or zstd; cifar10, which has no mark, where name
// and size agree. Where the content does not tell, by the name. Errors: kData when it is of another known
// kind, or cannot be read and has no telling name; kUsage when nothing tells.
std::string detect_format(const std::string& path);

// The label that counts nothing, of what the options and a file say. Error (kUsage) when they differ, or when
// there are no classes.
std::optional<int32_t> checked_ignore_label(const DatasetOptions& options, std::optional<int64_t> of_file,
                                            int64_t classes);

// Whether so few of all rows, one in a hundred at most, are mistakes in labels rather than the sign of real
// targets.
inline bool are_slips(int64_t others, int64_t rows) {
  return others > 0 && others <= rows / 100;
}

// Rows of targets as labels, where each holds a single 1 and otherwise 0.
struct OneHotRows {
  std::vector<int64_t> labels;  // of each row, 0 of others
  int64_t others = 0;           // rows that are not one-hot
  std::string fault;            // the first of them, and what is wrong with it
  bool nearly() const { return are_slips(others, std::ssize(labels)); }
};
OneHotRows one_hot_rows(std::span<const float> targets, int64_t width);

// Calls a program's own code, whose exceptions of other kinds are failures of its data too.
template <class Part>
void call_own(const std::string& source, const Part& part) {
  try {
    part();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    fail(ErrorKind::kData, source + ": " + error.what());
  }
}

// What names of classes and columns do not fit, in words; "": they do.
std::string fault_of_names(const std::vector<std::string>& class_names, int64_t classes,
                           const ColumnNames& columns, int64_t features);

// Of a data set that a program has put together, perhaps: Error (kUsage) where its parts do not belong
// together, (kData) "SOURCE: sample 7: label 5 is outside [0, 2)" where a value cannot be.
void check_dataset(const Dataset& dataset);

Dataset read_hdf5(const DatasetOptions& options);

// An HDF5 data set whose inputs are read in pieces.
class Hdf5Rows {
 public:
  explicit Hdf5Rows(const DatasetOptions& options);
  ~Hdf5Rows();
  // All but the inputs.
  const Dataset& outline() const;
  // Where in the file the inputs lie as a data set keeps them; nullopt: they do not.
  std::optional<int64_t> inputs_offset() const;
  // The inputs of `count` rows from `first` on take the place of those of `dataset`, which is a copy of the
  // outline.
  void read_inputs(int64_t first, int64_t count, Dataset& dataset) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
bool try_hdf5(const DatasetOptions& options, const DatasetTrial& trial);
Dataset read_idx(const DatasetOptions& options);
Dataset read_cifar10(const DatasetOptions& options);
Dataset read_csv(const DatasetOptions& options);

// Room for `more` further values of a file whose number is not known before its end.
template <class T>
void make_room(std::vector<T>& values, size_t more, const std::string& path) {
  const size_t least = values.size() + more;
  if (least <= values.capacity()) return;
  const auto bytes = [](size_t count) { return static_cast<int64_t>(count * sizeof(T)); };
  size_t room = std::max(least, 2 * values.capacity());
  // Where doubling goes too far, in smaller steps.
  if (!fits_memory(bytes(room))) room = least + least / 8;
  require_memory(path, bytes(room));
  values.reserve(room);
}

// Makes the data set a classification with these labels. classes > 0 states their number, 0 takes the largest
// label + 1, that which counts nothing apart (Dataset::ignore_label). place(i) names where label i stands
// ("train.csv: row 3, column 'digit'"), for the Error (kData) when it is out of range, or none counts.
void assign_labels(Dataset& dataset, std::span<const int64_t> labels, int64_t classes,
                   const std::function<std::string(int64_t)>& place);

// A number of a file for a message: readers give the ends of 64 bits for what lies beyond them.
std::string read_number(int64_t number);

}  // namespace lockstep
