// CUDA on the CPU, for the kernels that TVM generates: what a thread, a block and a warp are.
//
// Every CUDA thread of a block is a fiber that runs until its next barrier. Warps run one after the
// other, their order is reversed at each barrier, blocks run from the last to the first, shared
// memory starts as garbage, and copies of cp.async take away what was there at once but arrive only
// when they are waited for, so that a missing barrier or wait changes results. What a GPU refuses
// (misaligned vectors, more shared memory than a block has, threads that part before a collective)
// is an error.
//
// The fragments of ldmatrix and mma.sync follow the tables of the PTX ISA, "Warp-level matrix
// instructions".
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <tvm/ffi/c_api.h>

namespace emu {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 << 10;
constexpr size_t MOST_SHARED = 256 << 10;
constexpr int GARBAGE = 0xA5;

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

enum State { RUNNING, AT_BLOCK, AT_WARP, DONE };

struct Copy {
  char* to;
  const char* from;
  unsigned bytes;
};

struct Fiber {
  std::unique_ptr<char[]> stack{new char[STACK]};
  ucontext_t start;
  jmp_buf here;
  bool started = false;
  Dim index;
  unsigned number = 0;
  State state = DONE;
  const char* meeting = "";  // the collective at which it waits
  std::vector<Copy> copies;  // of cp.async, not committed
  std::deque<std::vector<Copy>> groups;
};

struct Exchange {
  uint32_t words[WARP][8];
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Exchange> warps;
  std::vector<size_t> shared;  // where each declaration of shared memory lies
  size_t shared_bytes = 0;
  std::function<void()> body;
  Dim grid, size, index;
  size_t dynamic_bytes = 0;
  Fiber* current = nullptr;
  Fiber single;  // where no thread waits for another
  jmp_buf scheduler, failed;
  ucontext_t first;
  char message[256];
};

inline Block block;
alignas(128) inline char shared_memory[MOST_SHARED];

[[noreturn]] inline void fail(const char* format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(block.message, sizeof block.message, format, args);
  va_end(args);
  _longjmp(block.failed, 1);
}

// ---- threads

inline void leave(State state, const char* meeting) {
  Fiber* fiber = block.current;
  fiber->state = state;
  fiber->meeting = meeting;
  if (!_setjmp(fiber->here)) _longjmp(block.scheduler, 1);
}

inline void live() {
  for (;;) {
    block.body();
    leave(DONE, "");
  }
}

inline void enter(Fiber& fiber) {
  block.current = &fiber;
  if (_setjmp(block.scheduler)) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = STACK;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, live, 0);
  swapcontext(&block.first, &fiber.start);
}

inline Dim place(unsigned number) {
  const Dim& size = block.size;
  return {number % size.x, number / size.x % size.y, number / (size.x * size.y)};
}

// Let the threads of [begin, end) go on if all that live are at the same meeting.
inline bool meet(unsigned begin, unsigned end, State state) {
  const char* meeting = nullptr;
  for (unsigned i = begin; i < end; i++) {
    const Fiber& fiber = *block.fibers[i];
    if (fiber.state == DONE) continue;
    if (fiber.state != state) return false;
    if (meeting && strcmp(meeting, fiber.meeting))
      fail("threads part: some are at %s, others at %s", meeting, fiber.meeting);
    meeting = fiber.meeting;
  }
  for (unsigned i = begin; i < end; i++)
    if (block.fibers[i]->state != DONE) block.fibers[i]->state = RUNNING;
  return meeting != nullptr;
}

inline void run_fibers(unsigned count) {
  while (block.fibers.size() < count) block.fibers.emplace_back(new Fiber);
  block.warps.resize((count + WARP - 1) / WARP);
  for (unsigned i = 0; i < count; i++) {
    Fiber& fiber = *block.fibers[i];
    fiber.index = place(i);
    fiber.number = i;
    fiber.state = RUNNING;
    fiber.copies.clear();
    fiber.groups.clear();
  }
  unsigned warps = block.warps.size();
  for (bool forward = true;; forward = !forward) {
    // A warp goes on alone until all of its threads wait for the block: none may count on others.
    for (unsigned q = 0; q < warps; q++) {
      unsigned begin = (forward ? q : warps - 1 - q) * WARP, end = std::min(count, begin + WARP);
      do {
        for (unsigned i = 0; i < end - begin; i++) {
          Fiber& fiber = *block.fibers[forward ? begin + i : end - 1 - i];
          if (fiber.state == RUNNING) enter(fiber);
        }
      } while (meet(begin, end, AT_WARP));
    }
    bool done = true;
    for (unsigned i = 0; i < count; i++) done &= block.fibers[i]->state == DONE;
    if (done) return;
    if (!meet(0, count, AT_BLOCK)) fail("threads part: some wait for their warp, others do not");
  }
}

inline void run_single(unsigned count) {
  block.current = &block.single;
  for (unsigned i = 0; i < count; i++) {
    block.single.index = place(i);
    block.single.number = i;
    block.body();
  }
}

