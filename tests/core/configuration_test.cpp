// The configuration reader: what it accepts, what it refuses and in which words, and that its output reads
// back.
#include "lockstep/core/configuration.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "core/error_message.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

using testing::expect_contains;
using testing::message_of;

Configuration parse(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  return Configuration::parse(toml, "run.toml", overrides);
}

// The settings of a small imaginary run, read the way the program reads its own.
struct Settings {
  int64_t steps = 0, seed = 0;
  double rate = 0, decay = 0;
  bool shuffle = false;
  std::string type, name;
  std::vector<int64_t> hidden;
  std::vector<double> betas;
  std::vector<std::string> files;
  std::vector<std::pair<std::string, int64_t>> layers;

  bool operator==(const Settings&) const = default;
};

Settings read(Configuration& configuration) {
  Settings s;
  Section run = configuration.section("run");
  s.name = run.text("name", "unnamed", {}, "name of the run");
  s.seed = run.integer("seed", 0, kAny, "seed of every random draw");
  Section train = configuration.section("train");
  s.steps = train.integer("steps", std::nullopt, Range{1, 1e9}, "optimizer updates");
  Section data = configuration.section("data");
  s.shuffle = data.boolean("shuffle", true, "new order each epoch");
  s.files = data.texts("files", std::vector<std::string>{}, "data files");
  Section optimizer = configuration.section("optimizer");
  s.type = optimizer.text("type", "sgd", {"sgd", "adam"}, "method");
  s.rate = optimizer.real("learning_rate", 0.1, kPositive, "step size");
  s.decay = optimizer.real("weight_decay", 0.0, kUnit, "decoupled decay");
  s.betas = optimizer.reals("betas", std::vector<double>{0.9, 0.999}, kUnit, "averages");
  Section model = configuration.section("model");
  s.hidden = model.integers("hidden", std::vector<int64_t>{16}, kPositive, "widths");
  for (Section& layer : model.tables("layers")) {
    const std::string type = layer.text("type", std::nullopt, {"linear", "relu"}, "kind");
    s.layers.emplace_back(type, layer.integer("units", 4, kPositive, "width"));
  }
  return s;
}

TEST(Configuration, TakesGivenValuesAndFallbacksForTheRest) {
  Configuration c = parse(R"(
    [train]
    steps = 20
    [optimizer]
    learning_rate = 1
    betas = [0, 0.5]
    [model]
    hidden = []
    [[model.layers]]
    type = "linear"
    [[model.layers]]
    type = "relu"
    units = 9
  )");
  const Settings s = read(c);
  c.reject_unknown();
  EXPECT_EQ(s.steps, 20);
  EXPECT_EQ(s.rate, 1.0);
  EXPECT_EQ(s.betas, (std::vector<double>{0.0, 0.5}));
  EXPECT_TRUE(s.hidden.empty());
  EXPECT_EQ(s.layers, (std::vector<std::pair<std::string, int64_t>>{{"linear", 4}, {"relu", 9}}));
  EXPECT_EQ(s.type, "sgd");
  EXPECT_TRUE(s.shuffle);
  EXPECT_EQ(c.section("model").tables("layers")[1].path(), "model.layers[1]");
}

struct BadInput {
  const char* toml;
  const char* message;
};

void expect_refused(const std::vector<BadInput>& inputs) {
  for (const BadInput& input : inputs) {
    SCOPED_TRACE(input.toml);
    EXPECT_EQ(message_of(
                  [&] {
                    Configuration c = parse(input.toml);
                    read(c);
                    c.reject_unknown();
                  },
                  ErrorKind::kUsage),
              input.message);
  }
}

