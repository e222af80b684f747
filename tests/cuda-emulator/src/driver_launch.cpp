// libcuda: modules, functions, launches. The code of a module is not run: its kernels are found by name among those
// compiled into this library. The module is asked whether it has them, so that a name that is missing there is missed.
#include <cuda.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "driver.h"
#include "graph.h"
#include "order.h"
#include "report.h"
#include "scheduler.h"
#include "statistics.h"

namespace emulator {
namespace {

struct Module {
  std::string ptx;  // empty for machine code, which is taken on trust
};

// How many parameters the module's kernel has; -1 where it has no such kernel.
int parameters_in(const std::string& ptx, const std::string& name) {
  size_t at = ptx.find(".entry " + name + "(");
  if (at == std::string::npos) at = ptx.find(".entry " + name + "\n");
  if (at == std::string::npos) return -1;
  size_t end = ptx.find(')', at);
  int count = 0;
  for (size_t p = at; (p = ptx.find(".param ", p)) < end; p++) count++;
  return count;
}

bool within_limits(EmulatedIndex grid, EmulatedIndex block) {
  auto between = [](unsigned value, unsigned most) { return value >= 1 && value <= most; };
  return between(grid.x, 0x7fffffff) && between(grid.y, 65535) && between(grid.z, 65535) && between(block.x, 1024) &&
         between(block.y, 1024) && between(block.z, 64) && block.x * block.y * block.z <= 1024;
}

// What a kernel may read and write, by the types of its parameters.
std::vector<order::Use> uses(const Kernel& kernel, void** arguments) {
  std::vector<order::Use> uses;
  for (unsigned i = 0; i < kernel.parameters; i++)
    if (kernel.kinds[i] != EmulatedParameter::value)
      uses.push_back({*static_cast<uintptr_t*>(arguments[i]), kernel.kinds[i] == EmulatedParameter::pointer});
  return uses;
}

// The arguments of a launch that is done later.
class Arguments {
 public:
  Arguments(const Kernel& kernel, void** arguments) {
    for (unsigned i = 0; i < kernel.parameters; i++) {
      const char* from = static_cast<const char*>(arguments[i]);
      values_.emplace_back(from, from + kernel.sizes[i]);
    }
  }
  std::vector<void*> pointers() {
    std::vector<void*> pointers;
    for (auto& value : values_) pointers.push_back(value.data());
    return pointers;
  }

 private:
  std::vector<std::vector<char>> values_;
};

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" {

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  {
    auto turn = take_turn();
    graph::require_nothing_recording("loading a module");
  }
  const char* text = static_cast<const char*>(image);
  bool machine_code = memcmp(text, "\x7f" "ELF", 4) == 0 || memcmp(text, "\x50\xed\x55\xba", 4) == 0;
  *module = reinterpret_cast<CUmodule>(new Module{machine_code ? "" : text});
  return CUDA_SUCCESS;
}
CUresult cuModuleLoad(CUmodule*, const char*) { return CUDA_ERROR_NOT_SUPPORTED; }
CUresult cuModuleUnload(CUmodule module) { return delete reinterpret_cast<Module*>(module), CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  auto turn = take_turn();
  const std::string& ptx = reinterpret_cast<Module*>(module)->ptx;
  int parameters = ptx.empty() ? 0 : parameters_in(ptx, name);
  if (parameters < 0) return CUDA_ERROR_NOT_FOUND;
  Kernel* kernel = find_kernel(name);
  if (!kernel) fail("unknown kernel", "`%s` was not compiled into the emulated driver: name its source when building it", name);
  if (!ptx.empty() && parameters != int(kernel->parameters))
    fail("stale kernel", "`%s` has %d parameters in the module, %u in %s", name, parameters, kernel->parameters, kernel->source.c_str());
  *function = reinterpret_cast<CUfunction>(kernel);
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value < 0 || value > MOST_SHARED) return CUDA_ERROR_INVALID_VALUE;
  auto turn = take_turn();
  reinterpret_cast<Kernel*>(function)->max_dynamic_shared = value;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
  auto turn = take_turn();
  *value = reinterpret_cast<Kernel*>(function)->max_dynamic_shared;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                        unsigned block_z, unsigned dynamic_shared_bytes, CUstream stream, void** arguments, void** extra) {
  auto* kernel = reinterpret_cast<Kernel*>(function);
  EmulatedIndex grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
  if (extra || !within_limits(grid, block) || dynamic_shared_bytes > kernel->max_dynamic_shared) return CUDA_ERROR_INVALID_VALUE;
  auto turn = take_turn();
  auto run = [=](void** arguments) {
    statistics().launches[kernel->name]++;
    order::work(kernel->name.c_str(), stream, uses(*kernel, arguments));
    launch(kernel, grid, block, dynamic_shared_bytes, arguments);
  };
  Arguments copy(*kernel, arguments);
  if (!graph::records(stream, [=]() mutable { run(copy.pointers().data()); })) run(arguments);
  return CUDA_SUCCESS;
}

}  // extern "C"
