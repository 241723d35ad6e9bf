// The table of choices that libraries leave open: the first one stays, and texts hold all of it.
#include "lockstep/kernels/plan_table.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

TEST(PlanTable, KeepsTheFirstChoiceForACall) {
  PlanTable table("a device");
  EXPECT_EQ(table.device(), "a device");
  EXPECT_EQ(table.find("call"), std::nullopt);
  EXPECT_EQ(table.insert("call", "one"), "one");
  EXPECT_EQ(table.insert("call", "two"), "one");
  EXPECT_EQ(table.find("call"), "one");
  table.erase("call");
  EXPECT_EQ(table.insert("call", "two"), "two");
  EXPECT_EQ(table.plans(), (Plans{{"call", "two"}}));
}

TEST(PlanTable, WhoKeepsWhatWasMadeOfAChoiceLearnsOfOthers) {
  PlanTable table("a device");
  const uint64_t first = table.generation();
  table.insert("call", "one");
  EXPECT_EQ(table.generation(), first);
  table.replace({{"other", "two"}});
  EXPECT_EQ(table.find("call"), std::nullopt);
  EXPECT_EQ(table.find("other"), "two");
  const uint64_t second = table.generation();
  EXPECT_NE(second, first);
  EXPECT_FALSE(table.search().tune);
  table.set_search({true, 3, {}});
  EXPECT_TRUE(table.search().tune);
  EXPECT_EQ(table.search().candidate, 3);
  EXPECT_NE(table.generation(), second);
}

TEST(PlanTable, OfTheKnownChoicesThoseThatAreAskedForEnterIt) {
  PlanTable table("a device");
  table.insert("first", "one");
  table.set_search(
      {.tune = true, .known = {{"first", "two"}, {"second", "two"}, {"bad", "two"}, {"other", "two"}}});
  EXPECT_EQ(table.find("first"), "one");
  EXPECT_EQ(table.find("second"), "two");
  EXPECT_EQ(table.find("bad"), "two");
  EXPECT_EQ(table.find("third"), std::nullopt);
  table.erase("bad");
  EXPECT_EQ(table.find("bad"), std::nullopt);
  EXPECT_EQ(table.plans(), (Plans{{"first", "one"}, {"second", "two"}}));
}

TEST(PlanTable, ThreadsThatChooseAtOnceAgree) {
  PlanTable table("a device");
  std::vector<std::string> kept(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kept.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int call = 0; call < 200; ++call)
        kept[i] += table.insert("call " + std::to_string(call), "of " + std::to_string(i)) + ' ';
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(kept, std::vector<std::string>(kept.size(), kept[0]));
  EXPECT_EQ(table.plans().size(), 200u);
}

TEST(PlanTable, WhatNoLineCanHoldIsRefused) {
  PlanTable table("a device");
  for (const auto& [call, choice] : std::vector<std::pair<std::string, std::string>>{
           {"", "one"}, {"call", ""}, {"a\tcall", "one"}, {"call", "o\nne"}, {"[call]", "one"}}) {
    EXPECT_THROW(table.insert(call, choice), Error) << call << " -> " << choice;
  }
  EXPECT_THROW(PlanTable("a\ndevice"), Error);
  EXPECT_TRUE(table.plans().empty());
}

TEST(PlanTable, TextsAreInOrderAndReadBack) {
  const PlansOfDevices plans = {{"b, version 2", {{"z", "1"}, {"a [1]", "2 = 3"}}}, {"a", {}}};
  const std::string text = plans_text(plans);
  EXPECT_EQ(text, "[a]\n[b, version 2]\na [1]\t2 = 3\nz\t1\n");
  EXPECT_EQ(parse_plans(text), plans);
  EXPECT_EQ(parse_plans(""), PlansOfDevices());
}

TEST(PlanTable, OtherTextsAreNone) {
  for (const char* text :
       {"call\tchoice\n", "[a]\ncall\n", "[a]\ncall\tchoice", "[a]\n\tchoice\n", "[a]\ncall\t\n",
        "[a]\ncall\tchoice\tmore\n", "[a]\ncall\tone\ncall\ttwo\n", "[]\n", "\n", "[a]\n\n"}) {
    EXPECT_EQ(parse_plans(text), std::nullopt) << text;
  }
}

TEST(PlanTable, TheEarliestCandidateWinsWithinTheMargin) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<std::vector<double>, size_t>> cases = {
      {{1.0, 0.995, 1.0}, 0}, {{1.0, 0.97, 0.965}, 1},  {{1.0, 0.97, 0.9}, 2},
      {{kNever, 5.0}, 1},     {{kNever, kNever, 3}, 2}, {{kNever, kNever}, 0}};
  for (const auto& [seconds, expected] : cases) EXPECT_EQ(fastest(seconds.data(), seconds.size()), expected);
}

}  // namespace
}  // namespace lockstep