TEST(Configuration, BadValuesAreRefusedInOneClearLine) {
  expect_refused(
      {{"", "run.toml: train.steps: is required: an integer in [1, 1000000000]"},
       {"[train]\nsteps = 2.0", "run.toml: train.steps: must be an integer, got 2.0"},
       {"[train]\nsteps = \"2\"", "run.toml: train.steps: must be an integer, got the text \"2\""},
       {"[train]\nsteps = true", "run.toml: train.steps: must be an integer, got true"},
       {"[train]\nsteps = 1979-05-27", "run.toml: train.steps: must be an integer, got a date or time"},
       {"[train]\nsteps = [2]", "run.toml: train.steps: must be an integer, got a list"},
       {"[train]\nsteps = {a = 1}", "run.toml: train.steps: must be an integer, got a table"},
       {"[train]\nsteps = 0", "run.toml: train.steps: must be in [1, 1000000000], got 0"},
       {"[train]\nsteps = -9223372036854775808",
        "run.toml: train.steps: must be in [1, 1000000000], got -9223372036854775808"},
       {"train = 3", "run.toml: train: must be a table, got 3"},
       {"[[train]]\nsteps = 3", "run.toml: train: must be a table, got a list"},
       {"train.steps = 1\noptimizer.learning_rate = -1",
        "run.toml: optimizer.learning_rate: must be > 0, got -1"},
       {"train.steps = 1\noptimizer.learning_rate = 0.0",
        "run.toml: optimizer.learning_rate: must be > 0, got 0.0"},
       {"train.steps = 1\noptimizer.learning_rate = nan",
        "run.toml: optimizer.learning_rate: must be finite, got nan"},
       {"train.steps = 1\noptimizer.learning_rate = inf",
        "run.toml: optimizer.learning_rate: must be finite, got inf"},
       {"train.steps = 1\noptimizer.weight_decay = 1.5",
        "run.toml: optimizer.weight_decay: must be in [0, 1], got 1.5"},
       {"train.steps = 1\noptimizer.type = \"adm\"",
        "run.toml: optimizer.type: must be one of \"sgd\", \"adam\", got the text \"adm\""},
       {"train.steps = 1\ndata.shuffle = 1", "run.toml: data.shuffle: must be true or false, got 1"},
       {"train.steps = 1\ndata.files = \"a\"",
        "run.toml: data.files: must be a list of texts, got the text \"a\""},
       {"train.steps = 1\ndata.files = [\"a\", 1]",
        "run.toml: data.files: must be a list of texts, got 1 as element 1"},
       {"train.steps = 1\nmodel.hidden = [8, -3]", "run.toml: model.hidden: element 1 must be > 0, got -3"},
       {"train.steps = 1\nmodel.hidden = [8, 3.5]",
        "run.toml: model.hidden: must be a list of integers, got 3.5 as element 1"},
       {"train.steps = 1\nmodel.layers = 3", "run.toml: model.layers: must be a list of tables, got 3"},
       {"train.steps = 1\nmodel.layers = [{type = \"relu\"}, 3]",
        "run.toml: model.layers: must be a list of tables, got 3 as element 1"},
       {"train.steps = 1\n[[model.layers]]\ntype = \"relu\"\n[[model.layers]]\nunits = 2",
        "run.toml: model.layers[1].type: is required: a text one of \"linear\", \"relu\""}});
}

TEST(Configuration, UnknownKeysAreRefusedWithTheNearestKnownOnes) {
  expect_refused(
      {{"train.steps = 1\noptimizer.lerning_rate = 1",
        "run.toml: optimizer.lerning_rate: unknown key: did you mean optimizer.learning_rate?"},
       {"train.steps = 1\noptimizer.seed = 1",
        "run.toml: optimizer.seed: unknown key: did you mean run.seed?"},
       {"train.steps = 1\noptimizer.lr = 1",
        "run.toml: optimizer.lr: unknown key: did you mean optimizer.learning_rate?"},
       {"train.steps = 1\nlearning_rate = 1",
        "run.toml: learning_rate: unknown key: did you mean optimizer.learning_rate?"},
       {"train.steps = 1\n[optimzier]\ntype = \"sgd\"",
        "run.toml: optimzier: unknown key: did you mean optimizer?"},
       {"train.steps = 1\n[entirely]\nother = 1",
        "run.toml: entirely: unknown key: valid here: run, train, data, optimizer, model"},
       {"train.steps = 1\ntrain.zzzzzz = 1", "run.toml: train.zzzzzz: unknown key: valid here: steps"},
       {"train.steps = 1\n[[model.layers]]\ntype = \"relu\"\nunit = 3",
        "run.toml: model.layers[0].unit: unknown key: did you mean model.layers[0].units?"},
       {"train.steps = 1\noptimizer.typ = 1\nrun.nam = 1",
        "run.toml: optimizer.typ: unknown key: did you mean optimizer.type? (also unknown: run.nam)"},
       {"train.steps = 1\nrun.\"a\\nb\" = 1",
        "run.toml: run.\"a\\nb\": unknown key: valid here: name, seed"}});
}

TEST(Configuration, SyntaxErrorsAndDuplicatesNameLineAndColumn) {
  EXPECT_EQ(message_of([] { parse("[run]\nseed = = 3\n"); }, ErrorKind::kUsage).rfind("run.toml:2:", 0), 0u);
  EXPECT_EQ(
      message_of([] { parse("[run]\nseed = 3\nseed = 4\n"); }, ErrorKind::kUsage).rfind("run.toml:3:", 0),
      0u);
  EXPECT_EQ(message_of([] { parse("[run]\n[data]\n[run]\n"); }, ErrorKind::kUsage).rfind("run.toml:3:", 0),
            0u);
  EXPECT_EQ(message_of([] { parse("a = \"\xff\xfe\""); }, ErrorKind::kUsage).rfind("run.toml:1:", 0), 0u);
  EXPECT_EQ(message_of([] { parse("a = 99999999999999999999"); }, ErrorKind::kUsage).rfind("run.toml:1:", 0),
            0u);
  EXPECT_EQ(message_of([] { parse("a = [[[[[["); }, ErrorKind::kUsage).rfind("run.toml:1:", 0), 0u);
}

