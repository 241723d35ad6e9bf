// Each ending behind its context is a sample whose targets count where they are of the ending.
#include "lockstep/train/choice_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/data/data_source.h"
#include "lockstep/parallel/reduction_tree.h"
#include "lockstep/text/choices.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/evaluation.h"
#include "lockstep/train/trained_model.h"

namespace lockstep {

namespace {

// Question by question, ending by ending.
class ChoiceSource final : public DataSource {
 public:
  ChoiceSource(std::vector<ChoiceQuestion> questions, const DataShape& shape, bool documents,
               const std::string& path)
      : context_(shape.positions.elements()) {
    description_.source = path;
    description_.sample_shape = description_.positions = {context_};
    description_.input_dtype = DType::kI32;
    description_.classes = shape.classes;
    description_.weighted = true;
    if (documents) description_.others = {{kDocumentsName, DType::kI32, {context_}}};
    for (const ChoiceQuestion& question : questions) {
      bool shortened = false;
      for (const std::vector<int32_t>& ending : question.endings) {
        Row row{question.context, question.context.size()};
        row.tokens.insert(row.tokens.end(), ending.begin(), ending.end());
        const auto room = static_cast<size_t>(context_) + 1;
        if (ending.size() >= room) {
          fail(ErrorKind::kData, fmt::format("{}: {}: an ending of {} tokens: the model sees {}", path,
                                             question.place, ending.size(), context_));
        }
        const auto over = row.tokens.size() - std::min(row.tokens.size(), room);
        row.tokens.erase(row.tokens.begin(), row.tokens.begin() + static_cast<std::ptrdiff_t>(over));
        row.ending -= over;
        shortened = shortened || over > 0;
        for (const int32_t token : row.tokens) {
          if (token < shape.classes) continue;
          fail(ErrorKind::kData, fmt::format("{}: {}: token {} must be in [0, {})", path, question.place,
                                             token, shape.classes));
        }
        rows_.push_back(std::move(row));
      }
      shortened_ += shortened ? 1 : 0;
    }
    description_.samples = std::ssize(rows_);
  }
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
    const auto window = static_cast<size_t>(context_);
    for (size_t i = 0; i < rows.size(); ++i) {
      const Row& row = rows_[static_cast<size_t>(rows[i])];
      const SampleBuffers place = out.from(static_cast<int64_t>(i));
      const std::span inputs(place.at<int32_t>(DataDescription::kInputs), window);
      const std::span targets(place.at<int32_t>(DataDescription::kTargets), window);
      const std::span weights(place.at<float>(DataDescription::kWeights), window);
      std::ranges::fill(inputs, 0);  // behind the ending, where nothing that counts looks
      std::ranges::fill(targets, 0);
      std::ranges::fill(weights, 0.0f);
      for (size_t t = 0; t + 1 < row.tokens.size(); ++t) {
        inputs[t] = row.tokens[t];
        targets[t] = row.tokens[t + 1];
        weights[t] = t + 1 >= row.ending ? 1.0f : 0.0f;
      }
      if (!description_.others.empty())
        std::fill_n(place.at<int32_t>(DataDescription::kWeights + 1), window, 0);
    }
  }
  int64_t tokens_of_ending(int64_t row) const {
    const Row& found = rows_[static_cast<size_t>(row)];
    return static_cast<int64_t>(found.tokens.size() - found.ending);
  }
  int64_t shortened() const { return shortened_; }

