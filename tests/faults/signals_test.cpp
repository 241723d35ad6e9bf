// Whatever asks a run to stop, and whenever it does: it saves and leaves, and nothing kills it on the way.
#include <pty.h>
#include <sys/stat.h>

#include <atomic>

#include "faults/faulty_run.h"

namespace lockstep::testing {
namespace {

class Signals : public FaultyRun {
 protected:
  static bool stepping(Job& job) {
    return job.wait_until([&] { return job.err().find("step ") != std::string::npos; });
  }
  // Runs a pipeline in bash; `lockstep "$@"` in it is the command, whose exit code the last line of its
  // output is.
  static Outcome run_shell(const std::string& pipeline, const std::vector<std::string>& arguments,
                           const std::function<void(Job&)>& act = {}) {
    std::vector<std::string> command = {"bash", "-c",
                                        "trap : INT\nlockstep() { local code=0; '" LOCKSTEP_COMMAND
                                        "' \"$@\" || code=$?; echo $code >\"$CODE\"; }\n"
                                        "scripted() { local code=0; '" LOCKSTEP_ROOT
                                        "/launch/mpirun.sh' -q -np 2 '" LOCKSTEP_COMMAND
                                        "' \"$@\" || code=$?; echo $code >\"$CODE\"; }\n"
                                        "export CODE=$(mktemp)\n" +
                                            pipeline + "\ncat \"$CODE\"",
                                        "bash"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    Job job(command);
    if (act) act(job);
    return job.wait(60.0);
  }
  static std::string last_line(const std::string& text) {
    const size_t end = text.find_last_not_of('\n');
    if (end == std::string::npos) return "";
    const size_t begin = text.find_last_of('\n', end);
    return text.substr(begin == std::string::npos ? 0 : begin + 1,
                       end - (begin == std::string::npos ? -1 : begin));
  }
};

TEST_F(Signals, AHangUpSavesAndLeavesWith75) {
  for (const int workers : {kNoLauncher, 3}) {
    SCOPED_TRACE(workers);
    const std::string output = scratch_.file("hung up" + std::to_string(workers));
    Job job(Job::on_workers(workers, training(output, {kEndless})));
    ASSERT_TRUE(stepping(job)) << job.err();
    if (workers == kNoLauncher) {
      job.signal(SIGHUP);
    } else {
      job.signal_rank(1, SIGHUP);
    }
    const Outcome outcome = job.wait(30.0);
    EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
    EXPECT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
  }
}

TEST_F(Signals, ARunThatWasToldToIgnoreHangUpsDoes) {
  const std::string output = scratch_.file("nohup");
  std::vector<std::string> command = {"nohup", LOCKSTEP_COMMAND};
  for (const std::string& argument : training(output, {kEndless, "checkpoint.every=50"}))
    command.push_back(argument);
  Job job(command);
  ASSERT_TRUE(stepping(job)) << job.err();
  job.signal(SIGHUP);
  const int64_t then = newest_checkpoint(output);
  EXPECT_TRUE(job.wait_until([&] { return newest_checkpoint(output) > then + 100; })) << job.err();
  job.signal(SIGTERM);
  EXPECT_EQ(job.wait(30.0).exit_code, 75);
}

// Slurm sends USR1 a while before the time limit and TERM at it.
TEST_F(Signals, ASecondOneOfAnyKindDoesNotDisturbTheSave) {
  for (const bool scripted : {false, true}) {
    SCOPED_TRACE(scripted);
    const std::string output = scratch_.file(scripted ? "scripted" : "alone");
    Job job(with_faults("fsync=sleep=1.5", scripted ? script(2) : std::vector<std::string>(),
                        training(output, {kEndless})));
    ASSERT_TRUE(stepping(job)) << job.err();
    for (const int signal : {SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGINT}) {
      job.signal(signal);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
    const Outcome outcome = job.wait(60.0);
    EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
    ASSERT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
    digest_of(checkpoint_of(output, newest_checkpoint(output)));
  }
}

TEST_F(Signals, ALogThatNobodyReadsAnyMoreEndsNothing) {
  for (const std::string command : {"lockstep", "scripted"}) {
    SCOPED_TRACE(command);
    const std::string output = scratch_.file("head of " + command);
    const Outcome outcome =
        run_shell(command + " \"$@\" 2>&1 | head -n 2", training(output, {"train.steps=300"}));
    EXPECT_EQ(last_line(outcome.out), "0") << outcome.out;
    EXPECT_EQ(newest_checkpoint(output), 300);
  }
}

TEST_F(Signals, CtrlCOnAPipelineSaves) {
  for (const std::string command : {"lockstep", "scripted"}) {
    SCOPED_TRACE(command);
    const std::string output = scratch_.file("tee of " + command), log = scratch_.file(command + ".log");
    const Outcome outcome = run_shell(
        command + " \"$@\" 2>&1 | tee '" + log + "' >/dev/null", training(output, {kEndless}), [&](Job& job) {
          ASSERT_TRUE(job.wait_until([&] { return bytes_of(log).find("step ") != std::string::npos; }))
              << bytes_of(log);
          ::kill(-job.pid(), SIGINT);  // as a terminal sends it: to all of the pipeline
        });
    EXPECT_EQ(last_line(outcome.out), "75") << outcome.out << outcome.err;
    EXPECT_EQ(checkpoints_in(output).size(), 1u);
  }
}

// A process whose terminal is the end of a pipe: its reader can press keys, or close the window.
class Terminal {
 public:
  explicit Terminal(std::vector<std::string> command) {
    std::vector<char*> words;
    for (std::string& word : command) words.push_back(word.data());
    words.push_back(nullptr);
    pid_ = ::forkpty(&keys_, nullptr, nullptr, nullptr);
    if (pid_ == 0) {
      ignore_no_signal();
      ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
      ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
      ::setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
      ::execvp(words[0], words.data());
      ::_exit(127);
    }
    reader_ = std::thread([this] {
      std::vector<char> bytes(4096);
      // What is not read would in the end keep the run waiting.
      while (!closing_ && ::read(keys_, bytes.data(), bytes.size()) > 0) {
      }
    });
  }
  ~Terminal() {
    ::kill(pid_, SIGKILL);
    close();
    ::waitpid(pid_, nullptr, 0);
  }
  void press(char key) { EXPECT_EQ(::write(keys_, &key, 1), 1); }
  void close() {
    if (!reader_.joinable()) return;
    closing_ = true;
    press(' ');  // is echoed, which wakes the reader
    reader_.join();
    ::close(keys_);
  }
  // -1: still running.
  int wait(double seconds) {
    for (int i = 0; i < static_cast<int>(seconds * 100.0); ++i) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_)
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return -1;
  }

 private:
  pid_t pid_ = -1;
  int keys_ = -1;
  std::atomic<bool> closing_ = false;
  std::thread reader_;
};

bool appears(const std::string& path) {
  for (int i = 0; i < 6000 && bytes_of(path).empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return !bytes_of(path).empty();
}

TEST_F(Signals, ATerminalThatIsClosedSavesTheRunOfALaunchScript) {
  const std::string output = scratch_.file("closed");
  std::vector<std::string> command = script(2);
  command.emplace_back(LOCKSTEP_COMMAND);
  for (const std::string& argument : training(output, {kEndless})) command.push_back(argument);
  Terminal terminal(command);
  ASSERT_TRUE(appears(output + "/metrics.jsonl"));
  terminal.close();
  EXPECT_EQ(terminal.wait(30.0), 75);
  EXPECT_EQ(checkpoints_in(output).size(), 1u);
}

TEST_F(Signals, OnlyASecondCtrlCAtATerminalEndsAtOnce) {
  for (const bool scripted : {false, true}) {
    SCOPED_TRACE(scripted);
    const std::string output = scratch_.file(scripted ? "scripted" : "alone");
    Terminal terminal(with_faults("fsync=hang", scripted ? script(2) : std::vector<std::string>(),
                                  training(output, {kEndless})));
    ASSERT_TRUE(appears(output + "/metrics.jsonl"));
    terminal.press('\x03');
    EXPECT_EQ(terminal.wait(1.5), -1) << "it saves, which takes for ever";
    terminal.press('\x03');
    EXPECT_EQ(terminal.wait(30.0), 130);
  }
}

// ---- at the start and at the end

TEST_F(Signals, OneDuringTheStartOfALaunchScriptIsNeitherLostNorDoesItKill) {
  Chance chance;
  SCOPED_TRACE(chance.description());
  for (int trial = 0; trial < 12; ++trial) {
    const std::string output = scratch_.file(std::to_string(trial));
    std::vector<std::string> command = script(2);
    command.emplace_back(LOCKSTEP_COMMAND);
    for (const std::string& argument : training(output, {kEndless})) command.push_back(argument);
    Job job(command);
    ASSERT_TRUE(job.wait_until([&] { return catches(job.pid(), SIGTERM); })) << job.err();
    const int64_t milliseconds = chance.between(0, 750);
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    job.signal(trial % 2 == 0 ? SIGTERM : SIGUSR1);
    const Outcome outcome = job.wait(40.0);
    EXPECT_EQ(outcome.exit_code, 75) << "after " << milliseconds << " ms:\n" << outcome.err;
  }
}

// A file that nobody vouches for is unpacked first by another process, which takes long.
TEST_F(Signals, OneWhileADataFileIsTriedEndsTheRunAndTheTrial) {
  if (std::system("/usr/bin/python3 -c 'import h5py'") != 0) GTEST_SKIP() << "h5py is not installed";
  const std::string data = scratch_.file("zeros.h5"), script = scratch_.file("make.py");
  write_file(script, R"(
import h5py, sys, zlib
# 1 GiB, of which every reading of 4 MiB unpacks 32.
with h5py.File(sys.argv[1], 'w') as file:
    x = file.create_dataset('x', (1 << 14, 1 << 16), 'u1', chunks=(1 << 9, 1 << 16), compression='gzip')
    chunk = zlib.compress(bytes(1 << 25), 9)
    for row in range(0, 1 << 14, 1 << 9): x.id.write_direct_chunk((row, 0), chunk)
    file['y'] = [row % 2 for row in range(1 << 14)]
)");
  ASSERT_EQ(std::system(("/usr/bin/python3 " + script + " " + data).c_str()), 0);
  const std::vector<std::string> arguments = training(scratch_.file("run"), {"data.train=" + data});
  Job job(Job::on_workers(kNoLauncher, arguments));
  const std::string process = "/proc/" + std::to_string(job.pid()),
                    children = process + "/task/" + std::to_string(job.pid()) + "/children";
  ASSERT_TRUE(job.wait_until([&] { return catches(job.pid(), SIGTERM) && !bytes_of(children).empty(); }))
      << job.err();
  const int trial = std::stoi(bytes_of(children));
  job.signal(SIGTERM);
  const bool ended = !job.wait_until([] { return false; }, 2.0) && !job.running();
  EXPECT_TRUE(ended) << "it is read on";
  EXPECT_FALSE(std::filesystem::exists("/proc/" + std::to_string(trial)));
  const Outcome outcome = job.wait(60.0);
  EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
  EXPECT_EQ(outcome.err, "stopped by SIGTERM before the start\n");
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("run")));
}

TEST_F(Signals, OneThatComesBeforeMpiHasStartedIsNotLost) {
  const std::string output = scratch_.file("early");
  Job job(with_faults("MPI_Init=sleep=1.5", workers(2), training(output, {kEndless})));
  ASSERT_TRUE(job.wait_until([&] { return job.ranks_catch(SIGUSR1, 2); })) << job.err();
  job.signal(SIGUSR1);
  const Outcome outcome = job.wait(40.0);
  EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
  EXPECT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
}

TEST_F(Signals, OneThatComesWhileNothingComesOutOfAPipeEndsTheWait) {
  const std::string pipe = scratch_.file("pipe.toml");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const bool opened : {false, true}) {
    for (const int signal : {SIGTERM, SIGINT}) {
      SCOPED_TRACE(signal);
      Job job({LOCKSTEP_COMMAND, "train", pipe, "--output", scratch_.file("none")});
      ASSERT_TRUE(job.wait_until([&] { return catches(job.pid(), signal); })) << job.err();
      // Somebody who has something to say, and does not get to the end.
      std::ofstream writer;
      if (opened) {
        writer.open(pipe);
        writer << "[run]\n" << std::flush;
      }
      job.signal(signal);
      const Outcome outcome = job.wait(10.0);
      EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
      EXPECT_EQ(count(outcome.err, "\n"), 1u) << outcome.err;
      EXPECT_EQ(count(outcome.err, "pipe.toml: asked to stop while nothing came"), 1u) << outcome.err;
    }
  }
  // What comes late is read all the same.
  Job job({LOCKSTEP_COMMAND, "train", pipe, "--output", scratch_.file("late")});
  ASSERT_TRUE(job.wait_until([&] { return catches(job.pid(), SIGTERM); })) << job.err();
  std::ofstream(pipe) << bytes_of(scratch_.file("run.toml"));
  const Outcome outcome = job.wait(60.0);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST_F(Signals, ALateOneDoesNotKillARunThatIsDone) {
  Chance chance;
  SCOPED_TRACE(chance.description());
  for (int trial = 0; trial < 30; ++trial) {
    const std::string output = scratch_.file(std::to_string(trial));
    Job job(Job::on_workers(kNoLauncher, training(output, {"train.steps=3"})));
    ASSERT_TRUE(
        job.wait_until([&] { return std::filesystem::exists(output + "/loss.svg") || !job.running(); }));
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
    while (job.running() && std::chrono::steady_clock::now() < end)
      job.signal(trial % 2 == 0 ? SIGUSR1 : SIGHUP);
    EXPECT_EQ(job.wait(30.0).exit_code, 0) << trial;
  }
}

}  // namespace
}  // namespace lockstep::testing