// Run a kernel; returns nullptr, or what went wrong.
inline const char* launch(Dim grid, Dim size, bool waits, unsigned most_shared,
                          const std::function<void()>& body) {
  unsigned count = size.x * size.y * size.z;
  block.grid = grid;
  block.size = size;
  block.body = body;
  block.shared.clear();
  block.shared_bytes = 0;
  if (_setjmp(block.failed)) {
    for (auto& fiber : block.fibers) fiber->started = false;
    return block.message;
  }
  if (count > 1024 || size.z > 64) fail("%u threads in a block", count);
  if (grid.y > 65535 || grid.z > 65535) fail("a grid of %u x %u x %u", grid.x, grid.y, grid.z);
  memset(shared_memory, GARBAGE, MOST_SHARED);
  // Backwards: no block may count on those before it.
  for (unsigned z = grid.z; z--;)
    for (unsigned y = grid.y; y--;)
      for (unsigned x = grid.x; x--;) {
        block.index = {x, y, z};
        memset(shared_memory, GARBAGE, block.shared_bytes);
        waits ? run_fibers(count) : run_single(count);
        if (block.shared_bytes > most_shared)
          fail("%zu bytes of shared memory, a block has %u", block.shared_bytes, most_shared);
      }
  return nullptr;
}

// Memory that the threads of a block share, one piece for each declaration.
inline void* shared(unsigned piece, size_t bytes) {
  constexpr size_t NOWHERE = ~size_t(0);
  if (piece >= block.shared.size()) block.shared.resize(piece + 1, NOWHERE);
  if (block.shared[piece] == NOWHERE) {
    block.shared[piece] = block.shared_bytes;
    block.shared_bytes += (bytes + 127) / 128 * 128;
    if (block.shared_bytes > MOST_SHARED) fail("%zu bytes of shared memory", block.shared_bytes);
  }
  return shared_memory + block.shared[piece];
}

inline unsigned lane() { return block.current->number % WARP; }
inline Exchange& warp() { return block.warps[block.current->number / WARP]; }

inline void aligned(const void* address, unsigned bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("%s: misaligned address", what);
}

// ---- collectives of a warp

template <class T>
T from_lane(T value, int source, const char* name) {
  static_assert(sizeof(T) == 4);
  memcpy(&warp().words[lane()][0], &value, 4);
  leave(AT_WARP, name);
  T found = value;
  if (source >= 0 && source < int(WARP)) memcpy(&found, &warp().words[source][0], 4);
  leave(AT_WARP, name);
  return found;
}

inline void ldmatrix(uint32_t* const* out, int count, const char* row) {
  const char* name = "ldmatrix";
  memcpy(&warp().words[lane()][0], &row, sizeof row);
  leave(AT_WARP, name);
  for (int m = 0; m < count; m++) {
    const char* address;
    memcpy(&address, &warp().words[8 * m + lane() / 4][0], sizeof address);
    aligned(address, 16, name);
    memcpy(out[m], address + 4 * (lane() % 4), 4);
  }
  leave(AT_WARP, name);
}

enum Element { S8, U8, S4, U4, B1 };

inline int dot(uint32_t a, uint32_t b, Element kind_a, Element kind_b) {
  if (kind_a == B1) return __builtin_popcount(a & b);
  auto element = [](uint32_t word, Element kind, int i) {
    if (kind == S4) return int(word << (28 - 4 * i)) >> 28;
    if (kind == U4) return int(word >> 4 * i & 15);
    return kind == S8 ? int(int8_t(word >> 8 * i)) : int(uint8_t(word >> 8 * i));
  };
  int sum = 0, count = kind_a == S4 || kind_a == U4 ? 8 : 4;
  for (int i = 0; i < count; i++) sum += element(a, kind_a, i) * element(b, kind_b, i);
  return sum;
}

// m16n8 with eight words of the reduction: m16n8k32 of 8 bits, m16n8k64 of 4, m16n8k256 of 1.
inline void mma(uint32_t* const* d, const uint32_t* a, const uint32_t* b, const uint32_t* c,
                Element kind_a, Element kind_b) {
  const char* name = "mma";
  uint32_t* mine = warp().words[lane()];
  std::copy(a, a + 4, mine);
  std::copy(b, b + 2, mine + 4);
  leave(AT_WARP, name);
  uint32_t result[4];
  for (int i = 0; i < 4; i++) {
    unsigned row = lane() / 4 + 8 * (i / 2), column = 2 * (lane() % 4) + i % 2;
    int sum = int(c[i]);
    for (int k = 0; k < 8; k++)
      sum += dot(warp().words[row % 8 * 4 + k % 4][row / 8 + 2 * (k / 4)],
                 warp().words[column * 4 + k % 4][4 + k / 4], kind_a, kind_b);
    result[i] = uint32_t(sum);
  }
  leave(AT_WARP, name);
  for (int i = 0; i < 4; i++) *d[i] = result[i];
}

// ---- cp.async

inline void copy_later(void* to, const void* from, unsigned bytes) {
  aligned(to, bytes, "cp.async");
  aligned(from, bytes, "cp.async");
  // What lay there is gone from now on, what is copied is there when it was waited for.
  memset(to, GARBAGE, bytes);
  block.current->copies.push_back({static_cast<char*>(to), static_cast<const char*>(from), bytes});
}

