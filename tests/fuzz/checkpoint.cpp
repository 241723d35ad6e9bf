// Checkpoints with a seal that holds, and whatever content: the input says what HDF5 writes into a file,
// object by object. (HDF5 itself is not handed damaged bytes: the seal keeps it from them.)
#include "lockstep/checkpoint/checkpoint.h"

#include <hdf5.h>

#include <array>
#include <vector>

#include "lockstep/checkpoint/summary.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"
#include "target.h"

using namespace lockstep;

namespace {

constexpr std::array kPaths = {"/",
                               "/format",
                               "/configuration",
                               "/metrics",
                               "/metrics_file",
                               "/best",
                               "/begun",
                               "/plans",
                               "/data_outline",
                               "/parameters",
                               "/parameters/w",
                               "/parameters/b",
                               "/optimizer/first_moment/w",
                               "/rng",
                               "/schedule",
                               "/a/b/c"};
constexpr std::array kNames = {"version", "order", "dtype", "seed", "step", "type", "x"};
constexpr std::array kTypes = {DType::kF32, DType::kF64, DType::kBF16, DType::kF16,
                               DType::kI32, DType::kI64, DType::kU8};

// Steps of its own over the file: what Hdf5File never writes.
void write_strange(const std::string& path, fuzz::Input& input) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  if (file < 0) return;
  while (!input.empty()) {
    const uint8_t step = input.byte();
    const char* object = kPaths[input.byte() % kPaths.size()];
    const char* name = kNames[input.byte() % kNames.size()];
    const uint8_t size = input.byte();
    // Up to what 64 bits hold, in an array of which nothing need be written.
    std::array<hsize_t, 8> extents{};
    const int rank = step / 16 % 9;
    for (int axis = 0; axis < rank && axis < 8; ++axis)
      extents[static_cast<size_t>(axis)] = (hsize_t{input.byte()} << size % 57) + size % 3;
    const hid_t space = rank == 8   ? H5Screate(H5S_NULL)
                        : rank == 0 ? H5Screate(H5S_SCALAR)
                                    : H5Screate_simple(rank, extents.data(), nullptr);
    hid_t type = H5Tcopy(size % 2 != 0 ? H5T_STD_I16BE : H5T_IEEE_F32LE);
    if (size % 5 == 1) type = H5Tcreate(H5T_COMPOUND, 8);
    if (size % 5 == 2) {
      type = H5Tcopy(H5T_C_S1);
      H5Tset_size(type, size % 4 == 0 ? H5T_VARIABLE : size);
    }
    if (size % 5 == 3) type = H5Tcopy(H5T_STD_U64LE);
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    switch (step % 8) {
      case 0: {
        const hid_t made =
            H5Acreate_by_name(file, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        if (made >= 0) H5Aclose(made);
        break;
      }
      case 1: {
        if (rank > 0 && rank < 8) {
          std::array<hsize_t, 8> chunk{};
          chunk.fill(1);
          H5Pset_chunk(creation, rank, chunk.data());
        }
        const hid_t made = H5Dcreate2(file, object, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
        if (made >= 0) H5Dclose(made);
        break;
      }
      case 2: {
        const hid_t made = H5Dcreate2(file, object, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
        if (made >= 0) H5Dclose(made);
        break;
      }
      case 3:
        H5Lcreate_hard(file, object, file, kPaths[size % kPaths.size()], H5P_DEFAULT, H5P_DEFAULT);
        break;
      case 4:
        H5Lcreate_soft(object, file, kPaths[size % kPaths.size()], H5P_DEFAULT, H5P_DEFAULT);
        break;
      case 5:
        H5Lcreate_external("/dev/shm/none.h5", object, file, kPaths[size % kPaths.size()], H5P_DEFAULT,
                           H5P_DEFAULT);
        break;
      case 6:
        H5Ldelete(file, object, H5P_DEFAULT);
        break;
      default:
        H5Adelete_by_name(file, object, name, H5P_DEFAULT);
    }
    H5Pclose(creation);
    H5Tclose(type);
    H5Sclose(space);
  }
  H5Fclose(file);
}

// Whatever is not allowed where it is written is left out.
void write_content(const std::string& path, fuzz::Input& input) {
  Hdf5File file = Hdf5File::create(path, ErrorKind::kData);
  const auto attempt = [](auto&& write) {
    try {
      write();
    } catch (const Error&) {
    }
  };
  if (input.flag()) {  // as most of a checkpoint is
    file.create_group("/format");
    file.write_attribute("/format", "version", kCheckpointVersion);
    file.write_text("/configuration", "");
    file.write_text("/metrics", "");
  }
  for (uint8_t steps = input.byte() % 24; steps > 0 && !input.empty(); --steps) {
    const uint8_t step = input.byte();
    const char* object = kPaths[input.byte() % kPaths.size()];
    const char* name = kNames[input.byte() % kNames.size()];
    attempt([&] {
      switch (step % 6) {
        case 0:
          file.create_group(object);
          break;
        case 1:
          file.write_attribute(object, name, int64_t{static_cast<int8_t>(input.byte())});
          break;
        case 2:
          file.write_attribute(object, name, 0.5 * input.byte());
          break;
        case 3:
          file.write_attribute(object, name, std::string(input.take(input.byte())));
          break;
        case 4:
          file.write_text(object, std::string(input.take(input.byte())));
          break;
        default: {
          const DType dtype = kTypes[input.byte() % kTypes.size()];
          const Shape shape = {input.byte() % 5, input.byte() % 5};
          const std::vector<char> values(size_of(dtype) * static_cast<size_t>(shape.elements()) + 1, 1);
          file.write(object, dtype, shape, values.data());
          file.write_attribute(object, "order", int64_t{static_cast<int8_t>(input.byte())});
        }
      }
    });
  }
  file.close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const fuzz::Directory directory;
  static const bool silent = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  if (!silent) fuzz::wrong("HDF5 cannot be silenced");
  fuzz::Input input(bytes, count);
  const std::string path = directory.path_of("step-000000001.h5");
  write_content(path, input);
  write_strange(path, input);
  seal_file(path, ErrorKind::kData);
  State state;
  fuzz::accepts([&] { read_begun(path); });
  fuzz::accepts([&] { read_checkpoint_outline(path); });
  if (!fuzz::accepts([&] { state = read_checkpoint(path); })) return 0;
  for (const StateArray& array : state.arrays) {
    if (array.bytes.size() != static_cast<size_t>(array.shape.elements()) * size_of(array.dtype))
      fuzz::wrong("an array of another size");
  }
  describe_state(state);
  state_digest(state);
  if (!compare_states(state, state).empty()) fuzz::wrong("a state that differs from itself");
  check_matches(state, state, path);
  return 0;
}
