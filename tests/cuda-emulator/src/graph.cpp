// libcuda: capture of streams, and graphs. A graph is the list of what its stream was given, done again in that order by every launch.
// Memory of a graph stays where it is until the graph is destroyed.
#include "graph.h"

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "driver.h"
#include "memory.h"
#include "order.h"
#include "report.h"
#include "statistics.h"

namespace emulator::graph {
namespace {

struct Graph {
  std::vector<std::function<void()>> work;
  // All memory of the graph, and what it does not free.
  std::set<CUdeviceptr> memory, kept;

  ~Graph() {
    for (CUdeviceptr address : memory) {
      order::forget(address);
      release(address);
    }
  }
};

// A graph lives as long as the program holds it or what was instantiated of it.
using Shared = std::shared_ptr<Graph>;

std::map<CUstream, Shared>& recordings() {
  static auto* all = new std::map<CUstream, Shared>;
  return *all;
}

Graph* recording(CUstream stream) {
  auto found = recordings().find(stream);
  return found == recordings().end() ? nullptr : found->second.get();
}

}  // namespace

bool records(CUstream stream, std::function<void()> work) {
  Graph* graph = recording(stream);
  if (graph) graph->work.push_back(std::move(work));
  return graph != nullptr;
}

void require_not_recording(CUstream stream, const char* what) {
  if (recording(stream)) fail("capture", "%s on a stream that records a graph", what);
}

void require_nothing_recording(const char* what) {
  if (!recordings().empty()) fail("capture", "%s while a stream records a graph", what);
}

void allocated(CUstream stream, CUdeviceptr address) {
  if (Graph* graph = recording(stream)) {
    graph->memory.insert(address);
    graph->kept.insert(address);
  }
}

bool frees(CUstream stream, CUdeviceptr address) {
  Graph* graph = recording(stream);
  if (!graph) {
    for (auto& [other, shared] : recordings())
      if (shared->memory.count(address)) fail("capture", "memory of a graph is freed on another stream");
    return false;
  }
  if (!graph->kept.erase(address)) fail("capture", "a graph frees memory that it did not allocate");
  return true;
}

}  // namespace emulator::graph

using namespace emulator;
using graph::Graph;
using graph::Shared;

extern "C" {

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode) {
  auto turn = take_turn();
  if (graph::recording(stream)) return CUDA_ERROR_ILLEGAL_STATE;
  graph::recordings()[stream] = std::make_shared<Graph>();
  return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* result) {
  auto turn = take_turn();
  auto found = graph::recordings().find(stream);
  if (found == graph::recordings().end()) return CUDA_ERROR_ILLEGAL_STATE;
  *result = reinterpret_cast<CUgraph>(new Shared(found->second));
  graph::recordings().erase(found);
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  auto turn = take_turn();
  *status = graph::recording(stream) ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long) {
  auto turn = take_turn();
  *exec = reinterpret_cast<CUgraphExec>(new Shared(*reinterpret_cast<Shared*>(graph)));
  return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  auto turn = take_turn();
  graph::require_not_recording(stream, "a launch of a graph");
  Graph& graph = **reinterpret_cast<Shared*>(exec);
  if (!graph.kept.empty()) fail("capture", "a graph is launched that does not free all memory that it allocates");
  statistics().graphs++;
  for (auto& work : graph.work) work();
  return CUDA_SUCCESS;
}
CUresult cuGraphUpload(CUgraphExec, CUstream) { return CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec exec) {
  auto turn = take_turn();
  return delete reinterpret_cast<Shared*>(exec), CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
  auto turn = take_turn();
  return delete reinterpret_cast<Shared*>(graph), CUDA_SUCCESS;
}

}  // extern "C"