// toml++ takes tables apart by recursion: a file of a stranger would end the process.
TEST(Configuration, KeysOfManyPartsAreRefused) {
  const auto repeated = [](const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
  };
  const std::string deep = repeated("a.", 200000) + "a", quoted = repeated("\"a\" . ", 200000) + "a";
  // Behind texts and comments, whose quotes and dots are no others' business.
  const std::string before = "x = \"\"\"\\\"\n\"\"\"\"\"\n# \"y\ny = '#'\n";
  const std::pair<std::string, int> table[] = {
      {deep + " = 1", 32},
      {"[" + deep + "]", 33},
      {quoted + " = 1", 95},
      {"b = {" + deep + " = 1}", 37},
      {"b = [[{c = 1}, {'x' = '\xc3\xa9'," + deep + " = 1}]]", 58},
  };
  for (const auto& [text, column] : table) {
    EXPECT_EQ(message_of([&, &text = text] { parse(before + text); }, ErrorKind::kUsage),
              "run.toml:5:" + std::to_string(column) + ": a key of more than 16 parts");
  }
  message_of([&] { parse("", {deep + "=1"}); }, ErrorKind::kUsage);
  message_of([&] { parse("", {"a" + repeated("[0]", 200000) + "=1"}); }, ErrorKind::kUsage);
  parse("", {"a={" + deep + "=1}"});  // no value of TOML, so a text
  // Dots that are not between parts, and as many parts as are allowed.
  const std::string dots(100, '.');
  parse("# " + dots + "\na = \"" + dots + "\"\nb = '" + dots + "'\nc = \"\"\"\n" + dots +
        "\"\"\"\"\"\nd = '''" + dots +
        "'''\ne = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5, 11.5, 12.5, 13.5, 14.5, 15.5, 16.5, "
        "17.5]\n" +
        repeated("a1.", 15) + "a = 1\n");
}

// toml++ asserts that no value begins with a bracket that closes.
TEST(Configuration, ListsThatAreNotClosedAreTextsInOverridesAndRefusedInFiles) {
  for (const std::string text : {"[", "[64,", "[[[", "{b = [", "[}"}) {
    Configuration configuration = parse("", {"run.a=" + text});
    EXPECT_EQ(configuration.section("run").text("a", "", {}, "a"), text);
  }
  EXPECT_EQ(message_of([] { parse("x = [ }\n"); }, ErrorKind::kUsage).rfind("run.toml:", 0), 0u);
  for (const std::string letter : {"\xd0\x9a", "\xc3\xa9"}) {
    EXPECT_EQ(message_of([&] { parse("\n" + letter + " = 1"); }, ErrorKind::kUsage),
              "run.toml:2:1: characters beyond ASCII must stand in quotes or in a comment");
    for (const std::string blanks : {"", "\n", "\t\n \r\n  "}) {
      expect_contains(
          message_of([&] { parse("x = \"\"\"a\\" + blanks + letter + "\"\"\""); }, ErrorKind::kUsage),
          {"run.toml:", "behind a backslash, a line of a text must not begin beyond ASCII"});
    }
    for (const std::string before : {"x = 5m'", "x = 5.\"", "x = true'\"", "x = [1, a='", "x = {y = 1[{'"}) {
      expect_contains(message_of([&] { parse(before + letter + "'\""); }, ErrorKind::kUsage),
                      {"run.toml:1:", "characters beyond ASCII must stand in quotes"});
    }
    parse("a.\"" + letter + "\".1.'" + letter + "' = [['" + letter + "'], {x.'" + letter + "' = [\n1, '" +
          letter + "',]}]\n['" + letter + "'.b.\"" + letter + "\"]\n'" + letter + "' = 5.5");
    parse("x = \"\"\"a\\\\\n" + letter + "\\t" + letter + "\"\"\"\ny = \"" + letter + "\"");
    Configuration configuration =
        parse("# " + letter + "\n[run]\n\"" + letter + "\" = '" + letter + "'", {"run.a=" + letter});
    EXPECT_EQ(configuration.section("run").text(letter, "", {}, "a"), letter);
    EXPECT_EQ(configuration.section("run").text("a", "", {}, "a"), letter);
  }
}

// toml++ takes them for a mistake of its own, and aborts.
TEST(Configuration, NamesOfTablesThatBeginAsNoKeyAreRefused) {
  for (const std::string name :
       {".model", "!a", "\xc3\xa9", "=", "\n", "\x01", " .a", "[.a]", "[ \xc2\xa0]"}) {
    const std::string message =
        message_of([&] { parse("[run]\nx = [\n[ # a list\n+5]]\n  [" + name + "]\n"); }, ErrorKind::kUsage);
    EXPECT_EQ(message.rfind("run.toml:", 0), 0u) << message;
    EXPECT_NE(message.find("the name of a table must begin with"), std::string::npos) << message;
  }
  const std::string mark = "\xEF\xBB\xBF";
  EXPECT_NE(message_of([&] { parse(mark + "[.a]"); }, ErrorKind::kUsage).find("run.toml:1:2: the name"),
            std::string::npos);
  parse(mark + "[a]\n[ \"b.\" ]\n[[ 'c' ]]\nx = [\n[\n1], [+2],\n[\n]]\n[-]\n[_]\r\n[0]\n");
  parse("", {"a=[[+1], [.5]]"});
}

