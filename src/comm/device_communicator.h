// Communicators between GPUs: what Communicator::use_device() is given.
//
// Both stand on the workers' communicator for host memory, which must outlive them, and take the queue of the
// device's lane (Backend::native_queue(), called by the thread that will communicate). Their buffers are in
// device memory. Their barrier() is one of the workers themselves: it does not wait for the device.
#pragma once

#include <memory>
#include <string>

#include "lockstep/comm/communicator.h"

namespace lockstep {

// NCCL, for workers that each have a GPU. Collective. Requests are done as soon as they are issued, since
// order is the lane's. Whose worker or device the others' devices wait for is found out while the host waits
// for its own. What fails or hangs behind the host's back is found by a thread of the communicator, which
// reports rank, collective, sequence number and label, and ends the job; the clock of options.timeout_seconds
// starts when the lane comes to the collective. NCCL's own start, to which the first message of each worker
// to every other one belongs, may take options.start_timeout_seconds. Error (kUsage) in a build without NCCL.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, void* queue,
                                                     const CommunicatorOptions& options);
// "NCCL 2.28.9"; "none" in a build without NCCL, and where its library cannot be loaded.
std::string nccl_library();

// Copies to pinned host memory, lets the host's communicator move that, and copies back: works wherever that
// one does, so also for workers that share a GPU. Issuing a collective waits for what was issued to the lane
// before it. Error (kUsage) in a build without CUDA.
std::unique_ptr<Communicator> make_staged_communicator(Communicator& host, void* queue);

}  // namespace lockstep
