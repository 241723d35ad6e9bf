// A data set held in host memory: one input and one target a sample.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/core/shape.h"
#include "lockstep/data/columns.h"

namespace lockstep {

// Where a data set came from and what it holds.
struct Dataset {
  std::string source;               // path, for messages
  Shape sample_shape;               // of one input: (64), (8,8,1), (T)
  DType input_dtype = DType::kF32;  // kF32, kU8, kF16 (features) or kI32 (tokens, table indices)
  // n * sample elements, of the array of this type.
  std::vector<float> inputs_f32;
  std::vector<uint8_t> inputs_u8;
  std::vector<Float16> inputs_f16;
  std::vector<int32_t> inputs_i32;
  // Of kU8 and kF16: a feature is value * scale / divisor, in fp32.
  float scale = 1.0f, divisor = 1.0f;
  int64_t classes = 0;  // > 0: classification, labels in [0, classes)
  // The label of samples that count nothing; may lie outside of that range.
  std::optional<int32_t> ignore_label = {};
  std::vector<int32_t> labels;           // n, classification
  int64_t target_width = 0;              // > 0: regression
  std::vector<float> targets;            // n * target_width, regression
  std::vector<std::string> class_names;  // optional
  ColumnNames columns;                   // of tables; the names travel with the HDF5 file
  // Where the data came from and under which terms ("source", "licence", "citation"): travels with the HDF5
  // file.
  std::map<std::string, std::string> attribution;

  int64_t size() const;
};

class WholeSource;
struct DatasetOptions;
// Opens a source of the program's own (data/data_source.h), which takes of the options what it has a use for.
using SourceOpener = std::function<std::shared_ptr<const WholeSource>(const DatasetOptions& options)>;

struct DatasetOptions {
  std::string path{};           // file; IDX: the images file; CIFAR-10: a file or several separated by commas
  std::string format = "auto";  // auto (by the content) | hdf5 | idx | cifar10 | csv
  std::string labels{};         // IDX: the labels file ("" = derived from the images file's name)
  std::string target{};         // CSV: name of the target column ("" = expected_target, else the last column)
  // CSV: the target of the data that these belong to; without meaning for other formats.
  std::string expected_target{};
  // HDF5: whether values may lie in other files (external links, external storage, virtual data sets), which
  // a file of a stranger could use to have any file read.
  bool follow = false;
  // Whether attribution is wanted of an HDF5 file without a seal too: what is passed on, and training has no
  // use for.
  bool texts = false;
  // Of data beside the training data, whose format may be another than that of which `follow` and `target`
  // were said.
  bool beside = false;
  // Of data to predict for: targets are neither needed nor looked at; they count as 0.
  bool unlabelled = false;
  // Whether features that the file holds as uint8 or float16 stay so, or become fp32 in the data set.
  bool narrow = false;
  int64_t classes = 0;  // 0 = largest label + 1 (or the file's own statement); -1 = regression (CSV, HDF5)
  // The label of samples that count nothing; none: what the file itself states.
  std::optional<int32_t> ignore_label{};
  // In place of a file: open_data_source calls it.
  SourceOpener open = {};

  bool given() const { return !path.empty() || open; }
};

// Reads and checks everything: Errors (kData) name file and offset or row: missing, truncated, wrong magic,
// counts that do not agree, label out of range, value not finite.
Dataset read_dataset(const DatasetOptions& options);

struct DatasetTrial {
  int64_t seconds = 30;  // of processor time, and one more a MiB, are long enough
  // Whether the file is to be read into memory as a whole: where there is no room for it, the Error says so
  // before anything is unpacked.
  bool whole = true;
  std::function<bool()> gives_up = {};  // asked all the time
};
// Of an HDF5 file that no seal vouches for: reads it in a child process. The HDF5 library (1.10) follows
// damaged numbers out of its memory, which ends the process, or in circles; the Error (kData) says so
// instead. Nothing else is looked at. False: given up. Only while the process has a single thread.
bool try_dataset(const DatasetOptions& options, const DatasetTrial& trial = {});
// Whether that would read anything.
bool needs_trial(const DatasetOptions& options);

// hdf5, idx, cifar10 or csv, with what the options say about the data fitting it. Errors: kUsage where they
// do not; as the file's content where that does not tell.
std::string checked_format(const DatasetOptions& options);
// The same without looking at other options.
std::string format_of(const DatasetOptions& options);

// Writes a prepared file (data/prepared_file.h), atomically (temporary file and rename). Error (kUsage) when
// the directory is not there, or the path is that of the source or of a file that is not HDF5.
void write_dataset(const Dataset& dataset, const std::string& path);

}  // namespace lockstep