TEST(Configuration, LoadNamesAFileThatCannotBeRead) {
  const auto path =
      std::filesystem::temp_directory_path() / ("configuration_test_" + std::to_string(getpid()));
  EXPECT_EQ(message_of([&] { Configuration::load(path.string(), {}); }, ErrorKind::kUsage),
            path.string() + ": cannot be read: No such file or directory");
  std::filesystem::create_directory(path);
  EXPECT_EQ(message_of([&] { Configuration::load(path.string(), {}); }, ErrorKind::kUsage),
            path.string() + ": cannot be read: Is a directory");
  const std::string file = (path / "a.toml").string();
  std::ofstream(file) << "";
  Configuration::load(file, {}).reject_unknown();
  std::ofstream(file) << "[train]\nsteps = 3\n";
  Configuration loaded = Configuration::load(file, {"run.seed=5"});
  EXPECT_EQ(read(loaded).steps, 3);
  EXPECT_EQ(read(loaded).seed, 5);
  std::filesystem::remove_all(path);
}

TEST(Overrides, ReplaceAddAndReachIntoLists) {
  Configuration c =
      parse("[train]\nsteps = 1\n[[model.layers]]\ntype = \"linear\"\nunits = 2\n",
            {"train.steps=7", "run.name=my run #3", "optimizer.learning_rate=3e-4", "data.shuffle=false",
             "data.files=[\"a\", \"b\"]", "model.layers[0].units=3", "model.layers[1].type=relu",
             "model.hidden=[1,2,3]", "model.hidden[1]=20", "model.hidden[3]=4", "run.seed=1", "run.seed=2"});
  const Settings s = read(c);
  c.reject_unknown();
  EXPECT_EQ(s.steps, 7);
  EXPECT_EQ(s.name, "my run #3");
  EXPECT_EQ(s.rate, 3e-4);
  EXPECT_FALSE(s.shuffle);
  EXPECT_EQ(s.files, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(s.layers, (std::vector<std::pair<std::string, int64_t>>{{"linear", 3}, {"relu", 4}}));
  EXPECT_EQ(s.hidden, (std::vector<int64_t>{1, 20, 3, 4}));
  EXPECT_EQ(s.seed, 2);
}

TEST(Overrides, ValuesThatAreNotOneTomlValueAreText) {
  for (const std::string text : {"adam", "", "a=b", "1 # one", "1, w = 2", "1\nw = 2", "[1", "\"",
                                 "say \"hi\"", "\\n", "2 }", "] [", "caf\xc3\xa9", "\x01"}) {
    Configuration c = parse("", {"run.name=" + text});
    EXPECT_EQ(c.section("run").text("name", "", {}, ""), text);
    c.reject_unknown();
  }
}

TEST(Overrides, NumbersMayLackTheDigitsThatTomlWants) {
  const std::pair<const char*, double> spellings[] = {
      {".001", 1e-3},  {"1.e-3", 1e-3}, {"5.", 5.0},    {"-.5", -0.5},  {"+.5e1", 5.0},    {"-2.", -2.0},
      {".5E-1", 0.05}, {"1_0.", 10.0},  {"0.25", 0.25}, {"3e-4", 3e-4}, {"12.E+1", 120.0}, {" .5 ", 0.5}};
  for (const auto& [spelling, value] : spellings) {
    Configuration c = parse("", {std::string("a.x=") + spelling});
    EXPECT_EQ(c.section("a").real("x", std::nullopt, kAny, ""), value) << spelling;
  }
  Configuration list = parse("", {"a.x=[.9, 1., -.5]"});
  EXPECT_EQ(list.section("a").reals("x", std::nullopt, kAny, ""), (std::vector<double>{0.9, 1.0, -0.5}));
  Configuration texts =
      parse("", {"a.x=[\".5\", '1.']", "a.y=v1.", "a.z=1.2.3", "a.file=.cache", "a.dots=..", "a.e=.e5"});
  Section a = texts.section("a");
  EXPECT_EQ(a.texts("x", std::nullopt, ""), (std::vector<std::string>{".5", "1."}));
  EXPECT_EQ(a.text("y", std::nullopt, {}, ""), "v1.");
  EXPECT_EQ(a.text("z", std::nullopt, {}, ""), "1.2.3");
  EXPECT_EQ(a.text("file", std::nullopt, {}, ""), ".cache");
  EXPECT_EQ(a.text("dots", std::nullopt, {}, ""), "..");
  EXPECT_EQ(a.text("e", std::nullopt, {}, ""), ".e5");
}

TEST(Configuration, MisspeltNumbersAreShownInTheSpellingOfToml) {
  const std::pair<const char*, const char*> cases[] = {
      {".001", "run.toml:2:5: TOML writes .001 as 0.001"},
      {"1.e-3", "run.toml:2:7: TOML writes 1.e-3 as 1.0e-3"},
      {"5.", "run.toml:2:7: TOML writes 5. as 5.0"},
      {"-.5", "run.toml:2:6: TOML writes -.5 as -0.5"},
      {"[0.5, .9]", "run.toml:2:11: TOML writes .9 as 0.9"},
      {"5. # .5", "run.toml:2:7: TOML writes 5. as 5.0"},
  };
  for (const auto& [value, expected] : cases) {
    const std::string toml = std::string("[a]\nx = ") + value + "\n";
    EXPECT_EQ(message_of([&] { parse(toml); }, ErrorKind::kUsage), expected);
  }
  // Another mistake keeps its own words.
  EXPECT_EQ(message_of([] { parse("[a]\nx = 5,\n"); }, ErrorKind::kUsage).find("TOML writes"),
            std::string::npos);
}

TEST(Configuration, NumbersThatNoValueHoldsAreCalledByTheirName) {
  EXPECT_EQ(message_of([] { parse("a = 99999999999999999999"); }, ErrorKind::kUsage),
            "run.toml:1:25: 99999999999999999999 is beyond 64 bits");
  EXPECT_EQ(message_of([] { parse("a = [1, -0x1]\nb = 0xFFFFFFFFFFFFFFFFF\n"); }, ErrorKind::kUsage)
                .rfind("run.toml:1:", 0),
            0u);
  EXPECT_EQ(message_of([] { parse("a = 1e999"); }, ErrorKind::kUsage),
            "run.toml:1:10: 1e999 is beyond the range of fp64");
  const auto read_seed = [](const std::string& value) {
    return message_of(
        [&] {
          Configuration c = parse("", {"run.seed=" + value});
          c.section("run").integer("seed", 0, {0, 9007199254740992.0}, "");
        },
        ErrorKind::kUsage);
  };
  EXPECT_EQ(read_seed("99999999999999999999"),
            "--set: run.seed: must be an integer: 99999999999999999999 is beyond 64 bits");
  EXPECT_EQ(read_seed("-9223372036854775809"),
            "--set: run.seed: must be an integer: -9223372036854775809 is beyond 64 bits");
  EXPECT_EQ(read_seed("0xFFFFFFFFFFFFFFFFF"),
            "--set: run.seed: must be an integer: 0xFFFFFFFFFFFFFFFFF is beyond 64 bits");
  EXPECT_EQ(read_seed("9223372036854775807"),
            "--set: run.seed: must be in [0, 9007199254740992], got 9223372036854775807");
  // 2^53 + 1 is not 2^53.
  EXPECT_EQ(read_seed("9007199254740993"),
            "--set: run.seed: must be in [0, 9007199254740992], got 9007199254740993");
  Configuration most = parse("", {"run.seed=9007199254740992"});
  EXPECT_EQ(most.section("run").integer("seed", 0, {0, 9007199254740992.0}, ""), 9007199254740992);
  EXPECT_EQ(message_of(
                [] {
                  Configuration c = parse("", {"a.x=[1, 99999999999999999999]"});
                  c.section("a").integers("x", std::nullopt, kAny, "");
                },
                ErrorKind::kUsage),
            "--set: a.x: must be a list of integers: 99999999999999999999 is beyond 64 bits");
  EXPECT_EQ(message_of(
                [] {
                  Configuration c = parse("", {"a.x=1e999"});
                  c.section("a").real("x", std::nullopt, kAny, "");
                },
                ErrorKind::kUsage),
            "--set: a.x: must be a number: 1e999 is beyond the range of fp64");
  // A text may look like anything.
  Configuration text = parse("", {"a.x=99999999999999999999"});
  EXPECT_EQ(text.section("a").text("x", std::nullopt, {}, ""), "99999999999999999999");
}

TEST(Configuration, RealsTakeTheIntegersThatTheyHold) {
  Configuration c = parse(
      "[a]\nx = 9007199254740992\ny = -9223372036854775808\nz = 9007199254740993\nw = 9223372036854775807\n"
      "l = [1, 9007199254740993]\n");
  Section a = c.section("a");
  EXPECT_EQ(a.real("x", std::nullopt, kAny, ""), 0x1p53);
  EXPECT_EQ(a.real("y", std::nullopt, kAny, ""), -0x1p63);
  for (const auto& [key, value] : {std::pair("z", "9007199254740993"), {"w", "9223372036854775807"}}) {
    const std::string name = key;
    EXPECT_EQ(message_of([&] { a.real(name, std::nullopt, kAny, ""); }, ErrorKind::kUsage),
              "run.toml: a." + name + ": must be a number: " + value +
                  " is beyond 2^53, and none of the integers that fp64 holds there");
  }
  EXPECT_EQ(message_of([&] { a.reals("l", std::nullopt, kAny, ""); }, ErrorKind::kUsage),
            "run.toml: a.l: must be a list of numbers: 9007199254740993 is beyond 2^53, and none of the "
            "integers that fp64 "
            "holds there as element 1");
}

TEST(Overrides, AreTellable) {
  for (const char* text :
       {"a=1", "a.b=", "model.layers[0].units=3", "a.b=x=y", "a-b_c=1", "~a.b", "~model.layers[1]"}) {
    EXPECT_TRUE(Configuration::is_override(text)) << text;
  }
  for (const char* text : {"", "run.toml", "runs/a=b/run.toml", "./a=b.toml", "=1", "a..b=1", "--output=x",
                           "a b=1", "~", "~/run.toml", "~=1"}) {
    EXPECT_FALSE(Configuration::is_override(text)) << text;
  }
}

TEST(Overrides, BadFormsAreRefusedAndQuoted) {
  const std::string toml = "[optimizer]\nlearning_rate = 1.0\n[[model.layers]]\nunits = 2\n";
  const std::pair<const char*, const char*> cases[] = {
      {"optimizer.learning_rate",
       "--set \"optimizer.learning_rate\": must be of the form section.key=value or ~section.key"},
      {"=3", "--set \"=3\": \"\" is not a key such as section.key"},
      {"a..b=3", "--set \"a..b=3\": \"a..b\" is not a key such as section.key"},
      {"a.=3", "--set \"a.=3\": \"a.\" is not a key such as section.key"},
      {"a b=3", "--set \"a b=3\": \"a b\" is not a key such as section.key"},
      {"a[x]=3", "--set \"a[x]=3\": \"a[x]\" is not a key such as section.key"},
      {"a[-1]=3", "--set \"a[-1]=3\": \"a[-1]\" is not a key such as section.key"},
      {"a[1=3", "--set \"a[1=3\": \"a[1\" is not a key such as section.key"},
      {"a[99999999999999999999]=3",
       "--set \"a[99999999999999999999]=3\": \"a[99999999999999999999]\" is not a key such as section.key"},
      {"[0]=3", "--set \"[0]=3\": \"[0]\" is not a key such as section.key"},
      {"optimizer.learning_rate.x=3",
       "--set \"optimizer.learning_rate.x=3\": optimizer.learning_rate is 1.0, not a table"},
      {"optimizer[0]=3", "--set \"optimizer[0]=3\": optimizer is a table, not a list"},
      {"model.layers.units=3", "--set \"model.layers.units=3\": model.layers is a list, not a table"},
      {"model.layers[2].units=3", "--set \"model.layers[2].units=3\": model.layers has length 1, no [2]"},
  };
  for (const auto& [assignment, expected] : cases) {
    const std::string& once = assignment;  // clang 14 captures no structured bindings
    EXPECT_EQ(message_of([&] { parse(toml, {once}); }, ErrorKind::kUsage), expected);
  }
  EXPECT_EQ(
      message_of([] { parse("", {std::string("run.name=\xff")}); }, ErrorKind::kUsage).rfind("--set:1:", 0),
      0u);
}

TEST(Overrides, ABadValueIsBlamedOnTheOverrideNotOnTheFile) {
  EXPECT_EQ(message_of(
                [] {
                  Configuration c = parse("train.steps = 1", {"train.steps=-1"});
                  read(c);
                },
                ErrorKind::kUsage),
            "--set: train.steps: must be in [1, 1000000000], got -1");
  EXPECT_EQ(message_of(
                [] {
                  Configuration c = parse("train.steps = 1", {"optimzer.type=adam"});
                  read(c);
                  c.reject_unknown();
                },
                ErrorKind::kUsage),
            "--set: optimzer: unknown key: did you mean optimizer?");
}

TEST(Overrides, AreSeenBySectionsThatExistAlready) {
  Configuration c = parse("[model]\nwidth = 1\nlayers = [{units = 1}, {units = 2}]\n");
  Section model = c.section("model");
  std::vector<Section> layers = model.tables("layers");
  c.apply_override("model={width = 5, layers = [{units = 8}]}");
  EXPECT_EQ(model.integer("width", std::nullopt, kAny, ""), 5);
  EXPECT_EQ(layers[0].integer("units", std::nullopt, kAny, ""), 8);
  EXPECT_FALSE(layers[1].has("units"));
}

TEST(Overrides, LeaveOutWhatTheFileGives) {
  Configuration c = parse(
      "[optimizer]\nlearning_rate = 1.0\nbeta = 2.0\n[model]\nlayers = [{units = 1}, {units = "
      "2}]\n[train]\nepochs = 1\n",
      {"~optimizer.learning_rate", "~model.layers[0]", "~train", "optimizer.gamma=1", "~optimizer.gamma"});
  Section optimizer = c.section("optimizer");
  EXPECT_FALSE(optimizer.has("learning_rate"));
  EXPECT_FALSE(optimizer.has("gamma"));
  EXPECT_EQ(optimizer.real("beta", std::nullopt, kAny, ""), 2.0);
  EXPECT_FALSE(c.section("train").has("epochs"));
  std::vector<Section> layers = c.section("model").tables("layers");
  ASSERT_EQ(layers.size(), 1u);
  EXPECT_EQ(layers[0].integer("units", std::nullopt, kAny, ""), 2);
  for (const char* missing :
       {"~optimizer.learning_rate", "~optimizr", "~model.layers[1]", "~optimizer.beta.x"}) {
    EXPECT_EQ(message_of([&] { c.apply_override(missing); }, ErrorKind::kUsage),
              fmt::format("--set \"{}\": there is no {} to leave out", missing, missing + 1));
  }
  c.apply_override("~optimizer");
  EXPECT_FALSE(optimizer.has("beta"));
}

TEST(Resolved, ReadsBackToTheSameSettings) {
  const std::string toml = R"(
    [run]
    name = "quote \" backslash \\ tab \t newline \n bell \u0007 delete \u007F caf\u00e9"
    seed = -9223372036854775808
    [train]
    steps = 20
    [data]
    files = ["a", "", 'b"c']
    [model]
    layers = [{type = "relu"}, {type = "linear", units = 7}]
  )";
  Configuration first = parse(toml, {"optimizer.betas=[1, 1e-300]"});
  const Settings expected = read(first);
  const std::string text = first.resolved();
  Configuration second = parse(text);
  EXPECT_EQ(read(second), expected) << text;
  second.reject_unknown();
  EXPECT_EQ(second.resolved(), text);
}

