// The objects of cuDNN's backend interface, behind the checks that the library makes.
#include <cudnn_graph.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cudnn_program.h"
#include "lockstep/kernels/cuda/with_cudnn/library.h"
#include "memory.h"
#include "settings.h"

namespace cuda_on_cpu {

struct CudnnHandle {
  cudaStream_t stream = nullptr;
};

namespace {

using Type = cudnnBackendDescriptorType_t;
using Name = cudnnBackendAttributeName_t;

struct Object;
using Shared = std::shared_ptr<const Object>;

struct Attribute {
  cudnnBackendAttributeType_t type = CUDNN_TYPE_INT64;
  int64_t count = 0;
  std::vector<unsigned char> bytes;
  std::vector<Shared> objects;
};

struct Object {
  Type type = CUDNN_BACKEND_TENSOR_DESCRIPTOR;
  bool finalized = false;
  std::map<Name, Attribute> attributes;
  std::shared_ptr<const CudnnProgram> program;  // of an operation graph
  int64_t workspace = 0;                        // of a plan
  CudnnArithmetic arithmetic;

  bool has(Name name) const { return attributes.count(name) != 0; }
  template <class T>
  std::vector<T> values(Name name) const {
    const auto found = attributes.find(name);
    if (found == attributes.end()) return {};
    std::vector<T> result(static_cast<size_t>(found->second.count));
    std::memcpy(result.data(), found->second.bytes.data(), result.size() * sizeof(T));
    return result;
  }
  template <class T>
  T value(Name name, T otherwise = T{}) const {
    const auto found = attributes.find(name);
    if (found != attributes.end()) std::memcpy(&otherwise, found->second.bytes.data(), sizeof(T));
    return otherwise;
  }
  // Null when it was not set.
  const Object* object(Name name) const {
    const auto found = attributes.find(name);
    return found == attributes.end() ? nullptr : found->second.objects.at(0).get();
  }
};

struct Registry {
  std::map<void*, std::shared_ptr<Object>> objects;
  std::string last_error;
  int64_t executions = 0;
};
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

// Statuses that a library answers while it looks for a way are no news.
cudnnStatus_t refused(cudnnStatus_t status, const std::string& why) {
  registry().last_error = why;
  if (status < CUDNN_STATUS_NOT_SUPPORTED) std::fprintf(stderr, "cuda_on_cpu: cudnn: %s\n", why.c_str());
  return status;
}

std::shared_ptr<Object> find(void* descriptor) {
  const auto found = registry().objects.find(descriptor);
  return found == registry().objects.end() ? nullptr : found->second;
}

size_t size_of_value(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR:
      return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
      return 8;
    default:
      return 4;
  }
}

// An attribute that may be set: its type, and whether finalize() needs it.
struct Rule {
  cudnnBackendAttributeType_t type;
  bool required = true;
};
using Rules = std::map<Name, Rule>;

const Rules& rules_of(Type type) {
  static const auto* const rules = new std::map<Type, Rules>{
      {CUDNN_BACKEND_TENSOR_DESCRIPTOR,
       {{CUDNN_ATTR_TENSOR_UNIQUE_ID, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_TENSOR_DATA_TYPE, {CUDNN_TYPE_DATA_TYPE}},
        {CUDNN_ATTR_TENSOR_DIMENSIONS, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_TENSOR_STRIDES, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_TENSOR_IS_VIRTUAL, {CUDNN_TYPE_BOOLEAN, false}},
        {CUDNN_ATTR_TENSOR_IS_BY_VALUE, {CUDNN_TYPE_BOOLEAN, false}}}},
      {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR,
       {{CUDNN_ATTR_CONVOLUTION_COMP_TYPE, {CUDNN_TYPE_DATA_TYPE}},
        {CUDNN_ATTR_CONVOLUTION_CONV_MODE, {CUDNN_TYPE_CONVOLUTION_MODE}},
        {CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_CONVOLUTION_DILATIONS, {CUDNN_TYPE_INT64}}}},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, {CUDNN_TYPE_FLOAT}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, {CUDNN_TYPE_FLOAT}}}},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, {CUDNN_TYPE_FLOAT}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, {CUDNN_TYPE_FLOAT}}}},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, {CUDNN_TYPE_FLOAT}},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, {CUDNN_TYPE_FLOAT}}}},
      {CUDNN_BACKEND_POINTWISE_DESCRIPTOR,
       {{CUDNN_ATTR_POINTWISE_MODE, {CUDNN_TYPE_POINTWISE_MODE}},
        {CUDNN_ATTR_POINTWISE_MATH_PREC, {CUDNN_TYPE_DATA_TYPE}},
        {CUDNN_ATTR_POINTWISE_AXIS, {CUDNN_TYPE_INT64, false}}}},
      {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR, false}},
        {CUDNN_ATTR_OPERATION_POINTWISE_TDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR, false}},
        {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}}}},
      {CUDNN_BACKEND_MATMUL_DESCRIPTOR, {{CUDNN_ATTR_MATMUL_COMP_TYPE, {CUDNN_TYPE_DATA_TYPE}}}},
      {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATION_MATMUL_DESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_MATMUL_ADESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_MATMUL_BDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_MATMUL_CDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}}}},
      {CUDNN_BACKEND_REDUCTION_DESCRIPTOR,
       {{CUDNN_ATTR_REDUCTION_OPERATOR, {CUDNN_TYPE_REDUCTION_OPERATOR_TYPE}},
        {CUDNN_ATTR_REDUCTION_COMP_TYPE, {CUDNN_TYPE_DATA_TYPE}}}},
      {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATION_REDUCTION_DESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}}}},
      {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATION_RESHAPE_XDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, {CUDNN_TYPE_BACKEND_DESCRIPTOR}}}},
      {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
       {{CUDNN_ATTR_OPERATIONGRAPH_HANDLE, {CUDNN_TYPE_HANDLE}},
        {CUDNN_ATTR_OPERATIONGRAPH_OPS, {CUDNN_TYPE_BACKEND_DESCRIPTOR}}}},
      {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
       {{CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_ENGINEHEUR_MODE, {CUDNN_TYPE_HEUR_MODE}}}},
      {CUDNN_BACKEND_ENGINE_DESCRIPTOR,
       {{CUDNN_ATTR_ENGINE_OPERATION_GRAPH, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_ENGINE_GLOBAL_INDEX, {CUDNN_TYPE_INT64}}}},
      {CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR,
       {{CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, {CUDNN_TYPE_KNOB_TYPE}},
        {CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, {CUDNN_TYPE_INT64}}}},
      {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
       {{CUDNN_ATTR_ENGINECFG_ENGINE, {CUDNN_TYPE_BACKEND_DESCRIPTOR}},
        {CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, {CUDNN_TYPE_BACKEND_DESCRIPTOR, false}}}},
      {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
       {{CUDNN_ATTR_EXECUTION_PLAN_HANDLE, {CUDNN_TYPE_HANDLE}},
        {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, {CUDNN_TYPE_BACKEND_DESCRIPTOR}}}},
      {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
       {{CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, {CUDNN_TYPE_INT64}},
        {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, {CUDNN_TYPE_VOID_PTR}},
        {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, {CUDNN_TYPE_VOID_PTR, false}}}}};
  static const Rules none;
  const auto found = rules->find(type);
  return found == rules->end() ? none : found->second;
}