inline void clear(void* to, unsigned bytes) {
  aligned(to, bytes, "st.shared");
  memset(to, 0, bytes);
}

inline void commit() {
  block.current->groups.push_back(std::move(block.current->copies));
  block.current->copies.clear();
}

inline void wait(size_t open) {
  auto& groups = block.current->groups;
  for (; groups.size() > open; groups.pop_front())
    for (const Copy& copy : groups.front()) memcpy(copy.to, copy.from, copy.bytes);
}

inline uint32_t address(const void* shared) {
  return uint32_t(static_cast<const char*>(shared) - shared_memory);
}
inline char* pointer(uint32_t address) { return shared_memory + address; }

// ---- arguments that host code hands to a kernel

struct Argument {
  const TVMFFIAny& any;

  template <class T>
  operator T*() const {
    return static_cast<T*>(any.v_ptr);
  }
  template <class T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
  operator T() const {
    return any.type_index == kTVMFFIFloat ? T(any.v_float64) : T(any.v_int64);
  }
};

}  // namespace emu

// ---- checks that the compiler adds (-fsanitize=alignment,bounds)

extern "C" {
__attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(void*, void*) {
  emu::fail("misaligned address");
}
__attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds(void*, void*) {
  emu::fail("index out of the bounds of an array");
}
}

// ---- what generated kernels call

#define __global__
#define __device__ static inline
#define __forceinline__
#define __launch_bounds__(...)
#define __restrict__
#define blockIdx emu::block.index
#define gridDim emu::block.grid
#define blockDim emu::block.size
#define threadIdx emu::block.current->index

#define EMU_VECTOR(scalar, name, bytes, lanes) \
  struct alignas(bytes) name {                 \
    scalar EMU_FIELDS##lanes;                  \
  };
#define EMU_FIELDS2 x, y
#define EMU_FIELDS4 x, y, z, w
EMU_VECTOR(signed char, char2, 2, 2)
EMU_VECTOR(signed char, char4, 4, 4)
EMU_VECTOR(unsigned char, uchar2, 2, 2)
EMU_VECTOR(unsigned char, uchar4, 4, 4)
EMU_VECTOR(short, short2, 4, 2)
EMU_VECTOR(short, short4, 8, 4)
EMU_VECTOR(unsigned short, ushort2, 4, 2)
EMU_VECTOR(unsigned short, ushort4, 8, 4)
EMU_VECTOR(int, int2, 8, 2)
EMU_VECTOR(int, int4, 16, 4)
EMU_VECTOR(unsigned, uint2, 8, 2)
EMU_VECTOR(unsigned, uint4, 16, 4)
EMU_VECTOR(long long, longlong2, 16, 2)
EMU_VECTOR(float, float2, 8, 2)
EMU_VECTOR(float, float4, 16, 4)

#define EMU_MAKE(scalar, type)                                                      \
  static inline type##2 make_##type##2(scalar a, scalar b) { return {a, b}; }       \
  static inline type##4 make_##type##4(scalar a, scalar b, scalar c, scalar d) {    \
    return {a, b, c, d};                                                            \
  }
EMU_MAKE(signed char, char)
EMU_MAKE(unsigned char, uchar)
EMU_MAKE(short, short)
EMU_MAKE(unsigned short, ushort)
EMU_MAKE(int, int)
EMU_MAKE(unsigned, uint)
EMU_MAKE(float, float)

#define EMU_TEXT(line) #line
#define EMU_LINE(line) "the barrier of line " EMU_TEXT(line)
#define __syncthreads() emu::leave(emu::AT_BLOCK, EMU_LINE(__LINE__))
static inline void __syncwarp(unsigned = ~0u) { emu::leave(emu::AT_WARP, "__syncwarp"); }
static inline unsigned __activemask() { return ~0u; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __dp4a(int a, int b, int c) { return c + emu::dot(a, b, emu::S8, emu::S8); }
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return c + emu::dot(a, b, emu::U8, emu::U8);
}
static inline uint32_t __cvta_generic_to_shared(const void* p) { return emu::address(p); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdividef(float a, float b) { return a / b; }

template <class T>
T __shfl_sync(unsigned, T value, int source, int = 32) {
  return emu::from_lane(value, source % 32, "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return emu::from_lane(value, int(emu::lane()) ^ mask, "__shfl_xor_sync");
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta, int width = 32) {
  int lane = int(emu::lane()), target = lane + delta;
  return emu::from_lane(value, lane / width == target / width ? target : lane, "__shfl_down_sync");
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta, int width = 32) {
  int lane = int(emu::lane()), target = lane - delta;
  bool inside = target >= 0 && lane / width == target / width;
  return emu::from_lane(value, inside ? target : lane, "__shfl_up_sync");
}
template <class T>
static inline T max(T a, T b) {
  return a > b ? a : b;
}
template <class T>
static inline T min(T a, T b) {
  return a < b ? a : b;
}
