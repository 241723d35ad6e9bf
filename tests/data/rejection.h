// What a rejected input must look like: an Error of the right kind whose one line names place, rule and
// values.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep::testing {

template <class Action>
void expect_rejection(ErrorKind kind, std::initializer_list<std::string> parts, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "accepted; expected a message with: " << *parts.begin();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), kind) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  }
}

}  // namespace lockstep::testing
