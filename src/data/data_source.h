// Samples by index, wherever they lie: in memory, in a mapped file, as a part of another source.
//
// Opening a source costs the same for a megabyte and a terabyte where the file is a prepared one (`lockstep
// prepare`); files of other formats are read into memory. Nothing above this interface knows which.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/data/dataset.h"
#include "lockstep/data/feature_statistics.h"
#include "lockstep/data/field.h"
#include "lockstep/data/split.h"
#include "lockstep/hdf5/mapped_blocks.h"

namespace lockstep {

// What a source gives.
struct DataDescription {
  std::string source;  // path, for messages
  int64_t samples = 0;
  Shape sample_shape;               // of one input
  DType input_dtype = DType::kF32;  // of models: kF32 (features, however they are stored) or kI32 (tokens)
  // Features as gather() gives them: kF32, or kU8 and kF16, of which a model gets value * scale / divisor.
  DType stored_dtype = DType::kF32;
  float scale = 1.0f, divisor = 1.0f;
  int64_t classes = 0;       // > 0: classification, labels in [0, classes)
  int64_t target_width = 0;  // > 0: regression
  Shape positions;           // targets of a sample, of words in a text say; (): it has one
  bool weighted = false;     // each target has a weight of its own
  // Whether all features and real targets are known to be finite; else they are looked at when gathered.
  bool finite = false;
  std::optional<int32_t> ignore_label = {};  // of targets whose weight is 0; they are given as class 0
  std::vector<Field> others = {};            // that models read by their names
  // Of tokens: what made them, in words. Data of another vocabulary do not fit; empty: not known.
  std::string vocabulary = {};
  double bytes_per_target = 0.0;  // of text that the targets stand for, in the mean; 0: not known
  ColumnNames columns;            // of tables
  std::vector<std::string> class_names;
  std::vector<int64_t> class_counts;  // samples of each class that count in the whole file; empty: not known
  // Tokens: the largest in the whole file, and the row, counted from 1, that holds it first. -1: none.
  int64_t largest_index = -1, largest_index_row = 0;

  // What gather() gives, by number: inputs (sample_shape); targets, int32 labels
  // (positions) of classes, else fp32 (positions, target_width); where there are weights, fp32 (positions),
  // each at least 0, and 0 where the target does not count; then the others.
  static constexpr size_t kInputs = 0, kTargets = 1, kWeights = 2;
  std::vector<Field> fields() const;
};

// Any number of threads may use a source.
class DataSource {
 public:
  DataSource() = default;
  DataSource(const DataSource&) = delete;
  DataSource& operator=(const DataSource&) = delete;
  virtual ~DataSource() = default;
  const DataDescription& description() const { return description_; }
  int64_t size() const { return description_.samples; }
  // Copies the samples of these rows, each in [0, size()), in the given order. Allocates nothing. Error
  // (kData) naming file, block and rows when stored bytes are not those that were prepared.
  virtual void gather(std::span<const int64_t> rows, const SampleBuffers& out) const = 0;
  // Whether gathering has lately had to wait for a disk: then read_ahead(), called with rows before they are
  // gathered, has them brought meanwhile.
  virtual bool waits() const { return false; }
  virtual void read_ahead(std::span<const int64_t>) const {}
  // Whether all samples are in memory, so that a look at each costs little.
  virtual bool in_memory() const { return false; }
  // Where a sample is in the whole source that this one is made of: what messages name.
  virtual int64_t whole_row(int64_t row) const { return row; }

 protected:
  DataDescription description_;
};

// How samples are stored: rows of inputs and of targets, each one behind the other.
struct StoredSamples {
  std::span<const std::byte> inputs, targets;
  DType input_dtype = DType::kF32;                  // kF32, kU8, kF16 or kI32
  DType target_dtype = DType::kI32;                 // kI32 (labels; targets too on request) or kF32
  float scale = 1.0f, divisor = 1.0f;               // a feature is value * scale / divisor, in fp32
  int64_t input_elements = 0, target_elements = 0;  // of a row
  std::optional<int32_t> ignore_label = {};

  Field features() const { return {kInputsName, input_dtype, {input_elements}, scale, divisor}; }
  int64_t input_bytes() const { return input_elements * static_cast<int64_t>(size_of(input_dtype)); }
  int64_t target_bytes() const { return target_elements * static_cast<int64_t>(size_of(target_dtype)); }
  // Digests of blocks of different storage must not be taken for each other.
  std::string layout_text() const;
};

// A whole data set, as opposed to what is made of one. A program's own fills in the description and gathers.
class WholeSource : public DataSource {
 public:
  // 32 hex digits, by which workers and resumed runs tell whether they have the same data. Unless a source
  // knows better, of all samples, gathered one after the other.
  virtual std::string digest() const;
  // Of the features, likewise; Error (kUsage) for tokens.
  virtual FeatureStatistics statistics() const;
};

// One whose samples lie in memory, or in memory's order in a file. The digest is of the digests of the
// blocks, inputs before targets: the same samples, stored in the same types, have the same one in memory and
// in a prepared file.
class StoredSource : public WholeSource {
 protected:
  // All that the description says of a data set, the largest token apart.
  void describe(const Dataset& dataset);
  // And what the description says of them.
  void set_stored(const StoredSamples& stored);
  void gather_stored(std::span<const int64_t> rows, const SampleBuffers& out) const;
  StoredSamples stored_;
};

// In memory.
class TableSource final : public StoredSource {
 public:
  explicit TableSource(Dataset dataset);
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
    gather_stored(rows, out);
  }
  bool in_memory() const override { return true; }
  std::string digest() const override;

 private:
  Dataset dataset_;
};

class Hdf5Rows;

// A file that `lockstep prepare` wrote, mapped; or a large HDF5 file of another program whose inputs lie in
// it in one piece, as a data set keeps them.
class MappedSource final : public StoredSource {
 public:
  // Of the options path, classes and ignore_label. Verifies everything but the samples, whatever their
  // number. Errors (kData) name the file and the rule; (kUsage) for classes that it does not have.
  MappedSource(const DatasetOptions& options, BlockedFile content);
  // Of rows without sealed digests of blocks: reads all inputs once, a piece after the other, and checks them
  // as those of other files are. The digests that it takes then are those that blocks are compared with when
  // they are used first. offset: of the inputs in the file.
  MappedSource(const Hdf5Rows& rows, int64_t offset);
  // Smaller files are read: that costs little, and they may change afterwards.
  static constexpr int64_t kLeastUnsealedBytes = int64_t{64} << 20;
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override;
  bool waits() const override;
  void read_ahead(std::span<const int64_t> rows) const override;
  std::string digest() const override;
  FeatureStatistics statistics() const override;

  // Looks at the next block of those that make up the file; false when there is none left. A damaged one is
  // named in `damage`.
  bool verify_next(int64_t& block, std::string& damage) const;
  int64_t blocks() const { return std::ssize(mapping_->digests()); }

 private:
  std::string damage_text(int64_t array, int64_t block) const;
  // Fewer classes than the file has were asked for: names the first row that has another one.
  [[noreturn]] void refuse_classes(int64_t classes) const;
  void require_rows(std::span<const int64_t> rows) const;

  int64_t arrays() const { return mapping_->arrays(); }

  Dataset outline_;  // of rows: targets, which are not mapped
  std::unique_ptr<MappedBlocks> mapping_;
  FeatureStatistics statistics_;             // sealed ones
  mutable std::atomic<int64_t> waiting_{0};  // > 0: gathers to come that are taken to wait
};

// Features less their mean, divided by their deviation.
class StandardizedSource final : public DataSource {
 public:
  StandardizedSource(std::shared_ptr<const DataSource> base, const FeatureStatistics& statistics);
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override;
  bool waits() const override { return base_->waits(); }
  void read_ahead(std::span<const int64_t> rows) const override { base_->read_ahead(rows); }
  bool in_memory() const override { return base_->in_memory(); }
  int64_t whole_row(int64_t row) const override { return base_->whole_row(row); }

 private:
  std::shared_ptr<const DataSource> base_;
  Field stored_;  // inputs of the base
  std::vector<float> mean_, factor_;
};

// Features (or tokens) in another order.
class ReorderedSource final : public DataSource {
 public:
  // order[i]: the element of the base's samples that becomes element i.
  ReorderedSource(std::shared_ptr<const DataSource> base, std::vector<size_t> order, ColumnNames columns);
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override;
  bool waits() const override { return base_->waits(); }
  void read_ahead(std::span<const int64_t> rows) const override { base_->read_ahead(rows); }
  bool in_memory() const override { return base_->in_memory(); }
  int64_t whole_row(int64_t row) const override { return base_->whole_row(row); }

 private:
  std::shared_ptr<const DataSource> base_;
  std::vector<size_t> order_;
  size_t element_bytes_;
};

// One side of a split.
class PartSource final : public DataSource {
 public:
  enum class Side { kTrain, kValidation };
  PartSource(std::shared_ptr<const DataSource> base, const Split& split, Side side);
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override;
  bool waits() const override { return base_->waits(); }
  void read_ahead(std::span<const int64_t> rows) const override;
  bool in_memory() const override { return base_->in_memory(); }
  int64_t whole_row(int64_t row) const override { return base_->whole_row(base_row(row)); }

 private:
  int64_t base_row(int64_t row) const {
    return side_ == Side::kTrain ? split_.train_row(row) : split_.validation_row(row);
  }
  template <class Use>
  void with_base_rows(std::span<const int64_t> rows, Use&& use) const;

  std::shared_ptr<const DataSource> base_;
  Split split_;
  Side side_;
};

// The program's own source where options.open names one, a prepared file mapped, anything else read into
// memory. Errors as read_dataset and MappedSource; (kUsage) for a description that cannot be.
std::shared_ptr<const WholeSource> open_data_source(const DatasetOptions& options);

// A program's own kind of data, by name in data.format. The reader reads its keys of [data] and says how to
// open a source, which is then done for data.train and data.validation alike: DatasetOptions::path tells them
// apart. Error (kUsage) when the name is taken.
using SourceReader = std::function<SourceOpener(Section& data)>;
void register_data_format(const std::string& format, SourceReader read);
// auto, the formats that are read and the registered ones.
std::vector<std::string> data_formats();
// Of a registered format; empty for the others.
SourceOpener read_data_format(Section& data, const std::string& format);

}  // namespace lockstep
