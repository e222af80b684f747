#include "nccl_exchange.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "report.h"

namespace emulator::nccl {
namespace {

enum Type { i8, u8, i32, u32, i64, u64, f16, f32, f64, bf16 };
enum Reduction { sum, product, most, least, mean };

// Sums of 16 bits are taken in f32 and rounded once.
template <class T> T widen(T x) { return x; }
float widen(__half x) { return __half2float(x); }
float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T, class W> T narrow(W x) { return T(x); }
template <> __half narrow(float x) { return __float2half(x); }
template <> __nv_bfloat16 narrow(float x) { return __float2bfloat16(x); }

template <class W> W combined(int reduction, W a, W b) {
  switch (reduction) {
    case product: return a * b;
    case most: return std::max(a, b);
    case least: return std::min(a, b);
    default: return a + b;
  }
}

using Parts = std::vector<std::vector<char>>;

// Element by element, in the order of ranks.
template <class T> std::vector<char> reduced(const Parts& parts, size_t count, int reduction) {
  std::vector<char> result(count * sizeof(T));
  auto at = [&](size_t rank, size_t i) { return widen(reinterpret_cast<const T*>(parts[rank].data())[i]); };
  for (size_t i = 0; i < count; i++) {
    auto value = at(0, i);
    for (size_t rank = 1; rank < parts.size(); rank++) value = combined(reduction, value, at(rank, i));
    if (reduction == mean) value = decltype(value)(value / parts.size());
    reinterpret_cast<T*>(result.data())[i] = narrow<T>(value);
  }
  return result;
}

std::vector<char> reduced(const Parts& parts, size_t count, const Request& request) {
  switch (request.type) {
    case i32: return reduced<int32_t>(parts, count, request.reduction);
    case u32: return reduced<uint32_t>(parts, count, request.reduction);
    case i64: return reduced<int64_t>(parts, count, request.reduction);
    case u64: return reduced<uint64_t>(parts, count, request.reduction);
    case f16: return reduced<__half>(parts, count, request.reduction);
    case f32: return reduced<float>(parts, count, request.reduction);
    case f64: return reduced<double>(parts, count, request.reduction);
    default: return reduced<__nv_bfloat16>(parts, count, request.reduction);
  }
}

// All results one after another, one a rank or one for all.
std::vector<char> answer(const Request& request, const Parts& parts) {
  switch (request.kind) {
    case Kind::all_reduce: return reduced(parts, request.count, request);
    case Kind::reduce_scatter: return reduced(parts, request.count * parts.size(), request);
    case Kind::broadcast: return parts[request.root];
    default: break;
  }
  std::vector<char> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::string text_of(const Request& r) {
  static const char* const names[] = {"ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclBroadcast"};
  return std::string(names[int(r.kind)]) + " of " + std::to_string(r.count) + " elements of type " + std::to_string(r.type);
}

// Answers one request of all ranks; false once a rank is gone. The others then wait, as they do for a GPU that does not come.
bool serve_one(const std::vector<int>& sockets) {
  Request first{};
  Parts parts;
  int ranks = int(sockets.size());
  for (int rank = 0; rank < ranks; rank++) {
    Request request;
    if (!receive_all(sockets[rank], &request, sizeof request)) return false;
    if (rank == 0) first = request;
    if (!(request == first))
      fail("collectives", "rank %d calls `%s`, rank 0 `%s`", rank, text_of(request).c_str(), text_of(first).c_str());
    parts.emplace_back(sent_bytes(request, rank, ranks));
    if (!receive_all(sockets[rank], parts.back().data(), parts.back().size())) return false;
  }
  std::vector<char> all = answer(first, parts);
  size_t own = received_bytes(first, ranks);
  for (int rank = 0; rank < ranks; rank++) {
    size_t start = first.kind == Kind::reduce_scatter ? rank * own : 0;
    if (!send_all(sockets[rank], all.data() + start, own)) return false;
  }
  return true;
}

struct Server {
  int listener;
  std::vector<int> sockets;
  std::vector<Member> members;

  // What a new rank is told: nothing where it fits.
  std::string problem_with(const Member& one) const {
    if (one.rank < 0 || one.rank >= one.ranks) return "rank " + std::to_string(one.rank) + " of " + std::to_string(one.ranks);
    for (const Member& other : members) {
      if (other.ranks != one.ranks) return "communicators of " + std::to_string(one.ranks) + " and of " + std::to_string(other.ranks) + " ranks";
      if (other.rank == one.rank) return "rank " + std::to_string(one.rank) + " twice";
      if (other.device == one.device) return "Duplicate GPU detected: rank " + std::to_string(one.rank) + " and rank " + std::to_string(other.rank);
    }
    return {};
  }

  void run() {
    while (members.empty() || members.size() < size_t(members[0].ranks)) {
      int socket = accept(listener, nullptr, nullptr);
      Member member;
      if (socket < 0 || !receive_all(socket, &member, sizeof member)) continue;
      std::string problem = problem_with(member);
      uint64_t length = problem.size();
      if (length) {
        send_all(socket, &length, sizeof length);
        send_all(socket, problem.data(), length);
        continue;
      }
      members.push_back(member);
      sockets.resize(std::max(sockets.size(), size_t(member.ranks)));
      sockets[member.rank] = socket;
    }
    uint64_t none = 0;
    for (int socket : sockets) send_all(socket, &none, sizeof none);
    while (serve_one(sockets)) {}
  }
};

sockaddr_un address_of(const std::string& name, socklen_t& length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // A name without a file, which goes with its socket: the first byte is zero.
  memcpy(address.sun_path + 1, name.data(), name.size());
  length = socklen_t(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

}  // namespace

bool Request::operator==(const Request& other) const {
  return kind == other.kind && type == other.type && reduction == other.reduction && root == other.root && count == other.count;
}

size_t size_of(const Request& request) {
  bool adds = request.kind == Kind::all_reduce || request.kind == Kind::reduce_scatter;
  if (adds && (request.reduction < sum || request.reduction > mean)) return 0;
  switch (request.type) {
    case i8: case u8: return adds ? 0 : 1;
    case f16: case bf16: return 2;
    case i32: case u32: case f32: return 4;
    case i64: case u64: case f64: return 8;
    default: return 0;
  }
}

size_t sent_bytes(const Request& request, int rank, int ranks) {
  size_t bytes = request.count * size_of(request);
  if (request.kind == Kind::reduce_scatter) return bytes * ranks;
  return request.kind == Kind::broadcast && rank != request.root ? 0 : bytes;
}

size_t received_bytes(const Request& request, int ranks) {
  return request.count * size_of(request) * (request.kind == Kind::all_gather ? ranks : 1);
}

bool send_all(int socket, const void* data, size_t bytes) {
  for (auto* from = static_cast<const char*>(data); bytes > 0;) {
    ssize_t n = send(socket, from, bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    from += n;
    bytes -= n;
  }
  return true;
}

bool receive_all(int socket, void* data, size_t bytes) {
  for (auto* to = static_cast<char*>(data); bytes > 0;) {
    ssize_t n = recv(socket, to, bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    to += n;
    bytes -= n;
  }
  return true;
}

std::string start_server() {
  std::random_device random;
  std::string name = "emulated-nccl-" + std::to_string(getpid()) + "-" + std::to_string(random()) + std::to_string(random());
  socklen_t length;
  sockaddr_un address = address_of(name, length);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), length) || listen(listener, 64)) return {};
  auto* server = new Server{listener, {}, {}};  // never destroyed: its ranks may wait until the very end
  std::thread([server] { server->run(); }).detach();
  return name;
}

int join(const std::string& server, const Member& member, std::string& problem) {
  socklen_t length;
  sockaddr_un address = address_of(server, length);
  int own = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  uint64_t refusal = 0;
  if (own < 0 || connect(own, reinterpret_cast<sockaddr*>(&address), length) || !send_all(own, &member, sizeof member) ||
      !receive_all(own, &refusal, sizeof refusal)) {
    problem = "the process that made the unique id is gone";
  } else if (refusal) {
    problem.resize(refusal);
    receive_all(own, problem.data(), refusal);
  } else {
    return own;
  }
  if (own >= 0) close(own);
  return -1;
}

}  // namespace emulator::nccl