TEST(Resolved, RealsSurviveBitForBit) {
  std::mt19937_64 bits(1);
  std::vector<double> values = {0.0,         -0.0, 0.1, 1.0 / 3.0, 1e22, 1e23, 5e-324, 1.7976931348623157e308,
                                123456789.0, 1e16};
  while (values.size() < 2000) {
    double value = 0;
    const uint64_t word = bits();
    std::memcpy(&value, &word, sizeof value);
    if (std::isfinite(value)) values.push_back(value);
  }
  Configuration first = parse("");
  first.section("s").reals("values", values, kAny, "");
  for (size_t i = 0; i < values.size(); ++i) {
    first.section("s").real("v" + std::to_string(i), values[i], kAny, "");
  }
  Configuration second = parse(first.resolved());
  const std::vector<double> list = second.section("s").reals("values", std::nullopt, kAny, "");
  ASSERT_EQ(list.size(), values.size());
  EXPECT_EQ(std::memcmp(list.data(), values.data(), values.size() * sizeof(double)), 0);
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = second.section("s").real("v" + std::to_string(i), std::nullopt, kAny, "");
    EXPECT_EQ(std::memcmp(&value, &values[i], sizeof value), 0) << values[i];
  }
}

TEST(Resolved, KeepsNestedTablesAndListsApart) {
  const auto read_nested = [](Configuration& c) {
    std::vector<int64_t> seen;
    Section model = c.section("model");
    for (Section& block : model.tables("blocks")) {
      for (Section& layer : block.tables("layers")) seen.push_back(layer.integer("units", 1, kAny, ""));
      seen.push_back(block.table("shape").integer("width", 2, kAny, ""));
      seen.push_back(block.integer("repeat", 1, kAny, ""));
    }
    return seen;
  };
  Configuration first = parse(
      "[[model.blocks]]\nlayers = [{units = 5}, {}]\nshape.width = "
      "9\n[[model.blocks]]\n[[model.blocks]]\nrepeat = 4\n");
  const std::vector<int64_t> expected = read_nested(first);
  EXPECT_EQ(expected, (std::vector<int64_t>{5, 1, 9, 1, 2, 1, 2, 4}));
  Configuration second = parse(first.resolved());
  EXPECT_EQ(read_nested(second), expected) << first.resolved();
  second.reject_unknown();
}

