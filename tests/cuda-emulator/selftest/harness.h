// What the tests of the emulated driver share: a device, launches, and processes that must die.
#pragma once

#include <cuda.h>
#include <unistd.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

inline int failures = 0, passed = 0;

inline void expect(bool holds, const std::string& what) {
  if (holds) passed++;
  else if (++failures) fprintf(stderr, "FAILED: %s\n", what.c_str());
}

#define REQUIRE(call)                                                             \
  do {                                                                            \
    auto status_ = (call);                                                        \
    if (status_ != decltype(status_)(0)) {                                        \
      fprintf(stderr, "%s:%d: %s returned %d\n", __FILE__, __LINE__, #call, status_); \
      exit(1);                                                                    \
    }                                                                             \
  } while (0)

// The function of a module that says it has it, as PTX does.
inline CUfunction function(const std::string& name, unsigned parameters) {
  std::string ptx = ".visible .entry " + name + "(\n";
  for (unsigned i = 0; i < parameters; i++) ptx += ".param .u64 p" + std::to_string(i) + (i + 1 < parameters ? ",\n" : "\n");
  ptx += ")\n{}\n";
  CUmodule module;
  CUfunction f;
  REQUIRE(cuModuleLoadData(&module, ptx.c_str()));
  REQUIRE(cuModuleGetFunction(&f, module, name.c_str()));
  return f;
}

struct Launch {
  unsigned grid[3] = {1, 1, 1}, block[3] = {64, 1, 1}, dynamic_shared = 0;
  template <class... Arguments> CUresult operator()(const std::string& name, Arguments... arguments) const {
    void* pointers[] = {&arguments...};
    return cuLaunchKernel(function(name, sizeof...(arguments)), grid[0], grid[1], grid[2], block[0], block[1], block[2], dynamic_shared, nullptr,
                          pointers, nullptr);
  }
};

template <class T> struct DeviceArray {
  CUdeviceptr address = 0;
  size_t count;
  explicit DeviceArray(size_t n) : count(n) { REQUIRE(cuMemAlloc_v2(&address, (n ? n : 1) * sizeof(T))); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    REQUIRE(cuMemcpyHtoD_v2(address, values.data(), count * sizeof(T)));
  }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cuMemFree_v2(address); }
  std::vector<T> read() const {
    std::vector<T> values(count);
    REQUIRE(cuMemcpyDtoH_v2(values.data(), address, count * sizeof(T)));
    return values;
  }
};

// Runs `body` in a process of its own; returns what it wrote to stderr if it died, and nothing if it ended well.
inline std::string death_of(const std::function<void()>& body) {
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends));
  fflush(nullptr);
  pid_t child = fork();
  if (child == 0) {
    dup2(pipe_ends[1], 2);
    body();
    _exit(0);
  }
  close(pipe_ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t n; (n = ::read(pipe_ends[0], part, sizeof part)) > 0;) text.append(part, n);
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text.empty() ? "" : "(ended well) " + text;
  return text.empty() ? "(died without a word)" : text;
}

void test_collectives();
void test_faults(const std::string& check);
void test_correct();
void test_epilogues();
void test_products();
void test_statistics();
void test_tensor();
