// The runtime's calls about devices, errors, memory and copies.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "memory.h"
#include "scheduler.h"
#include "settings.h"
#include "streams.h"

using namespace cuda_on_cpu;

namespace {

// Says why a call is refused, which its status alone would not.
cudaError_t refused(const char* call, const std::string& why) {
  std::fprintf(stderr, "cuda_on_cpu: %s: %s\n", call, why.c_str());
  return remember(cudaErrorInvalidValue);
}

struct Status {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr Status kStatuses[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "an argument has a value that is not allowed"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "the runtime could not start"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "no device can run such a launch"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "no such kind of copy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "the driver is older than the runtime"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable", "the device is busy"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "there is no device"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "there is no device of this number"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice", "no code for the device"},
    {cudaErrorUnsupportedPtxVersion, "cudaErrorUnsupportedPtxVersion", "PTX of a newer version"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "not a live stream, event or graph"},
    {cudaErrorNotReady, "cudaErrorNotReady", "not done yet"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "a kernel touched memory that is not its own"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "not allowed while a stream captures"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated", "the capture was broken before"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "a stream of the capture was not joined"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation", "an event from outside the capture"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "the default stream cannot be captured"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent", "the event belongs to a capture"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};
const Status& status_of(cudaError_t error) {
  for (const Status& status : kStatuses) {
    if (status.error == error) return status;
  }
  return kStatuses[std::size(kStatuses) - 1];
}

}  // namespace

namespace cuda_on_cpu {

bool is_device_memory(const void* pointer, size_t bytes) {
  const DeviceLock lock;
  const Location location = locate(pointer);
  return location.kind == MemoryKind::kDevice && bytes <= location.bytes - location.offset;
}

}  // namespace cuda_on_cpu

const char* cudaGetErrorName(cudaError_t error) {
  return status_of(error).name;
}
const char* cudaGetErrorString(cudaError_t error) {
  return status_of(error).text;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// ---- devices
// -----------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = settings().devices;
  return settings().devices > 0 ? cudaSuccess : remember(cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= settings().devices) return remember(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "stand-in");
  properties->totalGlobalMem = settings().memory_bytes;
  properties->sharedMemPerBlock = kSharedBytes;
  properties->sharedMemPerBlockOptin = kSharedBytesOptIn;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMaxThreads;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->multiProcessorCount = 4;
  properties->major = 9;
  properties->minor = 0;
  properties->l2CacheSize = 1 << 20;
  properties->memoryBusWidth = 64;
  // The machine's number of the device, which processes that see some of them only count from 0 anew.
  int number = device;
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr) {
    std::istringstream numbers(visible);
    std::string entry;
    for (int i = 0; i <= device && std::getline(numbers, entry, ','); ++i) {
      if (i == device) number = std::atoi(entry.c_str());
    }
  }
  properties->pciBusID = number;
  properties->uuid.bytes[15] = static_cast<char>(number);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess)
    return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return remember(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  if (device < 0 || device >= settings().devices) return remember(cudaErrorInvalidDevice);
  std::snprintf(text, static_cast<size_t>(size), "0000:%02x:00.0", static_cast<unsigned>(device));
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const DeviceLock lock;
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kSharedBytesOptIn) {
    return refused("cudaFuncSetAttribute", std::to_string(value) + " bytes of shared memory");
  }
  allow_dynamic_shared(function, static_cast<size_t>(value));
  return cudaSuccess;
}

// ---- memory
// ------------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const DeviceLock lock;
  if (const cudaError_t error = refuse_while_capturing(); error != cudaSuccess) return remember(error);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  ++counts().allocations;
  *pointer = allocate_buffer(MemoryKind::kDevice, bytes);
  return *pointer != nullptr ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void* pointer) {
  DeviceLock lock;
  if (const cudaError_t error = refuse_while_capturing(); error != cudaSuccess) return remember(error);
  finish_everything(lock);
  if (pointer == nullptr || free_buffer(MemoryKind::kDevice, pointer)) return cudaSuccess;
  return refused("cudaFree", "not the begin of a live buffer of device memory");
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  const DeviceLock lock;
  if (const cudaError_t error = refuse_while_capturing(); error != cudaSuccess) return remember(error);
  *pointer = bytes == 0 ? nullptr : allocate_buffer(MemoryKind::kPinned, bytes);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  DeviceLock lock;
  if (const cudaError_t error = refuse_while_capturing(); error != cudaSuccess) return remember(error);
  finish_everything(lock);
  if (pointer == nullptr || free_buffer(MemoryKind::kPinned, pointer)) return cudaSuccess;
  return refused("cudaFreeHost", "not the begin of a live buffer of pinned memory");
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  const DeviceLock lock;
  *total_bytes = settings().memory_bytes;
  *free_bytes = *total_bytes - device_bytes_in_use();
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const DeviceLock lock;
  const MemoryKind kind = locate(pointer).kind;
  auto* const address = const_cast<void*>(pointer);
  *attributes = {};
  attributes->type = kind == MemoryKind::kDevice   ? cudaMemoryTypeDevice
                     : kind == MemoryKind::kPinned ? cudaMemoryTypeHost
                                                   : cudaMemoryTypeUnregistered;
  if (kind != MemoryKind::kPageable) attributes->devicePointer = address;
  if (kind == MemoryKind::kPinned) attributes->hostPointer = address;
  return cudaSuccess;
}

