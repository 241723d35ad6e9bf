// The smaller parts of a run: durations, agreement on failures, stop signals, settings that do not go
// together.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <map>
#include <set>

#include "comm/threaded_communicator.h"
#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/host_memory.h"
#include "lockstep/train/progress.h"
#include "lockstep/train/settings.h"
#include "lockstep/train/stop_signal.h"

namespace lockstep {
namespace {

TEST(Progress, DurationsAreShortAndRounded) {
  EXPECT_EQ(format_duration(0.0), "0s");
  EXPECT_EQ(format_duration(0.4), "0s");
  EXPECT_EQ(format_duration(12.5), "13s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(200.0), "3m20s");
  EXPECT_EQ(format_duration(3599.7), "1h00m");
  EXPECT_EQ(format_duration(3725.0), "1h02m");
  EXPECT_EQ(format_duration(360000.0), "100h00m");
  EXPECT_EQ(format_duration(-5.0), "0s");
  EXPECT_NE(format_duration(INFINITY), "");
}

struct Verdict {
  bool thrown = false, speaks = false;
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
};

// What run_agreed does on each of `workers` workers when those in `failures` fail.
std::vector<Verdict> agree(int workers, const std::map<int, Error>& failures) {
  std::vector<Verdict> verdicts(static_cast<size_t>(workers));
  testing::run_threaded(workers, [&](Communicator& communicator) {
    Verdict& verdict = verdicts[static_cast<size_t>(communicator.rank())];
    try {
      run_agreed(
          communicator,
          [&] {
            const auto mine = failures.find(communicator.rank());
            if (mine != failures.end()) throw mine->second;
          },
          "part");
    } catch (const AgreedFailure& failure) {
      verdict = {true, failure.speaks(), failure.kind(), failure.what()};
    }
  });
  return verdicts;
}

// Nothing is taken: workers that ask for what each of them alone could have.
TEST(HostMemory, IsEnoughForAllWorkersOfAHostOrAllHearTheSumInOneLine) {
  const int64_t bytes = AvailableMemory().machine() / 5 * 2;  // 40 %
  const auto ask = [&](const std::vector<std::string>& hosts) {
    std::vector<Verdict> verdicts(hosts.size());
    testing::run_threaded(
        static_cast<int>(hosts.size()),
        [&](Communicator& communicator) {
          Verdict& verdict = verdicts[static_cast<size_t>(communicator.rank())];
          try {
            require_memory_on_hosts(communicator, "vectors", bytes, ErrorKind::kUsage);
          } catch (const AgreedFailure& failure) {
            verdict = {true, failure.speaks(), failure.kind(), failure.what()};
          }
        },
        20.0, false, hosts);
    return verdicts;
  };
  for (const Verdict& verdict : ask({"a", "a", "b", "b", "c"}))
    EXPECT_FALSE(verdict.thrown) << verdict.message;
  const std::vector<Verdict> verdicts = ask({"a", "b", "b", "a", "b"});
  for (size_t rank = 0; rank < verdicts.size(); ++rank) {
    EXPECT_TRUE(verdicts[rank].thrown);
    EXPECT_EQ(verdicts[rank].kind, ErrorKind::kUsage);
    EXPECT_EQ(verdicts[rank].speaks, rank == 0);
    EXPECT_EQ(verdicts[rank].message, verdicts[0].message);
    EXPECT_TRUE(verdicts[rank].message.starts_with("vectors: takes " + std::to_string(3 * bytes) +
                                                   " bytes of memory on 3 workers of host b: "))
        << verdicts[rank].message;
  }
}

TEST(Agreement, WhereNobodyFailsNobodyThrows) {
  for (const Verdict& verdict : agree(3, {})) EXPECT_FALSE(verdict.thrown);
}

TEST(Agreement, OneFailureEndsAllAndOnlyTheWorkerWhereItHappenedSpeaks) {
  for (int failing = 0; failing < 3; ++failing) {
    const std::vector<Verdict> verdicts = agree(3, {{failing, Error(ErrorKind::kData, "row 7: bad")}});
    for (int rank = 0; rank < 3; ++rank) {
      const Verdict& verdict = verdicts[static_cast<size_t>(rank)];
      EXPECT_TRUE(verdict.thrown);
      EXPECT_EQ(verdict.kind, ErrorKind::kData);
      EXPECT_EQ(verdict.speaks, rank == failing);
      EXPECT_EQ(verdict.message,
                rank == failing ? "row 7: bad" : "rank " + std::to_string(failing) + ": row 7: bad");
    }
  }
}

TEST(Agreement, OfSeveralFailuresAllLeaveWithThatOfTheLowestRank) {
  const std::vector<Verdict> verdicts = agree(4, {{1, Error(ErrorKind::kCheckpoint, "one")},
                                                  {2, Error(ErrorKind::kUsage, "two")},
                                                  {3, Error(ErrorKind::kData, "three")}});
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(verdicts[static_cast<size_t>(rank)].kind, ErrorKind::kCheckpoint);
    EXPECT_EQ(verdicts[static_cast<size_t>(rank)].speaks, rank == 1);
  }
  EXPECT_EQ(verdicts[1].message, "one");
  EXPECT_EQ(verdicts[3].message, "rank 1: one");
}

// Of parts of a program's own, which throw what they like.
TEST(Agreement, WhatIsNoErrorEndsAllAsAnInternalOne) {
  std::vector<std::string> what(2);
  testing::run_threaded(2, [&](Communicator& communicator) {
    try {
      run_agreed(
          communicator,
          [&] {
            if (communicator.rank() == 1) throw std::out_of_range("own");
          },
          "part");
    } catch (const AgreedFailure& failure) {
      EXPECT_EQ(failure.kind(), ErrorKind::kInternal);
      what[static_cast<size_t>(communicator.rank())] = failure.what();
    }
  });
  EXPECT_EQ(what, (std::vector<std::string>{"rank 1: own", "own"}));
}

TEST(Agreement, WhatAllFindTogetherRankZeroSays) {
  testing::run_threaded(3, [](Communicator& communicator) {
    try {
      fail_together(communicator, ErrorKind::kNumeric, "diverged");
    } catch (const AgreedFailure& failure) {
      if (failure.kind() != ErrorKind::kNumeric || failure.speaks() != (communicator.rank() == 0))
        throw std::runtime_error("no");
      return;
    }
    throw std::runtime_error("not thrown");
  });
}

TEST(StopSignal, IsRaisedByTheFourSignalsAndRestoresTheHandlersBefore) {
  static volatile std::sig_atomic_t outer = 0;
  for (const auto& [number, name] :
       {std::pair(SIGTERM, "SIGTERM"), {SIGINT, "SIGINT"}, {SIGUSR1, "SIGUSR1"}, {SIGHUP, "SIGHUP"}}) {
    outer = 0;
    std::signal(number, [](int) { outer = 1; });
    {
      const StopSignal stop;
      EXPECT_FALSE(stop.raised());
      EXPECT_STREQ(stop.name(), "");
      std::raise(number);
      EXPECT_TRUE(stop.raised());
      EXPECT_STREQ(stop.name(), name);
      EXPECT_EQ(outer, 0);
    }
    std::raise(number);
    EXPECT_EQ(outer, 1);
    std::signal(number, SIG_DFL);
  }
}

TEST(StopSignal, TheFirstOneGivesTheNameAndMoreChangeNothing) {
  const StopSignal stop(false);
  for (const int number : {SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGINT, SIGINT}) std::raise(number);
  EXPECT_TRUE(stop.raised());
  EXPECT_STREQ(stop.name(), "SIGUSR1");
}

TEST(StopSignal, AHangUpThatWasIgnoredStaysIgnored) {
  const auto before = std::signal(SIGHUP, SIG_IGN);
  {
    const StopSignal stop;
    std::raise(SIGHUP);
    EXPECT_FALSE(stop.raised());
  }
  EXPECT_EQ(std::signal(SIGHUP, before), SIG_IGN);
}

TEST(StopSignalDeathTest, AtATerminalASecondInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopSignal stop(true);
        std::raise(SIGTERM);
        std::raise(SIGINT);
        if (stop.raised()) std::raise(SIGINT);
      },
      ::testing::KilledBySignal(SIGINT), "");
}