// ---- engines

// What an engine may be told, and what it is. kTileSize decides how many parts sums are made of.
struct Engine {
  int64_t index;
  std::vector<cudnnBackendNumericalNote_t> notes;
  std::vector<int64_t> tile_sizes;
  int64_t workspace = 0;
  bool finalizes = true;
};

// In the order of the heuristics; the last one is what they fall back to. `narrow`: inputs of 16 bits.
std::vector<Engine> engines_of(bool narrow) {
  const auto tensor_core = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
  std::vector<Engine> engines = {
      {25, {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}, {1, 2}, 0, true},
      {40, {tensor_core, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION}, {1}, 0, true},
      {41, {CUDNN_NUMERICAL_NOTE_WINOGRAD}, {1}, 0, true},
      {50, {}, {1}, 0, false},
      {51, {}, {1}, int64_t{1} << 40, true},
      {70, {}, {3, 2}, 4096, true},
      {0, {CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP}, {1}, 0, true}};
  if (narrow) {
    engines[5].notes = {tensor_core};
  } else {  // as TF32
    engines.insert(engines.begin(),
                   {{62, {tensor_core}, {1}, 0, true},
                    {63, {tensor_core, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS}, {1}, 0, true}});
  }
  return engines;
}

// The first tensor that the graph reads says what engines are for.
bool is_narrow(const CudnnProgram& program) {
  return size_of(program.tensors.at(program.operations.front().x).type) == 2;
}