// ---- copies
// ------------------------------------------------------------------------------------------------------------

namespace {

// `height` rows of `width` bytes, `pitch` bytes apart.
struct Rows {
  unsigned char* data;
  size_t pitch, width, height;

  size_t extent() const { return (height - 1) * pitch + width; }
};

void copy_rows(const Rows& destination, const Rows& source) {
  if (destination.pitch == destination.width && source.pitch == source.width) {
    std::memcpy(destination.data, source.data, source.width * source.height);
    return;
  }
  for (size_t row = 0; row < source.height; ++row) {
    std::memcpy(destination.data + row * destination.pitch, source.data + row * source.pitch, source.width);
  }
}

// Whether the rows are memory of the device, or of the host, as a kind of copy says; else why not.
std::string problem_of(const char* role, const Rows& rows, bool device) {
  const Location location = locate(rows.data);
  if ((location.kind == MemoryKind::kDevice) != device) {
    return std::string(role) + (device ? " is no live device memory" : " is device memory");
  }
  if (location.kind != MemoryKind::kPageable && rows.extent() > location.bytes - location.offset) {
    return std::string(role) + " ends " + std::to_string(location.offset + rows.extent() - location.bytes) +
           " bytes past the end of a buffer of " + std::to_string(location.bytes);
  }
  return "";
}

cudaError_t copy(const char* call, const Rows& destination, const Rows& source, cudaMemcpyKind kind,
                 cudaStream_t stream, bool wait) {
  DeviceLock lock;
  if (source.width == 0 || source.height == 0) return cudaSuccess;
  if (source.height > 1 && (destination.pitch < source.width || source.pitch < source.width)) {
    return refused(call, "rows overlap: the pitch is below the width");
  }
  const MemoryKind from = locate(source.data).kind, to = locate(destination.data).kind;
  if (kind != cudaMemcpyDefault) {
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDeviceToDevice) {
      return remember(cudaErrorInvalidMemcpyDirection);
    }
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    std::string problem = problem_of("destination", destination, to_device);
    if (problem.empty()) problem = problem_of("source", source, from_device);
    if (!problem.empty()) return refused(call, problem);
  }
  if (destination.data < source.data + source.extent() &&
      source.data < destination.data + destination.extent()) {
    return refused(call, "source and destination overlap");
  }

  if (from == MemoryKind::kDevice && to != MemoryKind::kDevice) ++counts().copies_to_host;

  std::function<Progress()> attempt;
  if (from == MemoryKind::kPageable && !is_capturing(stream) && !runs_at_once(stream)) {
    // The device reads what pageable memory holds now.
    auto staged = std::make_shared<std::vector<unsigned char>>(source.width * source.height);
    const Rows rows = {staged->data(), source.width, source.width, source.height};
    copy_rows(rows, source);
    attempt = [call, destination, rows, staged] {
      const DeviceAccess access(call);
      copy_rows(destination, rows);
      return Progress::kDone;
    };
  } else {
    attempt = [call, destination, source] {
      const DeviceAccess access(call);
      copy_rows(destination, source);
      return Progress::kDone;
    };
  }
  if (const cudaError_t error = submit(stream, std::move(attempt), lock); error != cudaSuccess)
    return remember(error);
  if (wait || (to == MemoryKind::kPageable && !is_capturing(stream))) return remember(finish(stream, lock));
  return cudaSuccess;
}

unsigned char* bytes_at(const void* pointer) {
  return static_cast<unsigned char*>(const_cast<void*>(pointer));
}

cudaError_t set(const char* call, void* pointer, int value, size_t bytes, cudaStream_t stream) {
  DeviceLock lock;
  if (bytes == 0) return cudaSuccess;
  const std::string problem = problem_of("destination", {bytes_at(pointer), bytes, bytes, 1}, true);
  if (!problem.empty()) return refused(call, problem);
  return remember(submit(
      stream,
      [=] {
        const DeviceAccess access(call);
        std::memset(pointer, value, bytes);
        return Progress::kDone;
      },
      lock));
}

}  // namespace

cudaError_t cudaMemcpy(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return copy("cudaMemcpy", {bytes_at(destination), bytes, bytes, 1}, {bytes_at(source), bytes, bytes, 1},
              kind, nullptr, true);
}
cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy("cudaMemcpyAsync", {bytes_at(destination), bytes, bytes, 1},
              {bytes_at(source), bytes, bytes, 1}, kind, stream, false);
}
cudaError_t cudaMemcpy2DAsync(void* destination, size_t destination_pitch, const void* source,
                              size_t source_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return copy("cudaMemcpy2DAsync", {bytes_at(destination), destination_pitch, width, height},
              {bytes_at(source), source_pitch, width, height}, kind, stream, false);
}

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  return set("cudaMemset", pointer, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  return set("cudaMemsetAsync", pointer, value, bytes, stream);
}