TEST(Declaring, TwoReadersMayShareAKeyButNotWithDifferentFallbacks) {
  Configuration c = parse("[a]\ngiven = 3\n");
  EXPECT_EQ(c.section("a").integer("given", 1, kAny, "x"), 3);
  EXPECT_EQ(c.section("a").integer("given", 2, kAny, "y"), 3);
  EXPECT_EQ(c.section("a").real("given", 2.5, kAny, "y"), 3.0);
  EXPECT_EQ(c.section("a").integer("absent", 1, kAny, "x"), 1);
  EXPECT_EQ(c.section("a").integer("absent", 1, kAny, "y"), 1);
  EXPECT_EQ(message_of([&] { c.section("a").integer("absent", 2, kAny, "x"); }, ErrorKind::kInternal),
            "run.toml: a.absent: has two fallbacks: 1 and 2");
  EXPECT_EQ(parse(c.resolved()).resolved(), "");
}

TEST(Declaring, AFallbackOutsideItsOwnRangeIsAMistakeOfTheProgram) {
  Configuration c = parse("");
  Section s = c.section("s");
  message_of([&] { s.real("a", 0.0, kPositive, ""); }, ErrorKind::kInternal);
  message_of([&] { s.text("b", "x", {"y"}, ""); }, ErrorKind::kInternal);
  message_of([&] { s.integers("c", std::vector<int64_t>{1, -1}, kNonNegative, ""); }, ErrorKind::kInternal);
}

