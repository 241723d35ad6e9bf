// IDX: images and, behind the bytes "--", labels.
#include "lockstep/data/dataset.h"
#include "target.h"

using namespace lockstep;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  fuzz::Input input(bytes, count);
  const uint8_t choice = input.byte();
  DatasetOptions options;
  options.format = (choice & 1) != 0 ? "idx" : "auto";
  options.narrow = (choice & 2) != 0;
  options.unlabelled = (choice & 4) != 0;
  options.classes = (choice >> 4) % 4;
  options.path = directory.write("train-images-idx3-ubyte", input.until("--"));
  directory.write("train-labels-idx1-ubyte", input.rest());
  Dataset data;
  if (!fuzz::accepts([&] { data = read_dataset(options); })) return 0;
  const auto elements = static_cast<size_t>(data.size() * data.sample_shape.elements());
  if (std::max(data.inputs_f32.size(), data.inputs_u8.size()) != elements)
    fuzz::wrong("images of another size");
  for (const int32_t label : data.labels) {
    if (label < 0 || label >= data.classes) fuzz::wrong("a label out of range");
  }
  return 0;
}