const Engine* find_engine(const std::vector<Engine>& engines, int64_t index) {
  const auto found =
      std::find_if(engines.begin(), engines.end(), [&](const Engine& e) { return e.index == index; });
  return found == engines.end() ? nullptr : &*found;
}

// Results that are used although a note forbids it are to be seen.
bool is_wrong(const Engine& engine, bool narrow) {
  return std::any_of(engine.notes.begin(), engine.notes.end(), [&](cudnnBackendNumericalNote_t note) {
    return note != CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP &&
           (note != CUDNN_NUMERICAL_NOTE_TENSOR_CORE || !narrow);
  });
}

// ---- finalizing

CudnnTensor tensor_of(const Object& o) {
  CudnnTensor t;
  t.id = o.value<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID);
  t.type = o.value<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
  t.extents = o.values<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS);
  t.strides = o.values<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
  t.alignment = o.value<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
  t.is_virtual = o.value<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL);
  t.by_value = o.value<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE);
  return t;
}

cudnnStatus_t finalize_tensor(const Object& o) {
  const CudnnTensor t = tensor_of(o);
  const bool positive = std::all_of(t.extents.begin(), t.extents.end(), [](int64_t e) { return e > 0; });
  if (t.extents.size() < 3 || t.extents.size() != t.strides.size() || !positive) {
    return refused(CUDNN_STATUS_BAD_PARAM, "tensor " + std::to_string(t.id) + ": extents and strides");
  }
  if (t.alignment < static_cast<int64_t>(size_of(t.type)) || (t.alignment & (t.alignment - 1)) != 0) {
    return refused(CUDNN_STATUS_BAD_PARAM, "tensor " + std::to_string(t.id) + ": alignment");
  }
  return CUDNN_STATUS_SUCCESS;
}

// Where the arrays of an operation stand among its attributes: x, b, t, y (0: none; no attribute is 0 here).
struct Places {
  Name x, b, t, y, description;
};
constexpr Name kNone = CUDNN_ATTR_POINTWISE_MODE;
Places places_of(Type type) {
  switch (type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, kNone,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC};
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              kNone, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC};
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              kNone, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC};
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC, kNone,
              CUDNN_ATTR_OPERATION_MATMUL_CDESC, CUDNN_ATTR_OPERATION_MATMUL_DESC};
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, kNone, kNone, CUDNN_ATTR_OPERATION_REDUCTION_YDESC,
              CUDNN_ATTR_OPERATION_REDUCTION_DESC};
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_RESHAPE_XDESC, kNone, kNone, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, kNone};
    default:
      return {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
              CUDNN_ATTR_OPERATION_POINTWISE_TDESC, CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
              CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR};
  }
}

using Extents = std::vector<int64_t>;

bool broadcasts(const Extents& from, const Extents& to) {
  if (from.size() != to.size()) return false;
  for (size_t i = 0; i < to.size(); ++i) {
    if (from[i] != to[i] && from[i] != 1) return false;
  }
  return true;
}

