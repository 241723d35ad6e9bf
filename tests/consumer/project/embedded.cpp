// Lockstep inside of a program that has its own MPI, signals and output: embedded DATA OUTPUT, alone or under
// mpirun. All of them are the program's when training is over, and nothing but the program has written a
// line. embedded single: an MPI that was told that there is one thread is refused.
#include <lockstep/core/error.h>
#include <lockstep/nn/mlp.h>
#include <lockstep/optim/adam.h>
#include <lockstep/train/trainer.h>
#include <mpi.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace {

volatile std::sig_atomic_t interrupts = 0;
void on_interrupt(int) {
  interrupts = interrupts + 1;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("not so: %s\n", what);
  std::exit(1);
}

bool is_default(int signal) {
  struct sigaction action = {};
  sigaction(signal, nullptr, &action);
  return action.sa_handler == SIG_DFL;
}

int refuse_single() {
  MPI_Init(nullptr, nullptr);
  bool refused = false;
  try {
    lockstep::make_mpi_communicator({});
  } catch (const lockstep::Error& error) {
    refused = error.kind() == lockstep::ErrorKind::kUsage;
    std::puts(error.what());
  }
  MPI_Finalize();
  return refused ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace lockstep;
  if (argc == 2) return refuse_single();
  int provided = 0, flag = 0, rank = 0, size = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  std::signal(SIGINT, on_interrupt);

  TrainingJob job;
  job.settings.train_data.path = argv[1];
  job.settings.output = argv[2];
  job.settings.epochs = 2;
  job.settings.micro_batches = 4;
  job.settings.log_every = 1;
  job.model = [](const DataShape& data, const ModuleBuilder& builder) {
    return make_mlp({.hidden = {16}}, data, builder);
  };
  job.optimizer = [] { return make_adam(); };
  TrainOptions options;
  options.on_step = [](const StepMetrics& metrics) {
    if (metrics.step == 3) std::raise(SIGINT);
  };
  {
    const std::unique_ptr<Communicator> workers = make_mpi_communicator({});
    rank = workers->rank();
    size = workers->world_size();
    Trainer trainer(job, options, *workers);
    require(trainer.run() == TrainOutcome::kFinished,
            "the run goes on: what SIGINT means is the program's affair");
    require(trainer.steps_done() == trainer.total_steps(), "all steps are done");
    // A second one, with the first still there.
    const std::unique_ptr<Communicator> others = make_mpi_communicator({});
    require(others->world_size() == size, "a second communicator has the same workers");
  }
  require(interrupts == 1, "the program's handler has seen its SIGINT");
  std::raise(SIGINT);
  require(interrupts == 2, "and is still there");
  for (const int signal : {SIGTERM, SIGUSR1, SIGHUP, SIGPIPE, SIGXFSZ})
    require(is_default(signal), "the other signals are as they were");
  MPI_Finalized(&flag);
  require(flag == 0, "MPI goes on");
  int one = 1, sum = 0;
  require(MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD) == MPI_SUCCESS && sum == size,
          "MPI is at work");
  MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &handler);
  require(handler == MPI_ERRORS_ARE_FATAL, "errors of the program's communicators are handled as before");
  MPI_Finalize();
  if (rank == 0) std::printf("%d workers\n", size);
}
