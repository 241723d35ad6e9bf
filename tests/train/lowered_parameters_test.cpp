// The 16-bit copy of the parameters is their rounding whatever has happened to them: updates of every
// optimizer, skipped ones, look-aheads, averages that take their place, checkpoints.
#include "lockstep/train/lowered_parameters.h"

#include <gtest/gtest.h>

#include "comm/threaded_communicator.h"
#include "device.h"
#include "lockstep/checkpoint/state.h"
#include "lockstep/comm/device_communicator.h"
#include "lockstep/core/philox.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_state.h"
#include "optim/updating_types.h"

namespace lockstep {
namespace {

constexpr double kRate = 0.25;  // that a step moves more than a last place of 16 bits

class Trained {
 public:
  Trained(const std::string& optimizer, DType compute, Communicator& communicator, bool sharded = false)
      : configuration_(Configuration::parse(
            "[model]\ntype = \"mlp\"\nhidden = [33, 7]\n[optimizer]\n" + optimizer, "test.toml", {})) {
    RunSettings settings;
    settings.compute = compute;
    settings.shard_optimizer = sharded;
    settings.average.type = AverageSettings::Type::kEma;
    replica_.emplace(read_training_job(configuration_, settings), DataShape{{5}, DType::kF32, 3},
                     test_backend(), communicator);
    std::vector<float> values(static_cast<size_t>(replica_->store.gradient_extent()));
    const PhiloxKey key = philox_key(5, RandomPurpose::kTest);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] =
          static_cast<float>(uniform_double(philox(key, {static_cast<uint32_t>(i), 0, 0, 0}).r[0], 0) - 0.5);
    }
    gradient_ = Tensor::from({replica_->store.gradient_extent()}, values, test_backend());
  }

  Replica& replica() { return *replica_; }
  LoweredParameters& lowered() { return *replica_->lowered; }

  void look_ahead() {
    Tensor parameters = replica_->store.values();
    if (replica_->optimizer->before_gradient(parameters, kRate, replica_->segments)) {
      replica_->shards->gather(parameters, "look-ahead");
    }
  }
  // The host has decided.
  void update() { replica_->update({.gradients = gradient_, .learning_rate = kRate}); }
  // The device has: of a gate that is open, or not.
  void update(bool open) {
    const Optimizer& optimizer = *replica_->optimizer;
    std::vector<double> rows(replica_->segments.size() * Optimizer::kRowSize);
    optimizer.write_rows(optimizer.updates(), kRate, replica_->segments, rows);
    const Tensor row = Tensor::from({static_cast<int64_t>(rows.size())}, rows, test_backend());
    StepState state;
    state.gate = open ? 1.0 : 0.0;
    state.factor = 1.0;
    Tensor verdict = Tensor::empty({static_cast<int64_t>(sizeof state)}, DType::kU8, test_backend());
    test_backend().copy_from_host(verdict.mutable_data(), &state, sizeof state);
    replica_->update({.gradients = gradient_,
                      .verdict = static_cast<const StepState*>(verdict.data()),
                      .rows = row.data_as<double>()});
  }

  // What the next sweep is given: the rounded parameters, leaf by leaf.
  void expect_current(const std::string& when) {
    SCOPED_TRACE(when + ", " + replica_->optimizer->type());
    const AutocastScope::Copies& copies = *replica_->current_copies();
    EXPECT_TRUE(lowered().exact());
    for (const Tensor& leaf : replica_->training.parameters) {
      const auto found = copies.pairs.find(leaf.node().get());
      ASSERT_NE(found, copies.pairs.end());
      EXPECT_EQ(found->second.lowered.to_vector<float>(), leaf.converted(copies.dtype).to_vector<float>());
    }
  }

  // Another number as the first of the copy.
  void plant() {
    Tensor values = lowered().values();
    values.view({1}, 0).assign(Tensor::full({1}, values.dtype(), test_backend(), 55.0));
  }

 private:
  Configuration configuration_;
  std::optional<Replica> replica_;
  Tensor gradient_;
};

std::vector<std::string> optimizers() {
  std::vector<std::string> sections = {"type = \"nesterov\"\nform = \"classical\"\n"};
  for (const std::string& type : testing::updating_types()) {
    if (type != "kfac") sections.push_back("type = \"" + type + "\"\n");  // is refused with 16 bits
  }
  return sections;
}