TEST(Declaring, RejectNamesFileAndKey) {
  Configuration c = parse("train.steps = 1");
  EXPECT_EQ(message_of([&] { c.section("train").reject("steps", "give steps or epochs, not both"); },
                       ErrorKind::kUsage),
            "run.toml: train.steps: give steps or epochs, not both");
}

// "section type.key = default: rule: meaning" of each key.
std::vector<std::string> listed(const Configuration& c) {
  std::vector<std::string> lines;
  for (const KeyDescription& key : c.keys()) {
    lines.push_back((key.in_list ? "[[" + key.section + "]] " : "[" + key.section + "] ") +
                    (key.of_type.empty() ? "" : key.of_type + ": ") + key.key + " = " +
                    (key.fallback.empty() ? "?" : key.fallback) + ": " + key.rule() + ": " + key.meaning);
  }
  return lines;
}

TEST(Description, ListsEveryKeyWithTypeRangeFallbackAndMeaning) {
  Configuration c = Configuration::for_description();
  const Settings neutral = read(c);
  EXPECT_EQ(neutral.steps, 1);
  ASSERT_EQ(neutral.layers.size(), 1u);
  EXPECT_EQ(neutral.layers[0].first, "linear");
  EXPECT_EQ(listed(c), (std::vector<std::string>{
                           "[run] name = \"unnamed\": text: name of the run",
                           "[run] seed = 0: integer: seed of every random draw",
                           "[train] steps = ?: integer in [1, 1000000000]: optimizer updates",
                           "[data] shuffle = true: boolean: new order each epoch",
                           "[data] files = []: texts: data files",
                           "[optimizer] type = \"sgd\": text one of \"sgd\", \"adam\": method",
                           "[optimizer] learning_rate = 0.1: real > 0: step size",
                           "[optimizer] weight_decay = 0.0: real in [0, 1]: decoupled decay",
                           "[optimizer] betas = [0.9, 0.999]: reals in [0, 1]: averages",
                           "[model] hidden = [16]: integers > 0: widths",
                           "[[model.layers]] type = ?: text one of \"linear\", \"relu\": kind",
                           "[[model.layers]] units = 4: integer > 0: width",
                       }));
  message_of([&] { (void)c.resolved(); }, ErrorKind::kInternal);
}

