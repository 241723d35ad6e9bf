// What a run checks, says and keeps about its data, apart from reading them.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/checkpoint/state.h"
#include "lockstep/core/dtype.h"
#include "lockstep/data/data_source.h"
#include "lockstep/train/run_data.h"
#include "lockstep/train/run_state.h"

namespace lockstep {

// "classification of 10 classes, target column 'digit', loss cross_entropy": for the first lines of a run.
// `loss`: Objective::loss_of().
std::string describe_task(const DataDescription& train, const std::string& loss);

// Error (kData) when all samples of the training file are of one class: any model is right then and the loss
// is 0. Adds a hint when classes have no samples. Not for evaluations, which may well be of one class.
void check_classes(RunData& data);

// Tokens of a sample of text, whose inputs are table indices with a target at each; 0: it is something else.
int64_t tokens_of_sample(const DataDescription& data);

// Error (kData) naming file, row and value when an index of the data is outside of the model's table [0,
// limit). limit = 0 (Module::index_limit): not known.
void check_indices(const DataDescription& data, int64_t limit);
void check_indices(const RunData& data, int64_t limit);

// Error (kData) naming both when tokens are of another vocabulary than `known`, that of the file `source`.
// Not where one of the two is not known.
void check_vocabulary(const DataDescription& data, const std::string& known, const std::string& source);
// The same of names of classes, as far as both have them.
void check_class_names(const DataDescription& data, const std::vector<std::string>& known,
                       const std::string& source);

// Error (kUsage) when documents are to be kept apart by a model that does not read where they are.
void check_documents(const DataDescription& data, const Module& model);

// What a checkpoint keeps of features: an outline for predictions, the names of columns, where the data have
// any, and a digest of the means and deviations that they were standardized with.
class KeptColumns final : public Checkpointed {
 public:
  // The data must outlive the object.
  explicit KeptColumns(const RunData& data) : data_(data) {}
  void describe(State& state) const override;
  // Error (kData) when a resumed run would train on other columns, or on another order of them, than the
  // checkpoint's.
  void restore(const State& found, const std::string& path) override;

 private:
  const RunData& data_;
};

// Names of features and target, a line each, that a checkpoint keeps; "" when it keeps none.
std::string columns_text(const State& state);

// Error (kData) where features were standardized in training with other means and deviations than the data
// of an evaluation are: the numbers come from data.train, which is another file now.
void require_statistics(const RunData& data, const State& state, const std::string& checkpoint);

// Puts the columns of data for an evaluation into the order of `columns`, the text of `checkpoint`. Error
// (kData) as match_columns of data sets.
void match_columns(RunData& data, const std::string& columns, const std::string& checkpoint);

}  // namespace lockstep
