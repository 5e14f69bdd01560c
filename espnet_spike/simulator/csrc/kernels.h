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

/* The loops of the _unrolled kernels: `left` elements, four a turn, over pointers that move on. They
   are macros so that a kernel is compiled as if it were written out; its cycles are measured. */
#define DOT_UNROLLED(sum, a, b, left)            \
  for (; left >= 4; left -= 4, a += 4, b += 4) { \
    sum += a[0] * b[0];                          \
    sum += a[1] * b[1];                          \
    sum += a[2] * b[2];                          \
    sum += a[3] * b[3];                          \
  }                                              \
  for (; left; left--) sum += *a++ * *b++

#define ADD_SCALED_UNROLLED(y, w, value, left)   \
  for (; left >= 4; left -= 4, w += 4, y += 4) { \
    y[0] += w[0] * value;                        \
    y[1] += w[1] * value;                        \
    y[2] += w[2] * value;                        \
    y[3] += w[3] * value;                        \
  }                                              \
  for (; left; left--) *y++ += *w++ * value

#define ADD_UNROLLED(y, w, left)                 \
  for (; left >= 4; left -= 4, w += 4, y += 4) { \
    y[0] += w[0];                                \
    y[1] += w[1];                                \
    y[2] += w[2];                                \
    y[3] += w[3];                                \
  }                                              \
  for (; left; left--) *y++ += *w++

#endif
