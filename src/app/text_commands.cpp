// Options of the commands, and what they say when they are done.
#include "lockstep/app/text_commands.h"

#include <fmt/format.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/text/bpe_trainer.h"
#include "lockstep/text/tokenize.h"
#include "lockstep/text/tokenizer.h"
#include "lockstep/train/progress.h"

namespace lockstep {

namespace {

struct TokenizeArguments {
  TokenizeOptions options;
  TokenizerOptions tokenizer;
  std::string output, begin = "auto", end = "auto";
  bool special_tokens = false;
  int threads = 0;
};

struct TrainArguments {
  TokenizerTraining training;
  std::string output;
  int threads = 0;
};

// A bar while something runs over stored bytes; it is gone when the object is.
class ByteProgress {
 public:
  explicit ByteProgress(const char* what) : what_(what) {}
  ~ByteProgress() {
    if (bar_) bar_->clear();
  }
  ByteProgress(const ByteProgress&) = delete;
  ByteProgress& operator=(const ByteProgress&) = delete;
  void operator()(int64_t done, int64_t all) {
    if (!bar_) bar_.emplace(what_, all);
    bar_->show(done);
  }

 private:
  const char* what_;
  std::optional<ProgressBar> bar_;
};

void add_pipe_option(CLI::App& command, CorpusOptions& corpus) {
  command
      .add_option("--pipe", corpus.pipe,
                  "what comes out of pipes whose names do not tell it: jsonl or txt, plain, .gz or .zst")
      ->check(CLI::IsMember({"jsonl", "txt"}));
}

void use_threads(int threads) {
  set_threads(threads > 0 ? threads : usable_cores());
}

// auto: the token that the tokenizer puts there itself.
std::optional<int32_t> document_token(const Tokenizer& tokenizer, const std::string& name, const char* option,
                                      std::optional<int32_t> automatic) {
  if (name == "auto") return automatic;
  if (name == "none") return std::nullopt;
  if (const auto id = tokenizer.special_token(name)) return id;
  std::vector<std::string> names;
  for (const SpecialToken& token : tokenizer.special_tokens()) names.push_back(token.text);
  if (names.size() > 8) names.resize(8);
  fail(ErrorKind::kUsage, fmt::format("{} {}: is no special token of the tokenizer: auto, none{}{}", option,
                                      name, names.empty() ? "" : ", ", fmt::join(names, ", ")));
}

std::string token_text(const Tokenizer& tokenizer, std::optional<int32_t> id) {
  return id ? tokenizer.decode(std::vector<int32_t>{*id}) : "nothing";
}

int run_tokenize(TokenizeArguments& arguments) {
  const auto tokenizer = open_tokenizer(arguments.tokenizer);
  TokenizeOptions& options = arguments.options;
  options.begin = document_token(*tokenizer, arguments.begin, "--begin", tokenizer->begin_of_text());
  options.end = document_token(*tokenizer, arguments.end, "--end", tokenizer->end_of_text());
  if (!options.begin && !options.end)
    log_warning("neither --begin nor --end: nothing tells where a document ends and the next one begins");
  if (arguments.special_tokens) options.spelling = SpecialSpelling::kToken;
  if (options.begin != tokenizer->begin_of_text()) {
    log_warning(fmt::format("--begin {}: {} before each document; the tokenizer itself puts {} there",
                            arguments.begin, token_text(*tokenizer, options.begin),
                            token_text(*tokenizer, tokenizer->begin_of_text())));
  }
  use_threads(arguments.threads);
  TokenFileDescription made;
  {
    ByteProgress progress("tokenized");
    options.progress = std::ref(progress);
    made = tokenize(options, *tokenizer, arguments.output);
  }
  log_info(
      fmt::format("{}: {} tokens in {} documents, {} before and {} behind each, {} bytes a token, vocabulary "
                  "of {}",
                  arguments.output, made.tokens, made.documents, token_text(*tokenizer, made.begin),
                  token_text(*tokenizer, made.end), made.bytes_per_token, made.vocabulary_size));
  if (made.counted >= 0)
    log_info(fmt::format("{} of the tokens count: those of \"{}\" and what stands behind it", made.counted,
                         options.corpus.text_field()));
  return 0;
}

int run_train(TrainArguments& arguments) {
  use_threads(arguments.threads);
  int64_t size = 0;
  {
    ByteProgress progress("read");
    arguments.training.progress = std::ref(progress);
    size = train_tokenizer(arguments.training, arguments.output);
  }
  if (size < arguments.training.vocabulary_size) {
    log_warning(fmt::format("{}: {} tokens instead of {}: the text has no more pairs", arguments.output, size,
                            arguments.training.vocabulary_size));
  }
  log_info(fmt::format("{}: a vocabulary of {}", arguments.output, size));
  return 0;
}

}  // namespace

std::function<std::optional<int>()> add_text_commands(CLI::App& app) {
  const auto arguments = std::make_shared<TokenizeArguments>();
  CLI::App* tokenize_command = app.add_subcommand("tokenize", "turn text into a file of tokens");
  tokenize_command
      ->add_option(
          "text", arguments->options.corpus.inputs,
          "files or directories: .txt (a document each), .jsonl (a document a line), plain, .gz or .zst; "
          "or pipes: - is standard input")
      ->required();
  tokenize_command
      ->add_option("--tokenizer", arguments->tokenizer.path,
                   "tokenizer.json, .tiktoken, vocab.bpe, a directory with one of them, or bytes")
      ->required();
  tokenize_command->add_option("--output", arguments->output, "HDF5 file to write")->required();
  tokenize_command->add_option(
      "--pattern", arguments->tokenizer.pattern,
      "how .tiktoken text is cut into pieces: gpt2, cl100k, o200k, llama3, qwen2; known "
      "from the vocabulary's size where that is a known one");
  tokenize_command
      ->add_option("--field,--completion", arguments->options.corpus.field, ".jsonl: the field with the text")
      ->default_str("text");
  add_pipe_option(*tokenize_command, arguments->options.corpus);
  const CLI::Validator named(
      [](const std::string& field) { return field.empty() ? "must name a field" : ""; }, "");
  tokenize_command
      ->add_option("--prompt", arguments->options.corpus.prompt,
                   ".jsonl: the field with what stands before the text of --completion, whose "
                   "tokens do not count as targets")
      ->check(named);
  tokenize_command
      ->add_option("--begin", arguments->begin,
                   "special token before each document; auto: the tokenizer's own; none")
      ->capture_default_str();
  tokenize_command
      ->add_option("--end", arguments->end,
                   "special token behind each document; auto: the tokenizer's own; none")
      ->capture_default_str();
  tokenize_command->add_flag(
      "--special-tokens", arguments->special_tokens,
      "take special tokens that are spelt out in the text for these tokens, not for text");
  tokenize_command->add_option("--threads", arguments->threads, "0: one a core")->check(CLI::Range(0, 4096));
  tokenize_command->footer(
      "Example:\n  lockstep tokenize books/ news.jsonl.zst --tokenizer tokenizer.json --output tokens.h5\n"
      "  xzcat news.jsonl.xz | lockstep tokenize - --pipe jsonl --tokenizer tokenizer.json --output "
      "tokens.h5\n"
      "  lockstep tokenize pairs.jsonl --prompt prompt --completion completion --tokenizer tokenizer.json "
      "\\\n      --output pairs.h5");
  const auto training = std::make_shared<TrainArguments>();
  CLI::App* tokenizer_command = app.add_subcommand("tokenizer", "make vocabularies");
  tokenizer_command->require_subcommand(1);
  const char* example =
      "Example:\n  lockstep tokenizer train books/ --vocabulary-size 8192 --output tokenizer.json";
  tokenizer_command->footer(example);
  CLI::App* train_command = tokenizer_command->add_subcommand(
      "train", "learn a byte-pair vocabulary and write it as tokenizer.json of Hugging Face");
  train_command
      ->add_option(
          "text", training->training.corpus.inputs,
          "files or directories: .txt (a document each), .jsonl (a document a line), plain, .gz or .zst; "
          "or pipes: - is standard input")
      ->required();
  train_command
      ->add_option("--vocabulary-size", training->training.vocabulary_size,
                   "tokens, of which 256 are bytes and the last is <|endoftext|>")
      ->required();
  train_command->add_option("--output", training->output, "tokenizer.json to write")->required();
  train_command
      ->add_option("--pattern", training->training.pattern, "how text is cut into the pieces that are merged")
      ->check(CLI::IsMember({"gpt2", "gpt4"}))
      ->capture_default_str();
  train_command->add_option("--field", training->training.corpus.field, ".jsonl: the field with the text")
      ->default_str("text");
  add_pipe_option(*train_command, training->training.corpus);
  train_command->add_option("--threads", training->threads, "0: one a core")->check(CLI::Range(0, 4096));
  train_command->footer(example);
  return [arguments, tokenize_command, training, train_command]() -> std::optional<int> {
    if (tokenize_command->parsed()) return run_tokenize(*arguments);
    if (train_command->parsed()) return run_train(*training);
    return std::nullopt;
  };
}

}  // namespace lockstep