TEST(Description, NeutralValuesLieInRange) {
  Configuration c = Configuration::for_description();
  Section s = c.section("s");
  EXPECT_EQ(s.integer("a", std::nullopt, kAny, ""), 0);
  EXPECT_EQ(s.integer("b", std::nullopt, kPositive, ""), 1);
  EXPECT_EQ(s.integer("c", std::nullopt, Range{3, 9}, ""), 3);
  EXPECT_EQ(s.integer("d", std::nullopt, Range{-9, -3}, ""), -3);
  EXPECT_EQ(s.optional_integer("e", kAny, ""), std::nullopt);
  EXPECT_EQ(s.real("e", std::nullopt, Range{0.0, 0.5, true}, ""), 0.5);
  EXPECT_EQ(s.text("f", std::nullopt, {}, ""), "");
  EXPECT_FALSE(s.boolean("g", std::nullopt, ""));
  EXPECT_TRUE(s.integers("h", std::nullopt, kPositive, "").empty());
}

TEST(Description, GroupsTheKeysOfEachTypeAndRepeatsWhatSeveralRead) {
  Configuration c = Configuration::for_description();
  for (const std::string type : {"sgd", "adam"}) {
    Section s = c.section("optimizer");
    s.text("type", std::nullopt, {"sgd", "adam"}, "method");
    Section own = s.of_type(type);
    own.real("decay", type == "sgd" ? 0.1 : 0.001, kPositive, "decay");
    own.integer("period", 3, kPositive, "period");
    own.integer("period", 3, kPositive, "period");
    if (type == "adam") own.real("epsilon", 1e-8, kPositive, "denominator");
    s.boolean("last", false, "of any type");
  }
  EXPECT_EQ(listed(c), (std::vector<std::string>{
                           "[optimizer] type = ?: text one of \"sgd\", \"adam\": method",
                           "[optimizer] last = false: boolean: of any type",
                           "[optimizer] sgd: decay = 0.1: real > 0: decay",
                           "[optimizer] sgd: period = 3: integer > 0: period",
                           "[optimizer] adam: decay = 0.001: real > 0: decay",
                           "[optimizer] adam: period = 3: integer > 0: period",
                           "[optimizer] adam: epsilon = 1e-08: real > 0: denominator",
                       }));
}

TEST(Declaring, KeysOfATypeAreReadAndResolvedAsAnyOther) {
  Configuration c = parse("[optimizer]\ndecay = 2\n");
  Section own = c.section("optimizer").of_type("adam");
  EXPECT_EQ(own.real("decay", 0.5, kAny, ""), 2.0);
  EXPECT_EQ(own.path(), "optimizer");
  EXPECT_EQ(c.section("optimizer").real("decay", 0.5, kAny, ""), 2.0);
  EXPECT_EQ(c.resolved(), "[optimizer]\ndecay = 2.0\n");
  c.reject_unknown();
  EXPECT_EQ(message_of(
                [&] {
                  c.section("optimizer").of_type("sgd").integer("absent", 1, kAny, "");
                  c.section("optimizer").of_type("adam").integer("absent", 2, kAny, "");
                },
                ErrorKind::kInternal),
            "run.toml: optimizer.absent: has two fallbacks: 1 and 2");
}

TEST(Configuration, AnOptionalIntegerIsNothingUntilItIsGiven) {
  Configuration without = Configuration::parse("[data]\nother = 1\n", "t.toml", {});
  Section data = without.section("data");
  EXPECT_EQ(data.optional_integer("label", {-5, 5}, "a label"), std::nullopt);
  EXPECT_EQ(data.integer("other", 2, kAny, ""), 1);
  EXPECT_EQ(without.resolved(), "[data]\nother = 1\n");
  const std::vector<KeyDescription> keys = without.keys();
  EXPECT_EQ(keys[0].fallback, "null");
  without.reject_unknown();

  Configuration given = Configuration::parse("[data]\nlabel = -3\n", "t.toml", {});
  EXPECT_EQ(given.section("data").optional_integer("label", {-5, 5}, "a label"), -3);
  EXPECT_EQ(given.resolved(), "[data]\nlabel = -3\n");
  EXPECT_TRUE(given.at_default().empty());
  Configuration wrong = Configuration::parse("[data]\nlabel = 6\n", "t.toml", {});
  EXPECT_NE(message_of(
                [&] {
                  wrong.section("data").optional_integer("label", {-5, 5}, "a label");
                },
                ErrorKind::kUsage)
                .find("got 6"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep
