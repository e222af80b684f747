// What the ranks of an emulated communicator send each other: through one server, a thread of the process that made the unique id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator::nccl {

enum class Kind : int32_t { all_reduce, reduce_scatter, all_gather, broadcast };

// What all ranks must ask for alike.
struct Request {
  Kind kind;
  int32_t type, reduction, root;
  uint64_t count;
  bool operator==(const Request& other) const;
};

// Bytes of an element; 0 for what is no type, or cannot be added up where it is to be.
size_t size_of(const Request&);
// Bytes that a rank sends, and gets.
size_t sent_bytes(const Request&, int rank, int ranks);
size_t received_bytes(const Request&, int ranks);

// Starts a server for one communicator; its address.
std::string start_server();
// Connects to a server and waits until all ranks have; -1 if that fails, with the reason in `problem`.
struct Member { int32_t rank, ranks, device; };
int join(const std::string& server, const Member&, std::string& problem);

// Whole messages; false once the other end is gone.
bool send_all(int socket, const void*, size_t bytes);
bool receive_all(int socket, void*, size_t bytes);

}  // namespace emulator::nccl
