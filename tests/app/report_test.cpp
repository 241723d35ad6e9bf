// lockstep report: one page, whatever runs have left behind.
#include <gtest/gtest.h>

#include <filesystem>

#include "app/command_answer.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/app/report_command.h"
#include "train/xml_fault.h"

namespace lockstep {
namespace {

using testing::Answer;
using testing::holds;
using testing::lockstep_command;

class Report : public ::testing::Test {
 protected:
  std::string run(const std::string& name, const std::string& metrics, const std::string& configuration,
                  const std::string& status = "") const {
    const std::string directory = scratch_.file(name);
    std::filesystem::create_directory(directory);
    testing::overwrite(directory + "/metrics.jsonl", metrics);
    testing::overwrite(directory + "/configuration.toml", configuration);
    if (!status.empty()) testing::overwrite(directory + "/status.json", status);
    return directory;
  }
  std::string page_of(std::vector<std::string> directories) const {
    directories.insert(directories.begin(), "report");
    directories.insert(directories.end(), {"--output", page_});
    const Answer answer = lockstep_command(directories);
    EXPECT_EQ(answer.exit_code, 0) << answer.err;
    const std::string page = testing::bytes_of(page_);
    EXPECT_EQ(testing::xml_fault(page.substr(page.find('\n') + 1)), "") << page.substr(0, 3000);
    for (const char* part : {"<script", "nan", "src=\"", "href=\"", "@import", "url("})
      EXPECT_FALSE(holds(page, part)) << part;
    return page;
  }
  testing::ScratchDirectory scratch_;
  const std::string page_ = scratch_.file("report.html");
};

std::string steps(int count, double rate) {
  std::string text;
  for (int step = 1; step <= count; ++step) {
    text += nlohmann::json{{"step", step},
                           {"loss", 2.0 / step},
                           {"learning_rate", rate},
                           {"gradient_norm", 1.0},
                           {"data_seconds", 0.25},
                           {"compute_seconds", 0.75},
                           {"optimizer_seconds", nullptr}}
                .dump() +
            "\n";
  }
  return text + nlohmann::json{{"step", count}, {"validation_loss", 0.5}}.dump() + "\n";
}

TEST_F(Report, ComparesRunsAndWhatTheyWereConfiguredTo) {
  const std::string a =
      run("a", steps(30, 0.1), "[run]\nname = \"a\"\noutput = \"x\"\nseed = 1\n[optimizer]\nlr = 0.1\n",
          R"({"name": "first", "state": "ended", "exit_code": 0, "step": 30, "total_steps": 30})");
  const std::string b = run(
      "b", steps(20, 0.2), "[run]\nname = \"a\"\noutput = \"y\"\nseed = 1\n[optimizer]\nlr = 0.2\nnew = 1\n",
      R"({"name": "second", "state": "ended", "exit_code": 5, "message": "loss <NaN> & more"})");
  const std::string page = page_of({a, b});
  for (const char* part : {"1 first</span>", "2 second</span>", "30 of 30", "exit code 5, diverged",
                           "loss &lt;NaN&gt; &amp; more", ">training loss</text>", ">validation loss</text>",
                           ">learning rate</text>", ">gradient norm</text>", "data 25.0%", "compute 75.0%",
                           "0.5 at step 20", "<tr><th>optimizer.lr</th><td>0.1</td><td>0.2</td></tr>",
                           "<tr><th>optimizer.new</th><td>not set</td><td>1</td></tr>"})
    EXPECT_TRUE(holds(page, part)) << part;
  EXPECT_FALSE(holds(page, "run.seed"));
  EXPECT_FALSE(holds(page, "run.output"));
  EXPECT_EQ(page_of({a, b}), page) << "a report is replaced";
  testing::overwrite(page_, "precious");
  EXPECT_EQ(lockstep_command({"report", a, "--output", page_}).exit_code, 2);
  EXPECT_EQ(testing::bytes_of(page_), "precious");
}

TEST_F(Report, TakesEmptyCutAndHostileFiles) {
  const std::string empty = run("empty", "", "");
  testing::overwrite(empty + "/step-000000001.h5", "");
  const std::string cut =
      run("cut", "{\"step\":1,\"loss\":null}\n{\"step\":2,\"loss\":-3}\n{\"step\":3,\"lo", "[[[= = \n]");
  const std::string hostile =
      run("<b>", "{\"step\":1e308,\"loss\":1e308}\n{\"step\":-1e308,\"loss\":-1e308}\n\xff\n{\"step\":5}\n",
          "[a]\n<script>alert(1)</script> = \"<img src=x onerror=y>\"\n",
          "{\"name\": \"</title><script>x</script>\\u0007\", \"state\": \"<i>\", \"step\": 1e308}");
  const std::string page = page_of({empty, cut, hostile});
  EXPECT_TRUE(holds(page, "1, from step 1 on"));
  EXPECT_TRUE(holds(page, "&lt;/title&gt;&lt;script&gt;x&lt;/script&gt;?"));
  EXPECT_EQ(lockstep_command({"report", scratch_.file("absent"), "--output", page_}).exit_code, 2);
  EXPECT_EQ(lockstep_command({"report", empty}).exit_code, 2);
}

TEST_F(Report, LongRunsMakeSmallPages) {
  const std::string page = page_of({run("long", steps(20'000, 0.1), "")});
  EXPECT_LT(page.size(), size_t{200'000});
}

}  // namespace
}  // namespace lockstep
