// Plans of a run: all workers end with rank 0's, of the checkpoint, the cache or a rehearsal, in this order.
#include "lockstep/train/plan_agreement.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "comm/threaded_communicator.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/train/agreement.h"

namespace lockstep {
namespace {

constexpr const char* kDevice = "a GPU, a library 3";

// What a run calls, and what tuning finds on a device: `choice` for every call that has no choice yet.
struct Rehearsal {
  std::vector<std::string> calls = {"first", "second"};
  std::string choice = "measured";
  int measured = 0, held = 0;

  void operator()(PlanTable& table) {
    ++held;
    for (const std::string& call : calls) {
      if (table.find(call)) continue;
      EXPECT_TRUE(table.search().tune);
      table.insert(call, choice);
      ++measured;
    }
  }
};

class PlanAgreement : public ::testing::Test {
 protected:
  // The plans of each of `workers` workers, each with sources of its own; what rank 0's rehearsal did in
  // rehearsal_; what was logged in log_.
  std::vector<Plans> agree(int workers, const std::vector<PlanSources>& sources) {
    std::vector<std::unique_ptr<PlanTable>> tables;
    for (int rank = 0; rank < workers; ++rank) {
      tables.push_back(std::make_unique<PlanTable>(kDevice));
      tables.back()->insert("left over", "from another run");
    }
    log_to_stderr(0, 1, false);
    ::testing::internal::CaptureStderr();
    testing::run_threaded(workers, [&](Communicator& communicator) {
      const auto rank = static_cast<size_t>(communicator.rank());
      agree_on_plans(tables[rank].get(), communicator, sources[rank % sources.size()], [&] {
        EXPECT_EQ(rank, 0u);
        rehearsal_(*tables[rank]);
      });
    });
    log_ = ::testing::internal::GetCapturedStderr();
    std::vector<Plans> plans;
    for (const auto& table : tables) {
      EXPECT_FALSE(table->search().tune);
      plans.push_back(table->plans());
    }
    return plans;
  }
  // The same on every worker.
  void expect_agreement(const std::vector<PlanSources>& sources, const Plans& expected) {
    for (const int workers : {1, 3})
      EXPECT_EQ(agree(workers, sources), std::vector<Plans>(static_cast<size_t>(workers), expected));
  }
  bool logged(const std::string& text) const { return log_.find(text) != std::string::npos; }
  std::string content() const {
    std::ifstream file(cache_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& text) const { std::ofstream(cache_) << text; }

  testing::ScratchDirectory scratch_;
  std::string cache_ = scratch_.file("cache");
  Rehearsal rehearsal_;
  std::string log_;
};

const Plans kMeasured = {{"first", "measured"}, {"second", "measured"}};

TEST_F(PlanAgreement, WithoutTuningThereAreNoneButTheCheckpoints) {
  expect_agreement({{}}, {});
  const std::string stored = plans_text({{kDevice, {{"first", "stored"}}}});
  expect_agreement({{stored, false, {}}, {}, {plans_text({{kDevice, {{"first", "of rank 2"}}}}), false, {}}},
                   {{"first", "stored"}});
  expect_agreement({{stored, true, cache_}}, {{"first", "stored"}});
  EXPECT_EQ(rehearsal_.held, 0);
  EXPECT_FALSE(std::filesystem::exists(cache_));
}

TEST_F(PlanAgreement, OnlyRankZeroMeasures) {
  expect_agreement({{{}, true, {}}}, kMeasured);
  EXPECT_EQ(rehearsal_.measured, 4);
  EXPECT_TRUE(logged("2 plans: 2 measured in ")) << log_;
}

TEST_F(PlanAgreement, OfAnotherDeviceTheyAreChosenAnew) {
  const std::string stored = plans_text({{"another GPU", {{"first", "stored"}}}});
  expect_agreement({{stored, true, {}}}, kMeasured);
  EXPECT_TRUE(logged("the checkpoint's plans are of another GPU, not used on a GPU, a library 3\n")) << log_;
  expect_agreement({{stored, false, {}}}, {});
}

TEST_F(PlanAgreement, TheCacheSparesMeasurementsWhateverOtherWorkersHave) {
  agree(1, {{{}, true, cache_}});
  rehearsal_ = {.calls = {"first", "third"}, .choice = "measured later"};
  const Plans both = {{"first", "measured"}, {"third", "measured later"}};
  const std::string other = scratch_.file("other");
  EXPECT_EQ(agree(2, {{{}, true, cache_}, {{}, true, other}}), (std::vector<Plans>{both, both}));
  EXPECT_TRUE(logged("2 plans: 1 measured in ")) << log_;
  EXPECT_TRUE(logged("s, 1 of " + cache_ + "\n")) << log_;
  EXPECT_FALSE(std::filesystem::exists(other));
  // What this run did not call has stayed in it.
  rehearsal_ = {.calls = {"first", "second", "third"}, .choice = "measured last"};
  EXPECT_EQ(agree(1, {{{}, true, cache_}})[0],
            (Plans{{"first", "measured"}, {"second", "measured"}, {"third", "measured later"}}));
  EXPECT_EQ(rehearsal_.measured, 0);
}

TEST_F(PlanAgreement, ADirectoryHoldsTheCacheOfEveryDevice) {
  std::filesystem::create_directory(cache_);
  agree(1, {{{}, true, cache_}});
  PlanTable other("another GPU");
  testing::run_threaded(1, [&](Communicator& communicator) {
    rehearsal_.choice = "measured there";
    agree_on_plans(&other, communicator, {{}, true, cache_}, [&] { rehearsal_(other); });
  });
  EXPECT_EQ(other.find("first"), "measured there");
  rehearsal_.measured = 0;
  EXPECT_EQ(agree(1, {{{}, true, cache_}})[0], kMeasured);
  EXPECT_EQ(rehearsal_.measured, 0);
  const auto files = std::filesystem::directory_iterator(cache_);
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST_F(PlanAgreement, AFileThatIsNoCacheIsLeftAlone) {
  agree(1, {{{}, true, cache_}});
  const std::string good = content();
  ASSERT_GT(good.size(), 60u);
  std::vector<std::string> files = {"", "\n", "a letter\nto somebody\n", good + "x",
                                    good.substr(0, good.size() - 1)};
  for (size_t i = 0; i < good.size(); i += 7) {
    files.push_back(good);
    files.back()[i] = static_cast<char>(files.back()[i] ^ 1);
  }
  for (const std::string& file : files) {
    write(file);
    EXPECT_EQ(agree(1, {{{}, true, cache_}})[0], kMeasured);
    EXPECT_TRUE(logged("warning: LOCKSTEP_PLAN_CACHE: " + cache_ +
                       ": not a cache of plans, or damaged: left alone\n"))
        << log_;
    EXPECT_EQ(content(), file);
  }
}

TEST_F(PlanAgreement, ACacheThatCannotBeWrittenIsAWarning) {
  cache_ = scratch_.file("no such directory/cache");
  EXPECT_EQ(agree(1, {{{}, true, cache_}})[0], kMeasured);
  EXPECT_TRUE(
      logged("warning: LOCKSTEP_PLAN_CACHE: " + cache_ + ": cannot be written: No such file or directory\n"))
      << log_;
}

TEST_F(PlanAgreement, ARehearsalThatFailsFailsOnAll) {
  PlanTable table(kDevice);
  testing::run_threaded(2, [&](Communicator& communicator) {
    const auto fails = [] { fail(ErrorKind::kUsage, "no memory"); };
    PlanTable other(kDevice);
    PlanTable& mine = communicator.rank() == 0 ? table : other;
    EXPECT_THROW(agree_on_plans(&mine, communicator, {{}, true, {}}, fails), AgreedFailure);
  });
  EXPECT_FALSE(table.search().tune);
}

TEST_F(PlanAgreement, WithoutATableThereIsNothingToTuneAndOneLineSaysSo) {
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  testing::run_threaded(2, [](Communicator& communicator) {
    agree_on_plans(nullptr, communicator, {{}, true, {}}, [] { FAIL(); });
    agree_on_plans(nullptr, communicator, {}, [] { FAIL(); });
  });
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "device.tune: there is nothing to tune on the CPU\n");
  EXPECT_EQ(plans_of_run(nullptr), "");
}

}  // namespace
}  // namespace lockstep
