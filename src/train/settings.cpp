// Reading the sections of the configuration.
#include "lockstep/train/settings.h"

#include <fmt/format.h>

#include "lockstep/data/data_source.h"
#include "lockstep/nn/module.h"
#include "lockstep/optim/optimizer.h"
#include "lockstep/optim/schedule.h"
#include "lockstep/train/settings_rules.h"

namespace lockstep {

RunSettings read_settings(Configuration& configuration) {
  RunSettings settings;

  Section run = configuration.section("run");
  settings.name =
      run.text("name", settings.name, {}, "name of the run; part of the default output directory");
  settings.seed =
      static_cast<uint64_t>(run.integer("seed", static_cast<int64_t>(settings.seed), {0, 9007199254740992.0},
                                        "the only source of randomness: same seed, same run"));
  settings.output = run.text("output", "runs/" + settings.name, {},
                             "directory for checkpoints, metrics.jsonl and loss.svg (--output overrides)");

  settings.most_minutes =
      run.real("most_minutes", settings.most_minutes, kNonNegative,
               "minutes after which this start of the run saves and leaves with exit code 75; 0: no limit");

  Section data = configuration.section("data");
  settings.train_data.path =
      data.text("train", std::nullopt, {}, "training data: file (CIFAR-10: files, by commas)");
  settings.train_data.format =
      data.text("format", settings.train_data.format, data_formats(), "file format; auto looks at the file");
  settings.train_data.open = read_data_format(data, settings.train_data.format);
  settings.train_data.labels = data.text("labels", settings.train_data.labels, {},
                                         "IDX: labels file; empty derives it from the images file");
  settings.train_data.target =
      data.text("target", settings.train_data.target, {}, "CSV: target column; empty takes the last one");
  settings.train_data.classes =
      data.integer("classes", settings.train_data.classes, {-1, 1e9},
                   "number of classes; 0 finds it in the data, -1 means regression");
  if (const auto label = data.optional_integer("ignore_label", {-2147483648.0, 2147483647.0},
                                               "label of samples that count nothing; by default what the "
                                               "file states"))
    settings.train_data.ignore_label = static_cast<int32_t>(*label);
  settings.train_data.follow = data.boolean("follow", settings.train_data.follow,
                                            "HDF5: read values that lie in other files (external links, "
                                            "external storage, virtual data sets); else an error");
  settings.validation_data = settings.train_data;
  settings.validation_data.beside = true;
  settings.validation_data.path =
      data.text("validation", "", {},
                "validation data, of any format where format is auto; empty: see validation_fraction");
  if (settings.validation_data.path.empty()) settings.validation_data.open = {};
  settings.validation_data.labels =
      data.text("validation_labels", "", {}, "IDX: labels file of the validation data");
  if (settings.validation_data.path.empty() && !settings.validation_data.labels.empty())
    data.reject("validation_labels", "goes with data.validation");
  settings.validation_fraction = data.real("validation_fraction", settings.validation_fraction, {0.0, 0.9},
                                           "share of the training data set aside for validation");
  settings.normalize = data.text("normalize", "none", {"none", "standard"},
                                 "standard: each feature less its mean, divided by its deviation, both of "
                                 "the whole training file; validation "
                                 "and eval use the same numbers") == "standard";
  settings.shuffle =
      data.boolean("shuffle", settings.shuffle, "a new order each epoch, a function of (seed, epoch)");
  settings.last_batch = data.text("last_batch", "drop", {"drop", "pad"},
                                  "incomplete global batch at an epoch's end: leave out, or fill up "
                                  "with samples that do not count") == "pad"
                            ? LastBatch::kPad
                            : LastBatch::kDrop;
  settings.prefetch =
      data.integer("prefetch", settings.prefetch, {1, 1024}, "steps gathered ahead by the background thread");

  Section train = configuration.section("train");
  settings.steps =
      train.integer("steps", settings.steps, {0, kMostSteps}, "optimizer steps; 0: given by epochs");
  settings.epochs = train.integer("epochs", settings.epochs, {0, kMostSteps},
                                  "passes over the training data; 0: given by steps");
  settings.micro_batches = train.integer("micro_batches", settings.micro_batches, {0, 1 << 20},
                                         "micro-batches in a global batch, whatever the number of workers; "
                                         "0: 1 (gradient_descent and minimizers: the data set)");
  settings.micro_batch_size =
      train.integer("micro_batch_size", settings.micro_batch_size, {1, 1 << 24}, "samples in a micro-batch");
  settings.batch_tokens = train.integer(
      "batch_tokens", settings.batch_tokens, {0, 1e15},
      "tokens of a global batch of text, a multiple of a micro-batch's; in place of micro_batches");
  settings.peak_tflops = train.real(
      "peak_tflops", settings.peak_tflops, kNonNegative,
      "10^12 operations a second that a worker's device can do without sparsity in precision.compute: "
      "what MFU is a share of; 0: of known GPUs");
  settings.recompute = train.text(
      "recompute", settings.recompute, {"none", "cheap", "block"},
      "what the backward sweep computes again instead of keeping it: what norms and activations give, or all "
      "but the inputs of runs of layers");
  settings.recompute_every = train.integer(
      "recompute_every", settings.recompute_every, {0, 1 << 20},
      "recompute = \"block\", which it implies: layers of a run; least memory near the square root of the "
      "depth; 0: 1, or no runs");
  settings.linearization_bytes = static_cast<size_t>(
      train.real("linearization_mb", static_cast<double>(settings.linearization_bytes) / 1048576.0,
                 {0.0, 1e9},
                 "what a worker keeps of micro-batches between products with the Hessian or the Gauss-Newton "
                 "matrix at one point, MiB: less work, same results; 0: nothing") *
      1048576.0);
  settings.log_every =
      train.integer("log_every", settings.log_every, {1, 1e12}, "steps between lines of metrics.jsonl");
  settings.evaluate_every = train.integer("evaluate_every", settings.evaluate_every, kNonNegative,
                                          "steps between evaluations on the validation data; 0: at the end");
  settings.loss = train.text(
      "loss", settings.loss, {"auto", "cross_entropy", "logistic", "mean_squared_error"},
      "auto: logistic for one output and two classes, cross_entropy for classes, else mean_squared_error");
  settings.l2 = train.real("l2", settings.l2, kNonNegative,
                           "lambda of the objective's regularization, lambda/2 |theta|^2");

  settings.objective.label_smoothing =
      train.real("label_smoothing", settings.objective.label_smoothing, {0.0, 0.999},
                 "what of a label goes to all classes alike, in training, not in evaluations");
  settings.objective.class_weights =
      train.reals("class_weights", settings.objective.class_weights, kNonNegative,
                  "what a sample of each class counts in the loss, which is the weighted mean; empty: 1");
  settings.initial_weights = train.text(
      "initial_weights", settings.initial_weights, {},
      "checkpoint whose parameters and running statistics a new run starts from, averaged ones where "
      "it has them; for a gpt also a directory of Hugging Face or a model file of llm.c; empty: drawn from "
      "run.seed");
  settings.initial_weights_without =
      train.texts("initial_weights_without", settings.initial_weights_without,
                  "patterns of names that are drawn all the same, * for any characters: [\"output.*\"]");
  settings.initial_weights_differ = train.texts(
      "initial_weights_differ", settings.initial_weights_differ,
      "keys of a gpt's [model] that need not be those of the weights: [\"window\", \"rotary_theta\"]");
  settings.initial_adapter = train.text(
      "initial_adapter", settings.initial_adapter, {},
      "with [lora]: directory of PEFT (adapter_config.json) whose adapters a new run goes on with; "
      "empty: A is drawn from run.seed, B is 0");

  Section lora = configuration.section("lora");
  settings.lora = read_lora(lora);

  Section optimizer = configuration.section("optimizer");
  settings.learning_rate = optimizer.real("learning_rate", settings.learning_rate, kNonNegative,
                                          "step size, shaped by [schedule]");
  settings.decay_biases =
      optimizer.boolean("decay_biases", settings.decay_biases,
                        "whether weight decay applies to biases and norms (parameters of one axis)");
  settings.groups = read_parameter_groups(optimizer);

  Section clip = configuration.section("clip");
  settings.clip.global_norm = clip.real("global_norm", settings.clip.global_norm, kNonNegative,
                                        "largest global norm of the gradient, before the step; 0: off");
  settings.clip.value = clip.real("value", settings.clip.value, kNonNegative,
                                  "largest absolute value of a component of the gradient; 0: off");
  settings.clip.adaptive =
      clip.real("adaptive", settings.clip.adaptive, kNonNegative,
                "largest ratio of gradient to parameter norm, output by output, 0.01 for example; 0: off");

  Section average = configuration.section("average");
  settings.average = read_average(average);

  Section precision = configuration.section("precision");
  const std::string compute = precision.text(
      "compute", "fp32", {"fp32", "fp64", "bf16", "fp16"},
      "type of products and activations; parameters and optimizer state are fp32 (fp64 for fp64)");
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kF16}) {
    if (compute == name_of(dtype)) settings.compute = dtype;
  }
  settings.loss_scale = read_loss_scale(precision, settings.compute);

  Section guard = configuration.section("guard");
  settings.guard = read_guard(guard);

  Section parallel = configuration.section("parallel");
  settings.reduction =
      parallel.text("reduction", "lockstep", {"lockstep", "library"},
                    "lockstep: same bits on any number of workers; library: the all-reduce of MPI or NCCL") ==
              "library"
          ? ReductionMode::kLibrary
          : ReductionMode::kLockstep;
  settings.bucket_bytes =
      static_cast<int64_t>(parallel.real("bucket_mb", static_cast<double>(settings.bucket_bytes) / 1048576.0,
                                         {1e-3, 4096.0}, "size of a gradient bucket, MiB") *
                           1048576.0);
  settings.shard_optimizer =
      parallel.boolean("shard_optimizer", settings.shard_optimizer,
                       "each worker keeps and updates its share of the optimizer's state; the same bits");
  settings.digest_every =
      parallel.integer("digest_every", settings.digest_every, kNonNegative,
                       "steps between state digests, logged and compared across workers; 0: off");
  settings.timeout_seconds =
      parallel.real("timeout", settings.timeout_seconds, kPositive,
                    "seconds a worker waits for the others in a step before it gives up");
  settings.start_timeout_seconds =
      parallel.real("start_timeout", settings.start_timeout_seconds, kPositive,
                    "the same for each phase of MPI's own start, for NCCL's, and for MPI's end");
  settings.set_up_timeout_seconds =
      parallel.real("set_up_timeout", settings.set_up_timeout_seconds, kPositive,
                    "the same between the two, while workers read data and a checkpoint");
  settings.share_gpu =
      parallel.boolean("share_gpu", settings.share_gpu,
                       "workers of a host may share a GPU; arrays travel through host memory then, not NCCL");
  settings.gpu_transport = parallel.text("gpu_transport", settings.gpu_transport, {"auto", "nccl", "host"},
                                         "way of arrays between GPUs; auto: NCCL where it is built in and no "
                                         "GPU is shared, else host memory and MPI");

  Section checkpoint = configuration.section("checkpoint");
  settings.checkpoint_every =
      checkpoint.integer("every", settings.checkpoint_every, kNonNegative,
                         "steps between checkpoints; 0: only at the end and when stopped");
  settings.checkpoint_every_minutes =
      checkpoint.real("every_minutes", settings.checkpoint_every_minutes, kNonNegative,
                      "minutes after which there is another one, whatever the steps; 0: off");
  settings.keep = checkpoint.integer("keep", settings.keep, kNonNegative, "newest checkpoints kept; 0: all");
  settings.keep_every = checkpoint.integer("keep_every", settings.keep_every, kNonNegative,
                                           "steps whose multiples are kept for good; 0: none");
  const std::string keep_best =
      checkpoint.text("keep_best", "none", {"none", "validation_loss", "validation_accuracy"},
                      "what of evaluations decides which checkpoint is the best: each evaluation that is "
                      "better than all before "
                      "is saved, and stays until there is a better one");
  if (keep_best != "none") settings.keep_best = keep_best;
  settings.save_timeout_seconds = checkpoint.real(
      "timeout", settings.save_timeout_seconds, kPositive,
      "seconds that a checkpoint may take on its way to disk: so long the other workers wait for rank "
      "0, and one worker alone for itself");

  settings.replicas = checkpoint.integer(
      "replicas", settings.replicas, kNonNegative,
      "other hosts that get a copy of each checkpoint into a directory of their own, so that losing rank "
      "0's host loses nothing; any host can resume. Of no use on a shared file system");
  settings.recovery_point = checkpoint.boolean(
      "recovery_point", settings.recovery_point,
      "when workers are lost, those that are left write the newest step's state, which each of them holds, "
      "before the job ends. On GPUs, with parallel.shard_optimizer, and with optimizers that minimize or "
      "look at curvature, each keeps a copy of all of it for that, made anew in every step");
  settings.after_save = checkpoint.text(
      "after_save", settings.after_save, {},
      "command that rank 0's host runs beside the training for every checkpoint in place, {} for its path, "
      "\"rclone copy {} store:run\" for example; what fails is warned of; the end of the run waits for it, "
      "up "
      "to checkpoint.timeout, and leaves it to itself then, with output that nobody sees");

  Section metrics = configuration.section("metrics");
  settings.tensorboard = metrics.boolean("tensorboard", settings.tensorboard,
                                         "event files for TensorBoard in the output directory as well");

  Section device = configuration.section("device");
  settings.device = device.text("type", settings.device, {"auto", "cpu", "cuda"},
                                "what to compute on; auto: GPUs where the build and the machine have them "
                                "(--device overrides)");
  settings.cudnn =
      device.text("cudnn", "auto", {"auto", "off"},
                  "cuDNN for convolutions and attention on GPUs; auto: where the build and the machine have "
                  "it, else own kernels (other bits)") == "auto";
  settings.threads = device.integer("threads", settings.threads, {1, 1024},
                                    "threads of a worker on the CPU; results do not depend on it");
  settings.cuda_graph = device.boolean("cuda_graph", settings.cuda_graph,
                                       "GPUs: record a step as a CUDA graph and replay it, for small steps "
                                       "whose kernels are over sooner than the host "
                                       "can start them; the same bits");
  settings.tune =
      device.boolean("tune", settings.tune,
                     "GPUs: measure at the start of a run which of the algorithms that libraries propose is "
                     "fastest, instead of "
                     "taking the first; the choices belong to the run and decide about last bits");

  check_combinations(settings,
                     [&](const std::string& section, const std::string& key, const std::string& rule) {
                       configuration.section(section).reject(key, rule);
                     });
  if ((settings.steps == 0) == (settings.epochs == 0) && settings.train_data.given()) {
    train.reject("steps", fmt::format("give either steps or epochs, got steps = {} and epochs = {}",
                                      settings.steps, settings.epochs));
  }
  return settings;
}

std::vector<KeyDescription> described_keys() {
  Configuration configuration = Configuration::for_description();
  read_settings(configuration);
  Section data = configuration.section("data");
  for (const std::string& format : data_formats()) read_data_format(data, format);
  Section model = configuration.section("model");
  describe_models(model);
  Section optimizer = configuration.section("optimizer");
  make_optimizer(optimizer);  // reads the type
  for (const std::string& type : optimizer_types()) make_optimizer(optimizer, type);
  Section average = configuration.section("average");
  read_average(average, AverageSettings::Type::kEma);
  read_average(average, AverageSettings::Type::kSwa);
  Section schedule = configuration.section("schedule");
  make_schedule(schedule, 1.0, {});
  for (const std::string& type : schedule_types()) make_schedule(schedule, type, 1.0, {});
  return configuration.keys();
}

}  // namespace lockstep
