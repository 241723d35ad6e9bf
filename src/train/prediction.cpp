// Forward passes whose outputs are kept.
#include "lockstep/train/prediction.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/unfinished_file.h"
#include "lockstep/data/data_source.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/raw_values.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/ops/class_head.h"
#include "lockstep/ops/movement.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/data_checks.h"
#include "lockstep/train/evaluation.h"
#include "lockstep/train/overflow_check.h"
#include "lockstep/train/trained_model.h"

namespace lockstep {

namespace {

// Samples to predict for, as the model was trained to see them.
std::shared_ptr<const DataSource> open_samples(const TrainedModel& model, DatasetOptions options,
                                               const std::string& checkpoint) {
  const DataOutline& trained = model.outline();
  options.unlabelled = true;
  options.beside = true;
  options.expected_target = trained.columns.target;
  options.follow = model.settings().train_data.follow;
  options.open = model.settings().train_data.open;
  // Files of tokens do not all say how many there are.
  if (trained.shape.positions.rank() > 0) options.classes = trained.shape.classes;
  std::shared_ptr<const DataSource> source =
      match_columns(open_data_source(options), trained.columns, checkpoint);
  const DataDescription& found = source->description();
  if (!(found.sample_shape == trained.shape.sample) || found.input_dtype != trained.shape.input) {
    fail(ErrorKind::kData,
         fmt::format("{}: samples {} of {} do not fit the model, which was trained on {} of {}", found.source,
                     found.sample_shape.to_string(), name_of(found.input_dtype),
                     trained.shape.sample.to_string(), name_of(trained.shape.input)));
  }
  check_indices(found, model.replica().model->index_limit());
  check_documents(found, *model.replica().model);
  check_vocabulary(found, trained.vocabulary, checkpoint);
  if (model.settings().normalize)
    source = std::make_shared<StandardizedSource>(std::move(source), trained.statistics);
  return source;
}

bool holds_predictions(const std::string& path) {
  if (verify_seal(path, ErrorKind::kData, false) != SealState::kSealed) return false;
  const Hdf5File file = Hdf5File::open_sealed(path, ErrorKind::kData);
  return file.has_attribute("/", "data") && (file.exists("/logits") || file.exists("/values"));
}

// Rank 0's file.
class PredictionFile {
 public:
  // outputs: of a sample; class_shape: of its predicted classes.
  PredictionFile(const std::string& path, const std::string& source, DType dtype, int64_t rows,
                 int64_t outputs, int64_t classes, const Shape& class_shape,
                 const std::vector<std::string>& class_names)
      : path_(path), unfinished_(fmt::format("{}.{}.partial", path, getpid())) {
    target_bytes_ = static_cast<size_t>(outputs / class_shape.elements()) * size_of(dtype);
    Hdf5File file = Hdf5File::create(unfinished_.path(), ErrorKind::kData);
    outputs_at_ = file.allocate(classes > 0 ? "/logits" : "/values", dtype, {rows, outputs});
    if (classes > 0) {
      Shape shape{rows};
      for (const int64_t extent : class_shape.extents()) shape.push_back(extent);
      classes_at_ = file.allocate("/class", DType::kI32, shape);
      if (!class_names.empty())
        file.write_attribute("/class", "class_names", fmt::format("{}", fmt::join(class_names, "\n")));
    }
    file.write_attribute("/", "data", source);
    file.close();
    values_.emplace(unfinished_.path(), ErrorKind::kData);
  }
  // Outputs and predicted classes of consecutive targets, from target `first` of all on.
  void write(int64_t first, std::span<const std::byte> outputs, std::span<const int32_t> classes) {
    values_->write(outputs_at_ + first * static_cast<int64_t>(target_bytes_), outputs);
    if (classes_at_ > 0)
      values_->write(classes_at_ + first * static_cast<int64_t>(sizeof(int32_t)), std::as_bytes(classes));
  }
  void finish() {
    values_.reset();
    seal_file(unfinished_.path(), ErrorKind::kData);
    commit_file(unfinished_.path(), path_, ErrorKind::kData);
  }

