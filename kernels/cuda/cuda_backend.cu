// GPUs as backends: which there are, their description, and one instance of each that is used.
#include <cublasLt.h>

#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/cudnn.h"
#include "lockstep/kernels/cuda/pinned_ring.h"
#include "lockstep/kernels/cuda/products.h"

namespace lockstep {

namespace {

// 13000 -> "13.0"
std::string version_name(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The oldest GPUs that the kernels are compiled for: bf16 in hardware.
constexpr int kOldestMajor = 8;

// Error (kUsage) that says what is missing, unless the machine has GPU `device` and this build can use it.
void require_device(int device) {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) fail(ErrorKind::kUsage, "cuda: this machine has no NVIDIA driver");
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (status == cudaErrorInsufficientDriver) {
    fail(ErrorKind::kUsage, "cuda: the driver is too old: it supports CUDA " + version_name(driver) +
                                ", this build needs " + version_name(runtime));
  }
  if (status == cudaErrorNoDevice || count == 0) {
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    fail(ErrorKind::kUsage,
         visible == nullptr
             ? std::string("cuda: this machine has no GPU")
             : std::string("cuda: no GPU is visible: CUDA_VISIBLE_DEVICES is \"") + visible + "\"");
  }
  if (status != cudaSuccess) {
    fail(ErrorKind::kUsage, std::string("cuda: the GPUs cannot be used: ") + cudaGetErrorString(status));
  }
  if (device < 0 || device >= count) {
    fail(ErrorKind::kUsage,
         "cuda: there is no GPU " + std::to_string(device) + ": this machine has " + std::to_string(count));
  }
  const auto [major, minor] = compute_capability(device);
  if (major < kOldestMajor) {
    fail(ErrorKind::kUsage, "cuda: GPU " + std::to_string(device) + " has compute capability " +
                                std::to_string(major) + "." + std::to_string(minor) + ", this build needs " +
                                std::to_string(kOldestMajor) + ".0 or newer");
  }
}

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, device), "device");
  return properties;
}

// What plans depend on besides the call: the model of GPU, and the libraries whose algorithms they are.
std::string plan_device(int device) {
  const std::string cudnn = cudnn_name();
  return std::string(properties_of(device).name) + ", cuBLASLt " + std::to_string(cublasLtGetVersion()) +
         (cudnn.empty() ? "" : ", " + cudnn);
}

}  // namespace

std::pair<int, int> compute_capability(int device) {
  int major = 0, minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device");
  return {major, minor};
}

void check_cuda(cudaError_t status, const char* where) {
  if (status == cudaSuccess) return;
  const std::string text = std::string("cuda: ") + where + ": " + cudaGetErrorString(status);
  switch (status) {
    case cudaErrorMemoryAllocation:
      fail(ErrorKind::kUsage,
           "memory: " + text +
               ": fewer programs on the GPU, a smaller train.micro_batch_size, train.recompute_every, "
               "precision.compute = \"bf16\" and parallel.shard_optimizer need less");
    case cudaErrorDevicesUnavailable:
      fail(ErrorKind::kUsage, text + ": another program has the GPU to itself");
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      fail(ErrorKind::kUsage, text + ": this build is for " + cuda_build());
    default:
      fail(ErrorKind::kInternal, text);
  }
}

unsigned blocks_for(int64_t n, int64_t per_block) {
  const int64_t blocks = n <= 0 ? 0 : (n - 1) / per_block + 1;
  if (blocks > std::numeric_limits<int32_t>::max()) {
    fail(ErrorKind::kInternal, "cuda: " + std::to_string(n) + " elements in blocks of " +
                                   std::to_string(per_block) + " are too many for one launch");
  }
  return static_cast<unsigned>(blocks);
}

CudaBackend::CudaBackend(int device, Queue queue, std::shared_ptr<PlanTable> plans)
    : device_(device), queue_(queue), plans_(std::move(plans)) {
  make_current();
  // The lane and copies go first where several have work: what they bring is waited for.
  int least = 0, greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream");
  const int priority = queue == Queue::kComputation ? least : greatest;
  check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority), "stream");
  check_cuda(cudaEventCreateWithFlags(&issued_, cudaEventDisableTiming), "event");
}

CudaBackend::~CudaBackend() {
  lane_.reset();
  copies_.reset();
  cudnn_.reset();
  products_.reset();
  pinned_.reset();
  for (void* memory : {scratch_, product_workspace_, narrow_bias_}) cudaFree(memory);
  for (void* memory : outgrown_) cudaFree(memory);
  cudaEventDestroy(issued_);
  cudaStreamDestroy(stream_);
}

void CudaBackend::make_current() const {
  // Each host thread has its own current device, the first one to begin with.
  check_cuda(cudaSetDevice(device_), "device");
}

cudaStream_t CudaBackend::stream() const {
  make_current();
  return stream_;
}

// Says what the bits of results depend on: workers compare it.
std::string CudaBackend::description() const {
  const cudaDeviceProp properties = properties_of(device_);
  int driver = 0, runtime = 0;
  check_cuda(cudaDriverGetVersion(&driver), "driver");
  check_cuda(cudaRuntimeGetVersion(&runtime), "runtime");
  const std::string cudnn = use_cudnn_ ? cudnn_name() : std::string();
  return std::string("cuda: ") + properties.name + ", " + std::to_string(properties.totalGlobalMem >> 30) +
         " GiB, CUDA " + version_name(runtime) + ", cuBLASLt " + std::to_string(cublasLtGetVersion()) + ", " +
         (cudnn.empty() ? "no cuDNN" : cudnn) + ", driver for CUDA " + version_name(driver);
}

Cudnn* CudaBackend::cudnn() {
  if (!use_cudnn_) return nullptr;
  if (!cudnn_ && !cudnn_name().empty()) {
    make_current();
    const cudaDeviceProp properties = properties_of(device_);
    cudnn_ = make_cudnn({stream_, properties.major * 10 + properties.minor, plans_.get(),
                         [this](size_t bytes) { return scratch_bytes(bytes); }});
  }
  return cudnn_.get();
}

std::string CudaBackend::native_precisions() const {
  return "fp64, fp32, bf16, fp16 native";
}

Backend& cuda_backend(int device) {
  // Never destroyed: tensors in static storage outlive any order of destruction, and the driver may be gone
  // by then.
  static auto* const mutex = new std::mutex;
  static auto* const backends = new std::map<int, CudaBackend>;
  const std::lock_guard lock(*mutex);
  auto found = backends->find(device);
  if (found == backends->end()) {
    require_device(device);
    found = backends
                ->try_emplace(device, device, CudaBackend::Queue::kComputation,
                              std::make_shared<PlanTable>(plan_device(device)))
                .first;
  }
  return found->second;
}

int cuda_device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  return status == cudaSuccess ? count : 0;
}

std::string cuda_device_identity(int device) {
  const cudaDeviceProp properties = properties_of(device);
  std::string text = "GPU-";
  for (size_t i = 0; i < sizeof properties.uuid.bytes; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(properties.uuid.bytes[i]);
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += {kDigits[byte / 16], kDigits[byte % 16]};
  }
  return text;
}

std::string cuda_build() {
  return LOCKSTEP_CUDA_BUILD;
}

}  // namespace lockstep
