// Telling formats apart by the first bytes of a file.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string_view>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/data/formats.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

namespace {

constexpr size_t kLooked = 4096;
constexpr int64_t kCifarRecord = 3073;

// "" when the name does not tell.
std::string format_by_name(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const std::string_view packed : {".gz", ".zst"}) {
    if (name.ends_with(packed)) name.resize(name.size() - packed.size());
  }
  if (name.ends_with(".h5") || name.ends_with(".hdf5")) return "hdf5";
  if (name.ends_with(".csv")) return "csv";
  if (name.find("idx3") != std::string::npos) return "idx";
  return name.ends_with(".bin") ? "cifar10" : "";
}

// Files that people take for data sets, by their first bytes.
constexpr std::array<std::pair<std::string_view, const char*>, 9> kOthers{{
    {"PK\x03\x04", "a ZIP archive (.xlsx, .npz or .zip)"},
    {"\x93NUMPY", "a NumPy array (.npy)"},
    {"MATLAB 5.0 MAT-file", "a MATLAB file of version 5 (save it with -v7.3)"},
    {"PAR1", "a Parquet file"},
    {"ARROW1", "an Arrow file"},
    {"SQLite format 3", "an SQLite database"},
    {"BZh", "compressed with bzip2"},
    {"\xFD"
     "7zXZ",
     "compressed with xz"},
    {"\x28\xB5\x2F\xFD", "compressed with zstd"},
}};

// Two zeros, the type of the elements, the rank.
bool is_idx(std::string_view start) {
  if (start.size() < 4) return false;
  const auto type = static_cast<uint8_t>(start[2]), rank = static_cast<uint8_t>(start[3]);
  return start[0] == 0 && start[1] == 0 && type >= 0x08 && type <= 0x0E && rank >= 1 && rank <= 8;
}

// Of a text that may be cut off after `start`: no control characters, and fields in its first line.
bool is_text(std::string_view start) {
  return std::ranges::none_of(start, [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return byte < 0x20 && c != '\t' && c != '\n' && c != '\r';
  });
}

bool has_fields(std::string_view start) {
  return start.substr(0, start.find_first_of("\r\n")).find(',') != std::string_view::npos;
}

}  // namespace

std::string detect_format(const std::string& path) {
  const std::string by_name = format_by_name(path);
  struct stat status {};
  const bool there = stat(path.c_str(), &status) == 0;
  if (!there && by_name == "cifar10") return by_name;  // a list of files
  if (!there || !S_ISREG(status.st_mode) || status.st_size == 0) {
    if (!by_name.empty()) return by_name;  // its reader says what is wrong
    checked_file_size(path);
  }
  if (apparent_state(path, ErrorKind::kData)) return "hdf5";
  std::string start(kLooked, '\0');
  InputFile file(path);
  try {
    start.resize(file.read_up_to(start.data(), start.size()));
  } catch (const Error&) {  // a damaged stream
    if (!by_name.empty()) return by_name;
    throw;
  }
  if (is_idx(start)) return "idx";
  for (const auto& [bytes, what] : kOthers) {
    if (start.starts_with(bytes))
      fail(ErrorKind::kData, fmt::format("{}: is {}, which is not read", path, what));
  }
  if (file.compressed() && apparent_state(std::string_view(start)))
    fail(ErrorKind::kData,
         fmt::format("{}: is a compressed HDF5 file: unpack it first (gunzip, unzstd)", path));
  if (by_name == "cifar10" && (file.compressed() || status.st_size % kCifarRecord == 0)) return by_name;
  if (is_text(start) && (has_fields(start) || by_name.empty())) return "csv";
  if (by_name.empty()) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: format can be told neither from the content nor from the name: give "
                     "format = \"hdf5\", \"idx\", \"cifar10\" or \"csv\"",
                     path));
  }
  return by_name;
}

}  // namespace lockstep