 private:
  struct Row {
    std::vector<int32_t> tokens;
    size_t ending;  // where it begins
  };
  int64_t context_, shortened_ = 0;
  std::vector<Row> rows_;
};

// The sum of the losses of each row, on every worker.
std::vector<double> row_losses(const TrainedModel& model, const ChoiceSource& source,
                               Communicator& communicator) {
  const RecordingScope off(false);
  const AutocastScope autocast(model.settings().compute);
  const Replica& replica = model.replica();
  ForwardContext context = replica.evaluation();
  const int64_t chunk = model.settings().micro_batch_size, chunks = (source.size() + chunk - 1) / chunk;
  const int workers = communicator.world_size();
  const MicroBatchRange mine = owned_micro_batches(chunks, communicator.rank(), workers);
  const int64_t most = (chunks + workers - 1) / workers * chunk;  // rows of a worker
  std::vector<double> sums(static_cast<size_t>(most), 0.0);
  run_agreed(
      communicator,
      [&] {
        std::vector<int64_t> rows;
        auto sum = sums.begin();
        for (int64_t i = mine.begin; i < mine.end; ++i) {
          rows.clear();
          for (int64_t row = i * chunk; row < std::min((i + 1) * chunk, source.size()); ++row)
            rows.push_back(row);
          const MicroBatch samples = gather_batch(source, rows, chunk);
          const Batch batch = to_device(samples, replica.store.dtype(), replica.store.backend());
          const std::vector<double> losses =
              model.objective().plain_losses(*replica.model, batch, context).to_vector<double>();
          const int64_t positions = std::ssize(losses) / chunk;
          for (size_t row = 0; row < rows.size(); ++row, ++sum)
            for (int64_t t = 0; t < positions; ++t)
              *sum += losses[row * static_cast<size_t>(positions) + static_cast<size_t>(t)];
        }
      },
      "evaluation");
  std::vector<double> all(sums.size() * static_cast<size_t>(workers));
  communicator.all_gather(sums.data(), sums.size() * sizeof(double), all.data(), "evaluation")->wait();
  std::vector<double> losses;
  for (int rank = 0; rank < workers; ++rank) {
    const MicroBatchRange range = owned_micro_batches(chunks, rank, workers);
    const auto first = all.begin() + rank * most;
    losses.insert(losses.end(), first, first + range.size() * chunk);
  }
  return losses;
}

}  // namespace

ChoiceEvaluation evaluate_choices(Configuration& configuration, const std::string& checkpoint,
                                  const std::string& choices, const TokenizerOptions& tokenizer,
                                  Communicator& communicator, std::string& weights, const std::string& base) {
  const TrainedModel model(configuration, checkpoint, communicator, weights, TrainedModel::Data::kOutline,
                           false, base);
  weights = model.weights();
  std::vector<ChoiceQuestion> questions;
  std::unique_ptr<ChoiceSource> source;
  run_agreed(
      communicator,
      [&] {
        const DataOutline& trained = model.outline();
        if (trained.shape.input != DType::kI32 || trained.shape.positions.rank() == 0)
          fail(ErrorKind::kUsage, "--choices: the model is not one of text");
        std::unique_ptr<Tokenizer> own;
        if (!tokenizer.path.empty()) own = open_tokenizer(tokenizer);
        if (own && !trained.vocabulary.empty() &&
            trained.vocabulary.find(own->digest()) == std::string::npos) {
          fail(ErrorKind::kData, fmt::format("{}: tokenizer {}; {} was trained on {}", tokenizer.path,
                                             own->digest(), checkpoint, trained.vocabulary));
        }
        questions = read_choices(choices, own.get());
        source = std::make_unique<ChoiceSource>(questions, trained.shape,
                                                model.replica().model->reads(kDocumentsName), choices);
      },
      "choices");
  const std::vector<double> losses = row_losses(model, *source, communicator);
  ChoiceEvaluation result;
  result.questions = std::ssize(questions);
  result.shortened = source->shortened();
  int64_t row = 0, right = 0, right_normalized = 0;
  for (const ChoiceQuestion& question : questions) {
    std::vector<double> sums, means;
    for (size_t i = 0; i < question.endings.size(); ++i, ++row) {
      const double loss = losses[static_cast<size_t>(row)];
      sums.push_back(std::isnan(loss) ? HUGE_VAL : loss);
      means.push_back(sums.back() / static_cast<double>(source->tokens_of_ending(row)));
    }
    right += std::ranges::min_element(sums) - sums.begin() == question.label ? 1 : 0;
    right_normalized += std::ranges::min_element(means) - means.begin() == question.label ? 1 : 0;
  }
  result.accuracy = static_cast<double>(right) / static_cast<double>(result.questions);
  result.accuracy_normalized = static_cast<double>(right_normalized) / static_cast<double>(result.questions);
  return result;
}

}  // namespace lockstep
