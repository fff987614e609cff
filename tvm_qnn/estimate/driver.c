/* Calls compiled kernels without TVM, for qemu-user or a board without Python.
 *
 * usage: program CALLS RESULTS
 *
 * CALLS holds little-endian int64 unless noted:
 *   tensors; for each: dtype code, bits, ndim, shape[ndim], bytes, the bytes
 *   calls; for each: function, arguments, tensor of each argument
 * RESULTS receives the bytes of the last argument of each call, in order.
 *
 * Every tensor ends at an unreadable page, rounded down to 16 bytes, and is followed by a canary where
 * that leaves room: a kernel that reads or writes far beyond its arguments is killed, one that writes
 * a little beyond makes the program end with 3.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct { int32_t device_type, device_id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DataType;
typedef struct {
  void *data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;
typedef struct { int32_t type_index; uint32_t padding; void *value; } Any;
typedef int (*Packed)(void *, const Any *, int32_t, Any *);

extern const Packed kernel_table[];

enum { TENSOR_POINTER = 7, CPU = 1, CORES = 4, PAGE = 65536, CANARY = 0xC5 };

/* What a kernel object asks of the runtime: messages, scratch memory, and the shares of four cores
 * one after another. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

typedef struct { void *sync_handle; int32_t num_task; } ParallelEnv;
typedef int (*Lambda)(int task, ParallelEnv *env, void *closure);
static int launch(Lambda body, void *closure, int tasks) {
  ParallelEnv env = {0, tasks > 0 ? tasks : CORES};
  for (int task = 0; task < env.num_task; ++task)
    if (body(task, &env, closure)) return -1;
  return 0;
}
static void *allocate(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static int release(int type, int id, void *memory) {
  (void)type, (void)id;
  free(memory);
  return 0;
}
extern int (*__TVMBackendParallelLaunch)(Lambda, void *, int) __attribute__((weak));
extern void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) __attribute__((weak));
extern int (*__TVMBackendFreeWorkspace)(int, int, void *) __attribute__((weak));

static int64_t number(FILE *f) {
  int64_t value;
  if (fread(&value, 8, 1, f) != 1) exit(4);
  return value;
}

static uint64_t canaries(uint64_t bytes) { return -bytes % 16; }

static void *guarded(uint64_t bytes) {
  uint64_t used = bytes + canaries(bytes), mapped = (used + PAGE - 1) / PAGE * PAGE;
  uint8_t *base = mmap(0, mapped + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED || mprotect(base + mapped, PAGE, PROT_NONE)) exit(4);
  memset(base + mapped - canaries(bytes), CANARY, canaries(bytes));
  return base + mapped - used;
}

int main(int argc, char **argv) {
  FILE *in = argc == 3 ? fopen(argv[1], "rb") : 0, *out = in ? fopen(argv[2], "wb") : 0;
  if (!out) return 4;
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = launch;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = allocate;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = release;
  int64_t count = number(in);
  Tensor *tensors = calloc(count, sizeof *tensors);
  uint64_t *bytes = calloc(count, sizeof *bytes);
  for (int64_t i = 0; i < count; ++i) {
    Tensor *t = &tensors[i];
    t->device = (Device){CPU, 0};
    t->dtype.code = number(in), t->dtype.bits = number(in), t->dtype.lanes = 1;
    t->ndim = number(in);
    t->shape = calloc(t->ndim + 1, 8);
    for (int d = 0; d < t->ndim; ++d) t->shape[d] = number(in);
    bytes[i] = number(in);
    t->data = guarded(bytes[i]);
    if (fread(t->data, 1, bytes[i], in) != bytes[i]) return 4;
  }
  for (int64_t calls = number(in); calls > 0; --calls) {
    Packed kernel = kernel_table[number(in)];
    int64_t n = number(in), last = 0;
    Any args[32], result = {0};
    if (n > 32) return 4;
    for (int64_t a = 0; a < n; ++a) args[a] = (Any){TENSOR_POINTER, 0, &tensors[last = number(in)]};
    if (kernel(0, args, n, &result)) return 2;
    fwrite(tensors[last].data, 1, bytes[last], out);
  }
  for (int64_t i = 0; i < count; ++i)
    for (uint64_t c = 0; c < canaries(bytes[i]); ++c)
      if (((uint8_t *)tensors[i].data)[bytes[i] + c] != CANARY) return 3;
  return fclose(out) != 0;
}
