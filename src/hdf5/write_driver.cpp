// The table of callbacks that HDF5 asks of a driver, over one file descriptor.
#include "lockstep/hdf5/write_driver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>

// Drivers have a header of their own from HDF5 1.13 on, and their table begins with two more numbers.
#if __has_include(<H5FDdevelop.h>)
#include <H5FDdevelop.h>
#endif

namespace lockstep {

WriteDriver::WriteDriver(const std::string& path)
    : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) note(errno);
}

WriteDriver::~WriteDriver() {
  close();
}

void WriteDriver::close() {
  if (descriptor_ >= 0 && ::close(descriptor_) != 0) note(errno);
  descriptor_ = -1;
}

void WriteDriver::write(uint64_t offset, const void* bytes, size_t count) {
  const char* data = static_cast<const char*>(bytes);
  while (count > 0 && error_ == 0) {
    const ssize_t done = ::pwrite(descriptor_, data, count, static_cast<off_t>(offset));
    if (done > 0) {
      data += done;
      offset += static_cast<uint64_t>(done);
      count -= static_cast<size_t>(done);
    } else if (done == 0) {
      note(EIO);
    } else if (errno != EINTR) {
      note(errno);
    }
  }
}

// What was never written reads as zeros.
void WriteDriver::read(uint64_t offset, void* bytes, size_t count) {
  char* data = static_cast<char*>(bytes);
  while (count > 0 && error_ == 0) {
    const ssize_t done = ::pread(descriptor_, data, count, static_cast<off_t>(offset));
    if (done > 0) {
      data += done;
      offset += static_cast<uint64_t>(done);
      count -= static_cast<size_t>(done);
    } else if (done == 0) {
      break;
    } else if (errno != EINTR) {
      note(errno);
    }
  }
  std::memset(data, 0, count);
}

void WriteDriver::truncate(uint64_t size) {
  if (error_ == 0 && ::ftruncate(descriptor_, static_cast<off_t>(size)) != 0) note(errno);
}

struct WriteDriverCallbacks {
  // What HDF5 holds of an open file. The base must come first: HDF5 sees only that.
  struct OpenFile {
    H5FD_t base;
    WriteDriver* driver;
    haddr_t end_of_addresses;
  };
  // What the access list carries.
  struct Info {
    WriteDriver* driver;
  };

  static OpenFile& of(H5FD_t* file) { return *reinterpret_cast<OpenFile*>(file); }
  static const OpenFile& of(const H5FD_t* file) { return *reinterpret_cast<const OpenFile*>(file); }

  static H5FD_t* open(const char*, unsigned, hid_t access_list, haddr_t) {
    const auto* info = static_cast<const Info*>(H5Pget_driver_info(access_list));
    if (info == nullptr) return nullptr;
    auto* file = new (std::nothrow) OpenFile{};
    if (file == nullptr) return nullptr;
    file->driver = info->driver;
    return &file->base;
  }
  static herr_t close(H5FD_t* file) {
    delete &of(file);
    return 0;
  }
  static int compare(const H5FD_t* a, const H5FD_t* b) {
    const WriteDriver *first = of(a).driver, *second = of(b).driver;
    return std::less<>()(first, second) ? -1 : first == second ? 0 : 1;
  }
  static herr_t query(const H5FD_t*, unsigned long* flags) {
    if (flags != nullptr) {
      *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
               H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    }
    return 0;
  }
  static haddr_t get_end_of_addresses(const H5FD_t* file, H5FD_mem_t) { return of(file).end_of_addresses; }
  static herr_t set_end_of_addresses(H5FD_t* file, H5FD_mem_t, haddr_t address) {
    of(file).end_of_addresses = address;
    return 0;
  }
  static haddr_t get_end_of_file(const H5FD_t* file, H5FD_mem_t) {
    struct stat status {};
    if (::fstat(of(file).driver->descriptor_, &status) != 0) of(file).driver->note(errno);
    // After a failure the file is shorter than HDF5 believes, which must not trouble it any more.
    const haddr_t size = static_cast<haddr_t>(status.st_size);
    return of(file).driver->error() == 0 ? size : std::max(size, of(file).end_of_addresses);
  }
  static herr_t read(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, size_t size, void* buffer) {
    of(file).driver->read(address, buffer, size);
    return 0;
  }
  static herr_t write(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, size_t size, const void* buffer) {
    of(file).driver->write(address, buffer, size);
    return 0;
  }
  static herr_t truncate(H5FD_t* file, hid_t, hbool_t) {
    of(file).driver->truncate(of(file).end_of_addresses);
    return 0;
  }

  // Registered once a process; HDF5 copies the table.
  static hid_t identifier() {
    static const hid_t registered = [] {
      H5FD_class_t table{};
      [](auto& any_version) {
        if constexpr (requires { any_version.value; }) {
          any_version.version = 1;
          any_version.value = static_cast<decltype(any_version.value)>(512);
        }
      }(table);
      table.name = "lockstep_write";
      table.maxaddr = (haddr_t{1} << 62) - 1;
      table.fc_degree = H5F_CLOSE_STRONG;
      table.fapl_size = sizeof(Info);
      table.open = open;
      table.close = close;
      table.cmp = compare;
      table.query = query;
      table.get_eoa = get_end_of_addresses;
      table.set_eoa = set_end_of_addresses;
      table.get_eof = get_end_of_file;
      table.read = read;
      table.write = write;
      table.truncate = truncate;
      const H5FD_mem_t kinds[] = H5FD_FLMAP_DICHOTOMY;
      std::copy(std::begin(kinds), std::end(kinds), table.fl_map);
      return H5FDregister(&table);
    }();
    return registered;
  }
};

herr_t WriteDriver::install(hid_t access_list) {
  const WriteDriverCallbacks::Info info{this};
  const hid_t identifier = WriteDriverCallbacks::identifier();
  return identifier < 0 ? -1 : H5Pset_driver(access_list, identifier, &info);
}

}  // namespace lockstep