class Lowered : public ::testing::TestWithParam<DType> {
 protected:
  std::unique_ptr<Communicator> self_ = make_self_communicator();
};
INSTANTIATE_TEST_SUITE_P(Types, Lowered, ::testing::Values(DType::kBF16, DType::kF16),
                         [](const auto& instance) { return std::string(name_of(instance.param)); });

TEST_P(Lowered, IsCurrentThroughEveryOptimizersUpdatesAndSkips) {
  for (const std::string& section : optimizers()) {
    Trained trained(section, GetParam(), *self_);
    trained.expect_current("drawn");
    for (int step = 0; step < 3; ++step) {
      trained.look_ahead();
      trained.expect_current("before the gradient");
      trained.update();
      trained.expect_current("updated");
    }
    trained.look_ahead();
    Tensor parameters = trained.replica().store.values();
    trained.replica().optimizer->cancel_gradient(parameters);
    trained.expect_current("skipped");
    if (!trained.replica().optimizer->prearranged()) continue;
    for (const bool open : {true, false, true}) {
      trained.update(open);
      trained.expect_current(open ? "updated by the device" : "skipped by the device");
    }
  }
}

TEST_P(Lowered, IsCurrentWhereOthersOwnTheParameters) {
  for (const std::string& section : optimizers()) {
    testing::run_threaded(
        3,
        [&](Communicator& communicator) {
          if (test_device() == "cuda")
            communicator.use_device(
                make_staged_communicator(communicator, test_backend().lane().native_queue()));
          Trained trained(section, GetParam(), communicator, true);
          for (int step = 0; step < 2; ++step) {
            trained.look_ahead();
            trained.expect_current("before the gradient");
            trained.update();
            trained.expect_current("updated");
          }
          if (trained.replica().optimizer->prearranged()) {
            trained.update(true);
            EXPECT_TRUE(trained.lowered().exact()) << "a replay does not look";
          }
        },
        20.0, true);
  }
}

TEST_P(Lowered, IsCurrentWhenAveragesOrACheckpointTookThePlaceOfTheParameters) {
  Trained trained("type = \"adam\"\n", GetParam(), *self_);
  const ParameterStore& store = trained.replica().store;
  State saved;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    const Tensor held = store.parameter(static_cast<int>(i));
    StateArray array{"/parameters/" + store.parameters()[i].name, held.dtype(), held.shape(), {}};
    array.bytes.resize(static_cast<size_t>(held.elements()) * size_of(held.dtype()));
    held.backend().copy_to_host(array.bytes.data(), held.data(), array.bytes.size());
    saved.arrays.push_back(std::move(array));
  }
  ASSERT_TRUE(store.statistics().empty());
  trained.update();
  trained.expect_current("updated");
  Tensor values = trained.replica().store.values();
  const Tensor before = values.clone();
  trained.replica().average->write(values);
  trained.expect_current("averaged");
  values.assign(before);
  trained.expect_current("put back");
  restore_parameters(trained.replica(), saved, false, "test", *self_);
  trained.expect_current("restored");
}

// An update that lowers writes the whole copy and nobody looks for more: what is wrong before an update that
// does not happen stays wrong, and is found.
TEST_P(Lowered, IsWrittenByTheUpdateItselfAndAWrongOneIsFound) {
  for (const std::string& section : optimizers()) {
    Trained trained(section, GetParam(), *self_);
    const Optimizer& optimizer = *trained.replica().optimizer;
    if (!optimizer.lowers() || !optimizer.prearranged()) continue;
    SCOPED_TRACE(section);
    trained.expect_current("drawn");
    trained.plant();
    trained.update(false);
    trained.replica().current_copies();
    EXPECT_FALSE(trained.lowered().exact());
    trained.update(true);
    EXPECT_TRUE(trained.lowered().exact());
    trained.plant();
    EXPECT_FALSE(trained.lowered().exact());
    trained.update();
    EXPECT_TRUE(trained.lowered().exact());
  }
}

TEST(LoweredParameters, ThereAreNoneWithoutSixteenBits) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  for (const DType compute : {DType::kF32, DType::kF64}) {
    Configuration configuration =
        Configuration::parse("[model]\ntype = \"logistic\"\n[optimizer]\ntype = \"sgd\"\n", "test.toml", {});
    RunSettings settings;
    settings.compute = compute;
    Replica replica(read_training_job(configuration, settings), DataShape{{5}, DType::kF32, 3},
                    test_backend(), *self);
    EXPECT_EQ(replica.current_copies(), nullptr);
  }
}

}  // namespace
}  // namespace lockstep
