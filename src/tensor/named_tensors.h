// A few tensors by their names: what a batch is made of.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

class NamedTensors {
 public:
  // Takes the place of one of the same name; an undefined one leaves none.
  void set(const std::string& name, Tensor tensor);
  // Null where there is none.
  const Tensor* find(const std::string& name) const;
  // Error (kUsage) naming those that are there.
  const Tensor& at(const std::string& name) const;
  const std::vector<std::pair<std::string, Tensor>>& all() const { return tensors_; }

 private:
  std::vector<std::pair<std::string, Tensor>> tensors_;
};

}  // namespace lockstep