std::string settings_error(const std::string& toml) {
  try {
    Configuration configuration = Configuration::parse(toml, "test.toml", {});
    read_settings(configuration);
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return "no error";
}

TEST(Settings, TakeTheirDefaults) {
  Configuration configuration =
      Configuration::parse("[data]\ntrain = \"d.h5\"\n[train]\nepochs = 2\n", "test.toml", {});
  const RunSettings settings = read_settings(configuration);
  EXPECT_EQ(settings.output, "runs/run");
  EXPECT_EQ(settings.train_data.path, "d.h5");
  EXPECT_EQ(settings.last_batch, LastBatch::kDrop);
  EXPECT_EQ(settings.reduction, ReductionMode::kLockstep);
  EXPECT_EQ(settings.bucket_bytes, 25 << 20);
  EXPECT_EQ(settings.keep, 3);
  EXPECT_EQ(settings.threads, 1);
}

TEST(Settings, AnyLabelOf32BitsMayBeIgnored) {
  for (const int64_t label : {int64_t{-2147483648}, int64_t{2147483647}}) {
    Configuration configuration = Configuration::parse(
        "[data]\ntrain = \"d.h5\"\nignore_label = " + std::to_string(label) + "\n[train]\nepochs = 2\n",
        "test.toml", {});
    EXPECT_EQ(read_settings(configuration).train_data.ignore_label, static_cast<int32_t>(label));
  }
}

TEST(Settings, WhatARunWritesDownCanBeReadAgain) {
  for (const std::string more :
       {"", "[precision]\ncompute = \"fp16\"\n", "[precision]\nloss_scale = \"off\"\n",
        "[precision]\nloss_scale = \"static\"\n", "[average]\ntype = \"swa\"\n"}) {
    Configuration first =
        Configuration::parse("[data]\ntrain = \"d.h5\"\n[train]\nepochs = 2\n" + more, "test.toml", {});
    read_settings(first);
    Configuration again = Configuration::parse(first.resolved(), "configuration.toml", {});
    EXPECT_NO_THROW(read_settings(again)) << more;
    EXPECT_EQ(again.resolved(), first.resolved());
  }
}

TEST(Settings, TheOutputDirectoryFollowsTheName) {
  Configuration configuration = Configuration::parse(
      "[run]\nname = \"a\"\n[data]\ntrain = \"d.h5\"\n[train]\nsteps = 2\n", "test.toml", {});
  EXPECT_EQ(read_settings(configuration).output, "runs/a");
}

TEST(Settings, StepsOrEpochsExactlyOne) {
  const std::string data = "[data]\ntrain = \"d.h5\"\n[train]\n";
  EXPECT_EQ(settings_error(data + "steps = 3\n"), "no error");
  EXPECT_EQ(settings_error(data + "epochs = 3\n"), "no error");
  EXPECT_EQ(settings_error(data),
            "test.toml: train.steps: give either steps or epochs, got steps = 0 and epochs = 0");
  EXPECT_EQ(settings_error(data + "steps = 3\nepochs = 4\n"),
            "test.toml: train.steps: give either steps or epochs, got steps = 3 and epochs = 4");
}

TEST(Settings, AValidationFileAndAFractionExcludeEachOther) {
  EXPECT_EQ(settings_error(
                "[data]\ntrain = \"a\"\nvalidation = \"b\"\nvalidation_fraction = 0.1\n[train]\nsteps = 1\n"),
            "test.toml: data.validation_fraction: must be 0 when data.validation names a file");
}

TEST(Settings, LabelsOfValidationDataGoWithThem) {
  EXPECT_EQ(settings_error("[data]\ntrain = \"a\"\nvalidation_labels = \"b\"\n[train]\nsteps = 1\n"),
            "test.toml: data.validation_labels: goes with data.validation");
}

TEST(Settings, TheDescriptionNamesTheKeysOfEveryType) {
  std::set<std::string> names;
  for (const KeyDescription& key : described_keys())
    names.insert(key.section + "." + key.of_type + "." + key.key);
  for (const char* key :
       {"model.mlp.hidden", "model.cnn.channels", "model.layers.linear.units", "optimizer.adamw.beta1",
        "schedule.cosine.minimum_factor", "schedule..warmup", "average.ema.decay", "average.swa.start",
        "optimizer.groups..pattern", "parallel..bucket_mb", "checkpoint..keep_every"}) {
    EXPECT_TRUE(names.contains(key)) << key;
  }
  // A type's keys are no keys of all types.
  for (const char* key :
       {"optimizer..beta1", "schedule..minimum_factor", "model..hidden", "average..decay"}) {
    EXPECT_FALSE(names.contains(key)) << key;
  }
}

}  // namespace
}  // namespace lockstep
