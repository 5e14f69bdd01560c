/* Runs the calls of an image and leaves the counters of each beside it. */
#include <stdint.h>

enum { COUNTERS = 15, MAGIC = 0x49424558 };

struct call {
  void (*kernel)(const void *args);
  const void *args;
};

struct image {
  uint32_t magic;
  uint32_t calls;
  uint32_t (*results)[COUNTERS];
  struct call call[];
};

#define IMAGE ((const struct image *)0x80200000)

/* cycles are read last before and first after, instructions next to them */
#define READ(index, csr)                                        \
  {                                                             \
    uint32_t value;                                             \
    asm volatile("csrr %0, " #csr : "=r"(value) : : "memory");  \
    counters[index] = value;                                    \
  }

/* what the memory around the core counts: accesses of weights and of state, words fetched */
#define MEMORY ((volatile const uint32_t *)0x10000010)

static __attribute__((noinline)) void read_counters(uint32_t counters[COUNTERS]) {
  for (int i = 0; i < 3; i++) counters[12 + i] = MEMORY[i];
  READ(2, 0xb03)  /* cycles waiting for loads and stores */
  READ(3, 0xb04)  /* cycles waiting for instructions */
  READ(4, 0xb05)  /* loads */
  READ(5, 0xb06)  /* stores */
  READ(6, 0xb07)  /* jumps */
  READ(7, 0xb08)  /* branches */
  READ(8, 0xb09)  /* branches taken */
  READ(9, 0xb0a)  /* compressed instructions */
  READ(10, 0xb0b) /* cycles waiting for the multiplier */
  READ(11, 0xb0c) /* cycles waiting for the divider */
  READ(1, 0xb02)  /* instructions */
  READ(0, 0xb00)  /* cycles */
}

__attribute__((noinline)) void nothing(const void *args) { asm volatile("" : : "r"(args)); }

static __attribute__((noinline)) void measure(const struct call *call, const uint32_t overhead[],
                                              uint32_t result[COUNTERS]) {
  uint32_t before[COUNTERS], after[COUNTERS];
  read_counters(before);
  call->kernel(call->args);
  read_counters(after);
  for (int i = 0; i < COUNTERS; i++) result[i] = after[i] - before[i] - overhead[i];
}

int main(void) {
  static const uint32_t zero[COUNTERS];
  uint32_t overhead[COUNTERS];
  const struct call empty = {nothing, 0};
  if (IMAGE->magic != MAGIC) return 2;
  measure(&empty, zero, overhead);
  for (uint32_t i = 0; i < IMAGE->calls; i++)
    measure(&IMAGE->call[i], overhead, IMAGE->results[i]);
  return 0;
}