// Whether a convolution of x by w has the extents of y.
bool convolves(const CudnnOperation& o, const Extents& x, const Extents& w, const Extents& y) {
  if (x.size() != 4 || w.size() != 4 || y.size() != 4) return false;
  for (size_t i = 0; i < 2; ++i) {
    if (y[i + 2] != (x[i + 2] + 2 * o.padding[i] - w[i + 2]) / o.strides[i] + 1) return false;
  }
  return x[0] == y[0] && x[1] == w[1] && w[0] == y[1];
}

bool fits(const CudnnOperation& o, const CudnnProgram& program) {
  const auto extents = [&](int64_t id) { return id == 0 ? Extents() : program.tensors.at(id).extents; };
  const Extents x = extents(o.x), b = extents(o.b), t = extents(o.t), y = extents(o.y);
  switch (o.kind) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
      return convolves(o, x, b, y);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
      return convolves(o, y, b, x);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
      return convolves(o, x, y, b);
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: {
      const size_t rank = y.size();
      if (x.size() != rank || b.size() != rank) return false;
      if (!std::equal(y.begin(), y.end() - 2, x.begin()) || !std::equal(y.begin(), y.end() - 2, b.begin()))
        return false;
      return x[rank - 2] == y[rank - 2] && b[rank - 1] == y[rank - 1] && x[rank - 1] == b[rank - 2];
    }
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
      return broadcasts(y, x);
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
      return program.tensors.at(o.x).elements() == program.tensors.at(o.y).elements();
    default:
      if (o.mode == CUDNN_POINTWISE_GEN_INDEX && (o.axis < 0 || o.axis >= static_cast<int64_t>(y.size())))
        return false;
      return broadcasts(x, y) && (o.b == 0 || broadcasts(b, y)) && (o.t == 0 || broadcasts(t, y));
  }
}

// The graph as a program, or why it is none.
cudnnStatus_t finalize_graph(Object& graph) {
  auto program = std::make_shared<CudnnProgram>();
  std::set<int64_t> written;
  for (const Shared& object : graph.attributes.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).objects) {
    const Object& from = *object;
    const Places places = places_of(from.type);
    CudnnOperation o;
    o.kind = from.type;
    for (const auto& [place, id] :
         {std::pair(places.x, &o.x), {places.b, &o.b}, {places.t, &o.t}, {places.y, &o.y}}) {
      const Object* const tensor = place == kNone ? nullptr : from.object(place);
      if (tensor == nullptr) continue;
      const CudnnTensor t = tensor_of(*tensor);
      *id = t.id;
      const auto [known, is_new] = program->tensors.emplace(t.id, t);
      if (!is_new && (known->second.extents != t.extents || known->second.strides != t.strides)) {
        return refused(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES,
                       "two tensors of one id: " + std::to_string(t.id));
      }
      const bool is_result = id == &o.y;
      if (!is_result && t.is_virtual && written.count(t.id) == 0) {
        return refused(CUDNN_STATUS_BAD_PARAM,
                       "virtual tensor read before it is computed: " + std::to_string(t.id));
      }
      if (is_result && !written.insert(t.id).second) {
        return refused(CUDNN_STATUS_BAD_PARAM, "tensor computed twice: " + std::to_string(t.id));
      }
    }
    const Object* const description = places.description == kNone ? nullptr : from.object(places.description);
    if (description != nullptr && description->type == CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR) {
      o.padding = description->values<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
      o.strides = description->values<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
      const bool plain =
          description->value<cudnnConvolutionMode_t>(CUDNN_ATTR_CONVOLUTION_CONV_MODE) ==
              CUDNN_CROSS_CORRELATION &&
          description->value<cudnnDataType_t>(CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT &&
          description->values<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS) == o.padding &&
          description->values<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS) == Extents{1, 1};
      if (!plain) return refused(CUDNN_STATUS_NOT_SUPPORTED, "kind of convolution");
    }
    if (description != nullptr && description->type == CUDNN_BACKEND_POINTWISE_DESCRIPTOR) {
      o.mode = description->value<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
      o.axis = description->value<int64_t>(CUDNN_ATTR_POINTWISE_AXIS, -1);
    }
    if (description != nullptr && description->type == CUDNN_BACKEND_REDUCTION_DESCRIPTOR)
      o.reduction = description->value<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR);
    if (!fits(o, *program))
      return refused(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "operation of type " + std::to_string(o.kind));
    program->operations.push_back(o);
  }
  if (program->operations.empty()) return refused(CUDNN_STATUS_BAD_PARAM, "a graph without operations");
  graph.program = std::move(program);
  return CUDNN_STATUS_SUCCESS;
}

