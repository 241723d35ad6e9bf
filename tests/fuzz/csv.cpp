// Tables as text: what a data set is, and which of its columns is wanted, comes from the first bytes.
#include <cmath>

#include "lockstep/data/dataset.h"
#include "target.h"

using namespace lockstep;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  const uint8_t choice = input.byte();
  DatasetOptions options;
  options.format = (choice & 1) != 0 ? "csv" : "auto";
  options.unlabelled = (choice & 2) != 0;
  if ((choice & 4) != 0) options.target = "y";
  if ((choice & 8) != 0) options.ignore_label = -1;
  options.classes = (choice >> 4) % 4 - 1;
  options.path = directory.write((choice & 0x80) != 0 ? "table" : "table.csv", input.rest());
  Dataset data;
  if (!fuzz::accepts([&] { data = read_dataset(options); })) return 0;
  const auto rows = static_cast<size_t>(data.size());
  if (data.inputs_f32.size() != rows * static_cast<size_t>(data.sample_shape.elements()))
    fuzz::wrong("rows of different lengths");
  for (const float value : data.inputs_f32) {
    if (!std::isfinite(value)) fuzz::wrong("a feature that is not finite");
  }
  for (const int32_t label : data.labels) {
    if ((label < 0 || label >= data.classes) && label != data.ignore_label)
      fuzz::wrong("a label out of range");
  }
  return 0;
}
