/* Types that the kernels share. int8 weights, int16 activations, int32 accumulators.

   A kernel takes one argument: a struct of pointers and 32-bit numbers, in the order in which
   espnet_spike/simulator/kernels.py names them. Names ending in _unrolled take four steps a turn;
   names ending in _event read only the activations that are not zero; names ending in _spike read
   spikes, whose value is 1, and never multiply. */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

struct event {
  uint16_t index;
  int16_t value;
};

static inline int32_t saturate16(int32_t x) {
  if (x > 32767) return 32767;
  if (x < -32768) return -32768;
  return x;
}

/* the high half of a signed 64-bit product: one instruction */
static inline int32_t multiply_high(int32_t a, int32_t b) {
  return (int32_t)(((int64_t)a * b) >> 32);
}

#endif