// What the library has no engine for, though the graph is one: a derivative by weights that is wider than its
// inputs unless it comes out of a fused operation. What is read by a fused operation is aligned as vectors
// are.
bool has_engines(const CudnnProgram& program) {
  for (const CudnnOperation& o : program.operations) {
    if (o.kind == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR && o.b != 0) {
      const CudnnTensor& b = program.tensors.at(o.b);
      if (!b.is_virtual && !b.by_value && b.alignment < 16) return false;
    }
    if (o.kind != CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR) continue;
    const CudnnTensor &x = program.tensors.at(o.x), &dw = program.tensors.at(o.y);
    if (size_of(x.type) == size_of(dw.type)) continue;
    if (!dw.is_virtual) return false;
  }
  return true;
}

// Graphs that engines are proposed for, and whose results are wrong: a derivative by weights that is wider
// than its inputs, if channels do not fill vectors, and in 16 bits what is not aligned as vectors are (seen
// of 9.19 on an H200).
bool is_a_trap(const CudnnProgram& program) {
  for (const auto& [id, t] : program.tensors)
    if (size_of(t.type) == 2 && !t.is_virtual && t.alignment < 16) return true;
  for (const CudnnOperation& o : program.operations) {
    if (o.kind != CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR) continue;
    const CudnnTensor &x = program.tensors.at(o.x), &dw = program.tensors.at(o.y);
    if (size_of(x.type) != size_of(dw.type) && (x.extents[1] % 8 != 0 || dw.extents[0] % 8 != 0)) return true;
  }
  return false;
}

