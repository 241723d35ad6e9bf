// IDX files of the MNIST family: an images file (big-endian magic 0x00000803, n, H, W, then n*H*W bytes)
// beside a labels file (0x00000801, n, then n bytes).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/input_file.h"
#include "data/formats.h"

namespace lockstep {

namespace {

constexpr uint32_t kImagesMagic = 0x00000803;
constexpr uint32_t kLabelsMagic = 0x00000801;

uint32_t read_big_endian(InputFile& file, const char* what) {
  std::array<uint8_t, 4> bytes{};
  file.read(bytes.data(), bytes.size(), what);
  return (uint32_t{bytes[0]} << 24) | (uint32_t{bytes[1]} << 16) | (uint32_t{bytes[2]} << 8) |
         uint32_t{bytes[3]};
}

void expect_magic(InputFile& file, uint32_t expected, const char* what) {
  const uint32_t magic = read_big_endian(file, "the magic number");
  if (magic != expected) {
    fail(ErrorKind::kData, fmt::format("{}: not an IDX {} file: byte 0: magic must be {:#010x}: got {:#010x}",
                                       file.path(), what, expected, magic));
  }
}

// The extent at the current offset; at least 1.
int64_t read_extent(InputFile& file, const char* what) {
  const int64_t at = file.offset();
  const int64_t extent = read_big_endian(file, "the header");
  if (extent == 0)
    fail(ErrorKind::kData, fmt::format("{}: byte {}: {} must be positive: got 0", file.path(), at, what));
  return extent;
}

// The product of a header's extents, checked one by one against what can follow: three 32-bit extents
// overflow 64 bits.
int64_t checked_bytes(const InputFile& file, std::initializer_list<int64_t> extents,
                      const std::string& shape) {
  int64_t bytes = 1;
  for (int64_t extent : extents) {
    bytes *= extent;
    if (bytes > file.most_remaining()) {
      fail(ErrorKind::kData,
           fmt::format(
               "{}: truncated: the header announces {} bytes of data from byte {}, at most {} can follow",
               file.path(), shape, file.offset(), file.most_remaining()));
    }
  }
  return bytes;
}

// "train-images-idx3-ubyte.gz" -> "train-labels-idx1-ubyte.gz"
std::string labels_path(const std::string& images_path) {
  const std::filesystem::path path(images_path);
  std::string name = path.filename().string();
  const size_t images = name.rfind("images");
  if (images != std::string::npos) name.replace(images, 6, "labels");
  const size_t rank = name.rfind("idx3");
  if (rank != std::string::npos) name.replace(rank, 4, "idx1");
  if (images == std::string::npos || rank == std::string::npos) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: the labels file cannot be told from a name without 'images' and 'idx3': "
                     "name it in the configuration",
                     images_path));
  }
  return (path.parent_path() / name).string();
}

}  // namespace

Dataset read_idx(const DatasetOptions& options) {
  Dataset dataset;
  dataset.source = options.path;

  InputFile images(options.path);
  expect_magic(images, kImagesMagic, "images");
  const int64_t n = read_extent(images, "number of images");
  const int64_t height = read_extent(images, "image height");
  const int64_t width = read_extent(images, "image width");
  const int64_t total =
      checked_bytes(images, {n, height, width}, fmt::format("{} x {} x {}", n, height, width));
  dataset.sample_shape = {height, width, 1};
  require_memory(options.path,
                 total * static_cast<int64_t>(options.narrow ? sizeof(uint8_t) : sizeof(float)));
  if (options.narrow) {
    dataset.input_dtype = DType::kU8;
    dataset.divisor = 255.0f;
    dataset.inputs_u8.resize(static_cast<size_t>(total));
  } else {
    dataset.inputs_f32.resize(static_cast<size_t>(total));
  }
  std::vector<uint8_t> piece(static_cast<size_t>(std::min<int64_t>(total, 64 * 1024)));
  for (int64_t done = 0; done < total;) {
    const int64_t count = std::min<int64_t>(total - done, static_cast<int64_t>(piece.size()));
    images.read(piece.data(), static_cast<size_t>(count), "images");
    if (options.narrow) {
      std::copy_n(piece.begin(), count, dataset.inputs_u8.begin() + done);
      done += count;
      continue;
    }
    float* out = dataset.inputs_f32.data() + done;
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(piece[static_cast<size_t>(i)]) / 255.0f;
    done += count;
  }
  images.expect_end();
  if (options.unlabelled) {
    dataset.target_width = 1;
    dataset.targets.assign(static_cast<size_t>(n), 0.0f);
    return dataset;
  }

  InputFile labels(options.labels.empty() ? labels_path(options.path) : options.labels);
  expect_magic(labels, kLabelsMagic, "labels");
  const int64_t labels_n = read_extent(labels, "number of labels");
  if (labels_n != n) {
    fail(ErrorKind::kData, fmt::format("{}: byte 4: must hold one label an image: {} labels, {} images in {}",
                                       labels.path(), labels_n, n, options.path));
  }
  const int64_t data_start = labels.offset();
  checked_bytes(labels, {labels_n}, fmt::format("{}", labels_n));
  constexpr int64_t kLabelBytes = sizeof(uint8_t) + sizeof(int64_t) + sizeof(int32_t);
  require_memory(labels.path(), labels_n * kLabelBytes);
  std::vector<uint8_t> bytes(static_cast<size_t>(labels_n));
  labels.read(bytes.data(), bytes.size(), "labels");
  labels.expect_end();
  const std::vector<int64_t> values(bytes.begin(), bytes.end());
  assign_labels(dataset, values, options.classes,
                [&](int64_t i) { return fmt::format("{}: byte {}", labels.path(), data_start + i); });
  return dataset;
}

}  // namespace lockstep
