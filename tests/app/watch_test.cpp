// lockstep watch: what it shows of runs that go on, have ended, have died, or are none.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <sstream>

#include "app/command_answer.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/app/watch_command.h"

namespace lockstep {
namespace {

using testing::Answer;
using testing::holds;
using testing::lockstep_command;

class Watch : public ::testing::Test {
 protected:
  Watch() { std::filesystem::create_directory(directory_); }
  void status(const std::string& more, pid_t pid, double age) const {
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    const double now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    const nlohmann::json base = {{"name", "a run"}, {"time", now - age},           {"step_time", now - age},
                                 {"step", 150},     {"total_steps", 600},          {"eta_seconds", 75.0},
                                 {"workers", 2},    {"hosts", {"h1", "h2"}},       {"host", host.data()},
                                 {"pid", pid},      {"samples_per_second", 1234.0}};
    nlohmann::json all = base;
    all.update(nlohmann::json::parse(more));
    testing::overwrite(directory_ + "/status.json", all.dump());
  }
  void metrics(int steps) const {
    std::string text;
    for (int step = 1; step <= steps; ++step) {
      text += nlohmann::json{{"step", step},
                             {"loss", 2.0 / step},
                             {"learning_rate", 0.001},
                             {"data_seconds", 0.1},
                             {"compute_seconds", 0.3}}
                  .dump() +
              "\n";
    }
    testing::overwrite(
        directory_ + "/metrics.jsonl",
        text + "{\"step\":100,\"validation_loss\":0.25}\n{\"step\":150,\"validation_loss\":0.5}\n");
  }
  std::string shown() const {
    const Answer answer = lockstep_command({"watch", directory_, "--once"});
    EXPECT_EQ(answer.exit_code, 0) << answer.err;
    for (const char c : answer.out)
      EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << answer.out;
    return answer.out;
  }
  static pid_t gone() {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
    return child;
  }

  testing::ScratchDirectory scratch_;
  const std::string directory_ = scratch_.file("run");
};

TEST_F(Watch, ShowsARunThatGoesOn) {
  status(R"({"state": "evaluating"})", ::getpid(), 1.0);
  metrics(150);
  testing::overwrite(directory_ + "/step-000000100.h5", "");
  const std::string text = shown();
  for (const char* part :
       {"a run  evaluating  ", "step 150/600 (25.0%)", "ETA 1m15s", "loss 0.01333",
        "validation 0.5 (least 0.25 at step 100)", "lr 0.001", "1234 samples/s", "data 25%  compute 75%",
        "workers 2 on h1, h2  checkpoint of step 100 (1 kept)", "step 150\n", "\xE2\xA0"})
    EXPECT_TRUE(holds(text, part)) << part << "\n" << text;
  EXPECT_FALSE(holds(text, "heartbeat")) << text;
}

TEST_F(Watch, SaysThatARunIsSilentOrDead) {
  metrics(3);
  status(R"({"state": "training"})", ::getpid(), 42.0);
  EXPECT_TRUE(holds(shown(), "no heartbeat for 4")) << shown();
  status(R"({"state": "training", "host": "another"})", gone(), 1.0);
  EXPECT_FALSE(holds(shown(), "died")) << "nobody here knows";
  status(R"({"state": "saving"})", gone(), 3.0);
  EXPECT_TRUE(holds(shown(), "a run  died  ")) << shown();
  EXPECT_TRUE(holds(shown(), "is gone; continue with --resume")) << shown();
  status(R"({"state": "ended", "exit_code": 5, "message": "step 3: \u001b[2Jdiverged\u009b1m"})", gone(),
         1e6);
  EXPECT_TRUE(holds(shown(), "\nstep 3: ?[2Jdiverged?1m\n")) << shown();
  EXPECT_TRUE(holds(shown(), "  ended: exit code 5, diverged  ")) << shown();
  EXPECT_FALSE(holds(shown(), "ETA")) << shown();
}

TEST_F(Watch, TakesWhateverLiesInTheDirectory) {
  EXPECT_EQ(lockstep_command({"watch", directory_, "--once"}).exit_code, 2);
  EXPECT_EQ(lockstep_command({"watch", scratch_.file("absent")}).exit_code, 2);
  testing::overwrite(directory_ + "/metrics.jsonl", "");
  testing::overwrite(directory_ + "/step-000000100.h5", "");
  EXPECT_TRUE(holds(shown(), "\nstep 0\ncheckpoint of step 100"));
  for (const char* text :
       {"[1, 2", "{\"step\": \"x\", \"hosts\": [1, {}], \"state\": 7}", "{\"time\": 1e300}"}) {
    testing::overwrite(directory_ + "/status.json", text);
    testing::overwrite(directory_ + "/metrics.jsonl",
                       "\xff\xfe\n{\"step\":1,\"loss\":null}\n{\"step\":1e400}\n{\"step\":2,\"lo");
    EXPECT_TRUE(holds(shown(), "1 losses are not finite, from step 1 on")) << shown();
  }
}

TEST_F(Watch, AStatusThatIsNestedDeeplyIsADamagedOne) {
  constexpr size_t kLevels = 400000;
  metrics(3);
  const std::string text =
      "{\"name\":\"x\",\"a\":" + std::string(kLevels, '[') + std::string(kLevels, ']') + "}";
  testing::overwrite(directory_ + "/status.json", text);
  EXPECT_TRUE(holds(shown(), "step 3\n")) << shown();
  EXPECT_TRUE(RunView::open(directory_).status.empty());
}

TEST_F(Watch, FitsNarrowTerminals) {
  status(R"({"state": "training"})", ::getpid(), 1.0);
  metrics(150);
  const RunView run = RunView::open(directory_);
  for (const auto& [columns, rows] : {std::pair(10, 5), {24, 10}, {80, 24}, {300, 100}, {0, 0}}) {
    std::istringstream frame(watch_frame(run, columns, rows, 0.0));
    int lines = 0;
    for (std::string line; std::getline(frame, line); ++lines) {
      int characters = 0;
      for (const char c : line) characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
      EXPECT_LE(characters, columns) << line;
    }
    EXPECT_LE(lines, rows);
  }
}

// What a terminal shows in two columns, or in none, would break the picture below it.
TEST_F(Watch, CharactersOfTwoColumnsAreCutWhereTheTerminalEnds) {
  status(R"({"state": "training", "name": "漢字漢字漢字漢字"})", ::getpid(), 0.0);
  metrics(150);
  const RunView run = RunView::open(directory_);
  const auto head = [&run](int columns) {
    const std::string frame = watch_frame(run, columns, 5, 0.0);
    return frame.substr(0, frame.find('\n'));
  };
  EXPECT_EQ(head(4), "漢字");
  EXPECT_EQ(head(7), "漢字漢");
  EXPECT_EQ(head(20), "漢字漢字漢字漢字  tr");
  status(R"({"state": "training", "name": "e\u0301te\u0301"})", ::getpid(), 0.0);
  RunView accents = RunView::open(directory_);
  EXPECT_EQ(watch_frame(accents, 3, 5, 0.0).substr(0, 8), "e\u0301te\u0301\n");
}

}  // namespace
}  // namespace lockstep