const Object* graph_of_engine(const Object& engine) {
  return engine.object(CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
}

cudnnStatus_t finalize_engine(const Object& o) {
  const CudnnProgram& program = *graph_of_engine(o)->program;
  const auto engines = engines_of(is_narrow(program));
  if (!has_engines(program) ||
      find_engine(engines, o.value<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX)) == nullptr)
    return refused(CUDNN_STATUS_NOT_SUPPORTED, "no such engine");
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize_plan(Object& plan) {
  const Object& configuration = *plan.object(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  const Object& engine = *configuration.object(CUDNN_ATTR_ENGINECFG_ENGINE);
  plan.program = graph_of_engine(engine)->program;
  const bool narrow = is_narrow(*plan.program);
  const auto engines = engines_of(narrow);
  const Engine& chosen = *find_engine(engines, engine.value<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
  if (!chosen.finalizes) return refused(CUDNN_STATUS_NOT_SUPPORTED, "engine cannot be finalized");
  plan.workspace = chosen.workspace;
  plan.arithmetic = {chosen.tile_sizes.front(), is_wrong(chosen, narrow) || is_a_trap(*plan.program)};
  if (configuration.has(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES)) {
    for (const Shared& knob : configuration.attributes.at(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES).objects) {
      const auto value = knob->value<int64_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE);
      const auto& sizes = chosen.tile_sizes;
      if (knob->value<cudnnBackendKnobType_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE) !=
              CUDNN_KNOB_TYPE_TILE_SIZE ||
          std::find(sizes.begin(), sizes.end(), value) == sizes.end()) {
        return refused(CUDNN_STATUS_NOT_SUPPORTED, "knob of an engine");
      }
      plan.arithmetic.splits = value;
    }
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize(Object& o) {
  for (const auto& [name, rule] : rules_of(o.type)) {
    if (rule.required && !o.has(name)) {
      return refused(CUDNN_STATUS_BAD_PARAM,
                     "object of type " + std::to_string(o.type) + " lacks attribute " + std::to_string(name));
    }
  }
  switch (o.type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      return finalize_tensor(o);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
      return finalize_graph(o);
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
      return finalize_engine(o);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
      return finalize_plan(o);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
      return has_engines(*o.object(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)->program)
                 ? CUDNN_STATUS_SUCCESS
                 : refused(CUDNN_STATUS_NOT_SUPPORTED, "no engine for this graph");
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      return o.attributes.at(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).count ==
                     o.attributes.at(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).count
                 ? CUDNN_STATUS_SUCCESS
                 : refused(CUDNN_STATUS_BAD_PARAM, "as many pointers as ids");
    default:
      return CUDNN_STATUS_SUCCESS;
  }
}

// ---- what finalized objects answer

template <class T>
void put(Object& o, Name name, cudnnBackendAttributeType_t type, const T& value) {
  Attribute& attribute = o.attributes[name];
  attribute.type = type;
  attribute.count = 1;
  attribute.bytes.resize(sizeof(T));
  std::memcpy(attribute.bytes.data(), &value, sizeof(T));
}
void put(Object& o, Name name, std::vector<Shared> objects) {
  Attribute& attribute = o.attributes[name];
  attribute.type = CUDNN_TYPE_BACKEND_DESCRIPTOR;
  attribute.count = static_cast<int64_t>(objects.size());
  attribute.objects = std::move(objects);
}
std::shared_ptr<Object> finalized(Type type) {
  auto object = std::make_shared<Object>();
  object->type = type;
  object->finalized = true;
  return object;
}

// The configurations that the heuristics propose.
std::vector<Shared> proposals(const Object& heuristic) {
  const Shared graph = heuristic.attributes.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH).objects.at(0);
  std::vector<Engine> engines = engines_of(is_narrow(*graph->program));
  const bool falls_back =
      heuristic.value<cudnnBackendHeurMode_t>(CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_FALLBACK;
  const auto last = engines.end() - 1;
  std::vector<Shared> result;
  for (auto engine = falls_back ? last : engines.begin(); engine != (falls_back ? engines.end() : last);
       ++engine) {
    auto of_graph = finalized(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    put(*of_graph, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, {graph});
    put(*of_graph, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, engine->index);
    for (const int64_t size : engine->tile_sizes) {
      auto knob = finalized(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
      put(*knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, CUDNN_KNOB_TYPE_TILE_SIZE);
      put(*knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, size);
      auto configuration = finalized(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
      put(*configuration, CUDNN_ATTR_ENGINECFG_ENGINE, {of_graph});
      put(*configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, {knob});
      result.push_back(configuration);
    }
  }
  return result;
}

cudnnStatus_t answer(const Object& o, Name name, cudnnBackendAttributeType_t type, int64_t requested,
                     int64_t* count, void* values) {
  Attribute computed;
  const Attribute* attribute = &computed;
  computed.type = type;
  if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && o.type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) {
    computed.objects = proposals(o);
    computed.count = static_cast<int64_t>(computed.objects.size());
  } else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && o.type == CUDNN_BACKEND_ENGINE_DESCRIPTOR) {
    const auto engines = engines_of(is_narrow(*graph_of_engine(o)->program));
    const auto& notes = find_engine(engines, o.value<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX))->notes;
    computed.count = static_cast<int64_t>(notes.size());
    computed.bytes.resize(notes.size() * sizeof(notes[0]));
    if (!notes.empty()) std::memcpy(computed.bytes.data(), notes.data(), computed.bytes.size());
  } else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE &&
             o.type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
    computed.count = 1;
    computed.bytes.resize(sizeof o.workspace);
    std::memcpy(computed.bytes.data(), &o.workspace, sizeof o.workspace);
  } else if (o.has(name)) {
    attribute = &o.attributes.at(name);
  } else {
    return refused(CUDNN_STATUS_NOT_SUPPORTED,
                   "attribute " + std::to_string(name) + " of an object of type " + std::to_string(o.type));
  }
  if (attribute->type != type) return refused(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "type of an attribute");
  // As the library: without room the whole number is told, but for the knobs of a configuration.
  if (requested == 0 || values == nullptr) {
    *count = name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES ? 0 : attribute->count;
    return CUDNN_STATUS_SUCCESS;
  }
  *count = std::min(requested, attribute->count);
  if (type != CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    std::memcpy(values, attribute->bytes.data(), static_cast<size_t>(*count) * size_of_value(type));
    return CUDNN_STATUS_SUCCESS;
  }
  for (int64_t i = 0; i < *count; ++i) {
    const auto into = find(static_cast<void**>(values)[i]);
    const Object& from = *attribute->objects[static_cast<size_t>(i)];
    if (into == nullptr || into->type != from.type)
      return refused(CUDNN_STATUS_BAD_PARAM, "an object of the attribute's type has to take the value");
    *into = from;
  }
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace

int64_t cudnn_executions() {
  return registry().executions;
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

size_t cudnnGetVersion() {
  return CUDNN_MAJOR * 10000 + CUDNN_MINOR * 100 + CUDNN_PATCHLEVEL;
}
const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS:
      return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED:
      return "CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED";
    case CUDNN_STATUS_NOT_SUPPORTED:
      return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_EXECUTION_FAILED:
      return "CUDNN_STATUS_EXECUTION_FAILED";
    default:
      return "CUDNN_STATUS_BAD_PARAM";
  }
}
void cudnnGetLastErrorString(char* message, size_t bytes) {
  std::snprintf(message, bytes, "%s", registry().last_error.c_str());
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  *handle = new CudnnHandle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  if (handle == nullptr) return refused(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "handle");
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t* descriptor) {
  if (rules_of(type).empty())
    return refused(CUDNN_STATUS_NOT_SUPPORTED, "objects of type " + std::to_string(type));
  auto object = std::make_shared<Object>();
  object->type = type;
  *descriptor = object.get();
  registry().objects[*descriptor] = std::move(object);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  if (registry().objects.erase(descriptor) == 0)
    return refused(CUDNN_STATUS_BAD_PARAM, "destroy: no such object");
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  const auto object = find(descriptor);
  if (object == nullptr) return refused(CUDNN_STATUS_BAD_PARAM, "finalize: no such object");
  if (object->finalized) return refused(CUDNN_STATUS_BAD_PARAM, "finalized twice");
  const cudnnStatus_t status = finalize(*object);
  object->finalized = status == CUDNN_STATUS_SUCCESS;
  return status;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  const auto object = find(descriptor);
  if (object == nullptr) return refused(CUDNN_STATUS_BAD_PARAM, "set: no such object");
  const std::string which =
      "attribute " + std::to_string(name) + " of an object of type " + std::to_string(object->type);
  if (object->finalized) return refused(CUDNN_STATUS_BAD_PARAM, which + ": it is finalized");
  const Rules& rules = rules_of(object->type);
  const auto rule = rules.find(name);
  if (rule == rules.end()) return refused(CUDNN_STATUS_NOT_SUPPORTED, which);
  if (rule->second.type != type) return refused(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, which + ": its type");
  if (count < 1 || values == nullptr)
    return refused(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, which + ": no value");
  Attribute attribute;
  attribute.type = type;
  attribute.count = count;
  const auto* const bytes = static_cast<const unsigned char*>(values);
  attribute.bytes.assign(bytes, bytes + static_cast<size_t>(count) * size_of_value(type));
  for (int64_t i = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < count; ++i) {
    const auto value = find(static_cast<void* const*>(values)[i]);
    if (value == nullptr) return refused(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, which + ": no such object");
    if (!value->finalized) return refused(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, which);
    attribute.objects.push_back(value);
  }
  object->attributes[name] = std::move(attribute);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t requested, int64_t* count,
                                       void* values) {
  const auto object = find(descriptor);
  if (object == nullptr) return refused(CUDNN_STATUS_BAD_PARAM, "get: no such object");
  if (!object->finalized)
    return refused(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "get: attribute " + std::to_string(name));
  return answer(*object, name, type, requested, count, values);
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_descriptor,
                                  cudnnBackendDescriptor_t pack_descriptor) {
  const auto plan = find(plan_descriptor), pack = find(pack_descriptor);
  if (handle == nullptr || plan == nullptr || pack == nullptr)
    return refused(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "execute: an argument is missing");
  if (!plan->finalized || !pack->finalized) return refused(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "execute");
  const auto ids = pack->values<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const auto pointers = pack->values<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  std::map<int64_t, void*> memory;
  for (size_t i = 0; i < ids.size(); ++i) memory[ids[i]] = pointers[i];
  for (const auto& [id, pointer] : memory) {
    if (plan->program->tensors.count(id) == 0)
      return refused(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "execute: no tensor is " + std::to_string(id));
  }
  // Numbers in host memory are read now.
  std::map<int64_t, float> numbers;
  for (const auto& [id, tensor] : plan->program->tensors) {
    if (tensor.is_virtual) continue;
    const auto found = memory.find(id);
    const std::string which = "execute: tensor " + std::to_string(id);
    if (found == memory.end()) return refused(CUDNN_STATUS_BAD_PARAM, which + " has no memory");
    if (found->second == nullptr) return refused(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, which);
    if (reinterpret_cast<uintptr_t>(found->second) % static_cast<uintptr_t>(tensor.alignment) != 0)
      return refused(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, which + " is not aligned as was said");
    if (tensor.by_value) {
      numbers[id] = *static_cast<const float*>(found->second);
    } else if (!is_device_memory(found->second, static_cast<size_t>(tensor.bytes()))) {
      return refused(CUDNN_STATUS_BAD_PARAM, which + " is not within one live buffer of device memory");
    }
  }
  void* const workspace = pack->value<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  const auto workspace_bytes = static_cast<size_t>(plan->workspace);
  if (workspace_bytes > 0 &&
      (!is_device_memory(workspace, workspace_bytes) || reinterpret_cast<uintptr_t>(workspace) % 16 != 0)) {
    return refused(CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT, "execute: workspace");
  }
  const std::shared_ptr<const CudnnProgram> program = plan->program;
  const CudnnArithmetic arithmetic = plan->arithmetic;
  const cudaError_t error = enqueue(handle->stream, "cudnnBackendExecute",
                                    [program, arithmetic, memory, numbers, workspace, workspace_bytes] {
                                      if (workspace_bytes > 0) poison(workspace, workspace_bytes);
                                      std::map<int64_t, float> held = numbers;
                                      std::map<int64_t, void*> arrays = memory;
                                      for (auto& [id, number] : held) arrays[id] = &number;
                                      program->run(arithmetic, arrays);
                                      return Progress::kDone;
                                    });
  ++registry().executions;
  return error == cudaSuccess ? CUDNN_STATUS_SUCCESS
                              : refused(CUDNN_STATUS_EXECUTION_FAILED, "execute: the stream");
}

namespace lockstep {

const CudnnLibrary* cudnn_library() {
  static const CudnnLibrary library = {&cudnnGetVersion,
                                       &cudnnGetErrorString,
                                       &cudnnGetLastErrorString,
                                       &cudnnCreate,
                                       &cudnnDestroy,
                                       &cudnnSetStream,
                                       &cudnnBackendCreateDescriptor,
                                       &cudnnBackendDestroyDescriptor,
                                       &cudnnBackendSetAttribute,
                                       &cudnnBackendGetAttribute,
                                       &cudnnBackendFinalize,
                                       &cudnnBackendExecute,
                                       "no NVRTC"};
  return settings().cudnn ? &library : nullptr;
}

}  // namespace lockstep
