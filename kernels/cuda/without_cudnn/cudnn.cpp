// What stands for cuDNN in a build without its headers: nothing.
#include "lockstep/kernels/cuda/cudnn.h"

namespace lockstep {

std::string cudnn_name() {
  return {};
}

std::unique_ptr<Cudnn> make_cudnn(CudnnQueue) {
  return nullptr;
}

}  // namespace lockstep
