// Stand-in for the CUDA runtime: the calls and device functions that Lockstep uses, carried out by the
// processor, so that the GPU's sources run and are checked on any machine.
//
// Compile kernels with a C++ compiler (-x c++) and this folder before any other that holds a cuda_runtime.h.
// The variable LOCKSTEP_CUDA_ON_CPU, a comma list such as "seed=7,streams=lazy,guard=1", says how a process
// runs:
//   seed=N         order of warps, lanes and streams; 0 is the natural order (default 0)
//   streams=eager  work runs as soon as stream order and events allow it (default)
//   streams=lazy   work waits in its stream until something asks for it, and streams overtake each other
//   guard=1        every buffer stands between inaccessible pages, and freed memory stays inaccessible
//   host=forbid    device memory is inaccessible except while kernels and copies run; implies guard=1 (slow)
//   keys=0         host=forbid as on processors without protection keys (slower)
//   devices=N      number of devices (default 1)
//   memory_mb=N    memory of a device (default 16384); of 0 there is none for a process that begins to use it
//   gpu=busy       other programs have it; gpu=foreign: no code for it; broken=N: it fails at the N-th
//   launch; stuck=N: that one never ends cudnn=1        cuDNN is installed (default: it is not) count=1 a
//   line on standard error at the end: how often the device was copied from to the host,
//                  which who reads the copy waits for; kernels and calls of libraries outside of recordings,
//                  graphs that were launched, and allocations
//   fastest=N      of the algorithms that cuBLASLt proposes for a product the N-th, from 0, takes least time
//                  by the clock of events (default 0)
//   unlaunchable=N the N-th of them does not run, though proposed
//   digit=N        to the race checker: blocks of a launch are threads of their own whose numbers to base 5
//   differ in this
//                  digit, 0 (default), 1 or 2
//   products=none  cuBLASLt has no algorithm for any product; products=plain: for none with an epilogue
// What a GPU would leave undefined (lanes missing from a warp operation, divergent barriers, too large
// launches, reading memory that was never written) ends the process with one line, or shows as NaN bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

// ---- the language
// --------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// There is no __shared__: CUDA_ON_CPU_SHARED (LOCKSTEP_SHARED in kernels/cuda/dialect.h) and dynamic_shared()
// take its place, because the runtime must know of such memory to poison and bound it.

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Where the thread that runs now is. Written by the runtime alone, at every switch.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline double2 make_double2(double x, double y) {
  return {x, y};
}
inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

// ---- errors ----

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidMemcpyDirection = 21,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorCapturedEvent = 907,
  cudaErrorUnknown = 999
};

// ---- the machine behind it
// -----------------------------------------------------------------------------------------