 private:
  std::string path_;
  UnfinishedFile unfinished_;
  int64_t outputs_at_ = 0, classes_at_ = 0;
  size_t target_bytes_ = 0;
  std::optional<RawValues> values_;
};

}  // namespace

int64_t predict(Configuration& configuration, const std::string& checkpoint, DatasetOptions options,
                const std::string& path, Communicator& communicator, std::string& weights,
                const std::string& base) {
  const TrainedModel model(configuration, checkpoint, communicator, weights, TrainedModel::Data::kOutline,
                           false, base);
  weights = model.weights();
  const bool leader = communicator.rank() == 0;
  const ParameterStore& store = model.replica().store;
  const DType dtype = store.dtype();
  const int64_t chunk = model.settings().micro_batch_size;
  const int workers = communicator.world_size();
  std::shared_ptr<const DataSource> samples;
  run_agreed(
      communicator,
      [&] {
        if (leader) {
          require_replaceable(path, "holds no predictions", [&] { return holds_predictions(path); });
        }
        samples = open_samples(model, options, checkpoint);
      },
      "data");
  const RecordingScope off(false);
  const AutocastScope autocast(model.settings().compute);
  ForwardContext context = model.replica().evaluation();
  const int64_t classes = model.outline().shape.classes;
  const int64_t chunks = (samples->size() + chunk - 1) / chunk;

  OverflowCheck overflow(*samples, model.settings().compute);
  std::optional<PredictionFile> file;
  std::vector<std::byte> outputs, all;
  std::vector<int32_t> predicted, all_predicted;
  const Shape& positions = model.outline().shape.positions;
  const int64_t per_sample = positions.elements(), targets = chunk * per_sample;  // of a chunk
  // In rounds of a chunk a worker: a chunk is computed the same wherever it is.
  for (int64_t first = 0; first < chunks; first += workers) {
    std::optional<ClassHead> head;
    Tensor whole;  // outputs of the chunk, where the model has no head
    run_agreed(
        communicator,
        [&] {
          // Who has none left computes the last one again, so that all know how wide outputs are.
          const int64_t mine = std::min(first + communicator.rank(), chunks - 1);
          std::vector<int64_t> rows(
              static_cast<size_t>(std::min((mine + 1) * chunk, samples->size()) - mine * chunk));
          std::iota(rows.begin(), rows.end(), mine * chunk);
          const MicroBatch gathered = gather_batch(*samples, rows, chunk);
          overflow.look(gathered, [&](int64_t sample) {
            return rows[static_cast<size_t>(std::min(sample, std::ssize(rows) - 1))];
          });
          const Batch batch = to_device(gathered, dtype, store.backend());
          context.batch = &batch.tensors;
          head = model.replica().model->class_head(batch.inputs(), context);
          if (!head) whole = model.replica().model->forward(batch.inputs(), context).converted(dtype);
          context.batch = nullptr;
        },
        "prediction");
    // A head's logits are there for so many targets at a time.
    const int64_t step = head ? std::min(kHeadRows, targets) : targets;
    for (int64_t begin = 0; begin < targets; begin += step) {
      const int64_t count = std::min(step, targets - begin);
      run_agreed(
          communicator,
          [&] {
            Tensor output = whole;
            if (head) {
              ClassHead part = *head;
              part.x = slice(head->x, 0, begin, begin + count);
              output = head_logits(part).converted(dtype);
            }
            outputs.resize(output.bytes());
            output.backend().copy_to_host(outputs.data(), output.data(), output.bytes());
            predicted.assign(static_cast<size_t>(count), 0);
            const auto of = head ? Objective::Rows::kTargets : Objective::Rows::kSamples;
            if (classes > 0) predicted = model.objective().predicted_classes(output, count, of);
          },
          "prediction");
      all.resize(outputs.size() * static_cast<size_t>(workers));
      all_predicted.resize(predicted.size() * static_cast<size_t>(workers));
      communicator.all_gather(outputs.data(), outputs.size(), all.data(), "prediction")->wait();
      communicator
          .all_gather(predicted.data(), predicted.size() * sizeof(int32_t), all_predicted.data(),
                      "prediction")
          ->wait();
      run_agreed(
          communicator,
          [&] {
            if (!leader) return;
            const size_t target_bytes = outputs.size() / static_cast<size_t>(count);
            if (!file) {
              file.emplace(path, samples->description().source, dtype, samples->size(),
                           static_cast<int64_t>(target_bytes / size_of(dtype)) * per_sample, classes,
                           positions, model.outline().class_names);
            }
            for (int64_t i = first; i < std::min(first + workers, chunks); ++i) {
              // What fills the last chunk up is left out.
              const int64_t valid = std::min(chunk, samples->size() - i * chunk) * per_sample;
              const auto wanted = static_cast<size_t>(std::clamp<int64_t>(valid - begin, 0, count));
              const auto worker = static_cast<size_t>(i - first);
              file->write(i * targets + begin,
                          std::span(all).subspan(worker * outputs.size(), wanted * target_bytes),
                          std::span(all_predicted).subspan(worker * predicted.size(), wanted));
            }
          },
          "prediction file");
    }
  }
  overflow.tell(communicator);
  run_agreed(
      communicator,
      [&] {
        if (leader) file->finish();
      },
      "prediction file");
  return samples->size();
}

}  // namespace lockstep