namespace cuda_on_cpu {

struct Stream;
struct Event;
struct Graph;
struct GraphProgram;

// A line of source, for messages.
struct Place {
  const char* file;
  int line;
};

void block_barrier(Place place);

// Waits until every lane of `mask` calls it at the same place, then answers what lane `source` of the warp
// passed (bytes of 0xFF where that lane does not take part).
uint64_t warp_exchange(unsigned mask, uint64_t value, unsigned source, Place place);
// Likewise; answers the lanes of `mask` whose value was not zero.
unsigned warp_ballot(unsigned mask, bool value, Place place);
void warp_barrier(unsigned mask, Place place);
unsigned lane();

// The launch's dynamic shared memory, 16-byte aligned; poisoned before each block.
void* dynamic_shared();

// One declaration of static shared memory (in a template, one of each instance).
struct SharedSite {
  size_t bytes;
  unsigned char* memory;
  uint64_t block;  // serial number of the block that it was poisoned for
};
void* static_shared(SharedSite& site);

// One launch: `body(closure)` is run once by each thread of the grid.
struct Launch {
  const char* name;      // for messages
  const void* function;  // what cudaFuncSetAttribute knows it by
  dim3 grid, block;
  size_t shared_bytes;
  std::shared_ptr<const void> closure;
  void (*body)(const void* closure);
};
void launch(Launch description, Stream* stream);

// Queues `closure()`, copied now, for every thread of a grid. It must hold the kernel's arguments by value.
// `function` is the kernel. A launch that a GPU would refuse ends the process with a line that names the
// kernel.
template <class... Parameters, class Closure>
void launch(const char* name, void (*function)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream* stream, Closure closure) {
  launch(Launch{name, reinterpret_cast<const void*>(function), grid, block, shared_bytes,
                std::make_shared<const Closure>(std::move(closure)),
                [](const void* opaque) { (*static_cast<const Closure*>(opaque))(); }},
         stream);
}

// Queues work of a stand-in for another library (a product, an exchange between workers). `attempt` is
// called, in stream order, until it answers kDone; while it answers kWaiting, other streams go on. It may
// touch device memory, and must not call what waits for streams; `name` is for messages. Work that is
// captured into a graph is called again in every replay.
enum class Progress : bool { kWaiting = false, kDone = true };
cudaError_t enqueue(Stream* stream, const char* name, std::function<Progress()> attempt);

// Whether [pointer, pointer + bytes) lies in one live buffer of device memory.
bool is_device_memory(const void* pointer, size_t bytes);

// One line on standard error that begins "cuda_on_cpu: ", then abort().
[[noreturn]] void stop(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace cuda_on_cpu

// Declares static shared memory: CUDA_ON_CPU_SHARED(float, tile, [32][33]) gives `float (&tile)[32][33]`,
// poisoned before each block.
#define CUDA_ON_CPU_SHARED(type, name, extents)                                   \
  static ::cuda_on_cpu::SharedSite name##_site{sizeof(type extents), nullptr, 0}; \
  auto& name = *static_cast<std::add_pointer_t<type extents>>(::cuda_on_cpu::static_shared(name##_site))

// ---- device functions
// ------------------------------------------------------------------------------------------------

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_on_cpu::block_barrier({file, line});
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  cuda_on_cpu::warp_barrier(mask, {file, line});
}

namespace cuda_on_cpu {
template <class T>
T exchange(unsigned mask, T value, unsigned source, Place place) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles 32-bit and 64-bit values");
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  word = warp_exchange(mask, word, source, place);
  std::memcpy(&value, &word, sizeof(T));
  return value;
}
}  // namespace cuda_on_cpu

// Shuffles within groups of `width` lanes (a power of two up to 32).
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  const unsigned group = cuda_on_cpu::lane() & ~static_cast<unsigned>(width - 1);
  return cuda_on_cpu::exchange(
      mask, value, group + (static_cast<unsigned>(source) & static_cast<unsigned>(width - 1)), {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const unsigned lane = cuda_on_cpu::lane();
  const unsigned source = lane ^ static_cast<unsigned>(lanes);
  const bool inside = source / static_cast<unsigned>(width) <= lane / static_cast<unsigned>(width);
  return cuda_on_cpu::exchange(mask, value, inside ? source : lane, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const unsigned lane = cuda_on_cpu::lane();
  const bool inside = lane % static_cast<unsigned>(width) + distance < static_cast<unsigned>(width);
  return cuda_on_cpu::exchange(mask, value, inside ? lane + distance : lane, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const unsigned lane = cuda_on_cpu::lane();
  const bool inside = lane % static_cast<unsigned>(width) >= distance;
  return cuda_on_cpu::exchange(mask, value, inside ? lane - distance : lane, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return cuda_on_cpu::warp_ballot(mask, predicate != 0, {file, line});
}

inline void __threadfence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "sums of floating-point numbers depend on the order of atomics");
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>);
  T before = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (before < value &&
         !__atomic_compare_exchange_n(address, &before, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>);
  T before = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < before &&
         !__atomic_compare_exchange_n(address, &before, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline float rsqrtf(float x) {
  return 1.0f / __builtin_sqrtf(x);
}
inline double rsqrt(double x) {
  return 1.0 / __builtin_sqrt(x);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline float __uint_as_float(unsigned x) {
  return __builtin_bit_cast(float, x);
}
inline unsigned __float_as_uint(float x) {
  return __builtin_bit_cast(unsigned, x);
}
inline float __int_as_float(int x) {
  return __builtin_bit_cast(float, x);
}
inline int __float_as_int(float x) {
  return __builtin_bit_cast(int, x);
}

// ---- the runtime's calls
// -----------------------------------------------------------------------------------------------

#define CUDART_VERSION 13000

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();     // of this thread; forgets it
cudaError_t cudaPeekAtLastError();  // of this thread
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);

// Devices are alike and share the process's memory; each thread has its current one, 0 at first.
struct cudaUUID_t {
  char bytes[16];
};
struct cudaDeviceProp {
  char name[256];
  cudaUUID_t uuid;
  size_t totalGlobalMem;
  size_t sharedMemPerBlock;
  size_t sharedMemPerBlockOptin;
  int warpSize;
  int maxThreadsPerBlock;
  int maxThreadsPerMultiProcessor;
  int multiProcessorCount;
  int major, minor;
  int l2CacheSize;
  int memoryBusWidth;
  int pciDomainID, pciBusID, pciDeviceID;
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device);
cudaError_t cudaDeviceSynchronize();

using cudaStream_t = cuda_on_cpu::Stream*;
using cudaEvent_t = cuda_on_cpu::Event*;
using cudaGraph_t = cuda_on_cpu::Graph*;
using cudaGraphExec_t = cuda_on_cpu::GraphProgram*;

// Memory. Device pointers are 256-byte aligned; new memory holds NaN bytes.
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);  // waits for the device
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
template <class T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(pointer), bytes);
}

enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void* devicePointer;
  void* hostPointer;
};
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);

// Copies. From pageable memory the source has been read when the call returns; from pinned memory it is read
// when the stream gets there. To pageable memory the call waits for the stream.
enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};
cudaError_t cudaMemcpy(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy2DAsync(void* destination, size_t destination_pitch, const void* source,
                              size_t source_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream = nullptr);
cudaError_t cudaMemset(void* pointer, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream = nullptr);

// Streams. Work on the default stream (null) waits for all work queued before it and is done when its call
// returns.
inline constexpr unsigned cudaStreamDefault = 0;
inline constexpr unsigned cudaStreamNonBlocking = 1;
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
// The function must not call the runtime.
using cudaHostFn_t = void (*)(void*);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument);

// Events. One that was never recorded counts as done.
inline constexpr unsigned cudaEventDefault = 0;
inline constexpr unsigned cudaEventBlockingSync = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop);
cudaError_t cudaEventDestroy(cudaEvent_t event);

// Kernels.
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value);
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*function)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(function), attribute, value);
}

// Capture of what streams would do, as a graph to be launched again. Waiting for a stream that captures, and
// for the device while any does, is refused and makes the capture invalid; so are calls that allocate, free
// or ask for events, unless the mode is relaxed.
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2
};
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* program, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t program, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t program);
