/* Types that the kernels share. int8 weights, int16 activations, int32 accumulators.

   A kernel takes one argument: a struct of pointers and 32-bit numbers, in the order in which
   espnet_spike/simulator/kernels.py names them. Names ending in _unrolled take four steps a turn,
   names ending in _blocked keep several outputs in registers; kernels of _event read only the
   activations that are not zero, kernels of _spike read spikes, whose value is 1, and never
   multiply. */
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

static inline uint32_t at_most(uint32_t limit, uint32_t x) { return x < limit ? x : limit; }

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

/* The _blocked kernels: sixteen outputs in registers, so that an activation is loaded once for all of
   them and no accumulator passes through memory. Weights are packed, sixteen outputs of one input
   side by side and four to a word, as bytes u = w + 128; outputs that are left over come four at a
   time behind them. A word is not taken apart: with q the word, the sums of q x, (q >> 8) x,
   (q >> 16) x and (q >> 24) x over the inputs, modulo 2^32, are

     t0 = sum(u0 x) + 2^8 t1,  t1 = sum(u1 x) + 2^8 t2,  t2 = sum(u2 x) + 2^8 t3,  t3 = sum(u3 x)

   so one load and three shifts give four weights, and the bytes are separated once at the end. */
enum { BLOCK = 16, WORD = 4 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
/* words are loaded one after the other: all at once, they would push the sums out of the registers */
#define ONE_BY_ONE __asm__ volatile("" ::: "memory")

/* n words of weights times one activation */
INLINE void add_products(uint32_t *t, const uint32_t *w, int n, uint32_t x) {
  UNROLL for (int k = 0; k < n; k++) {
    ONE_BY_ONE;
    const uint32_t q = w[k];
    t[4 * k] += q * x;
    t[4 * k + 1] += (q >> 8) * x;
    t[4 * k + 2] += (q >> 16) * x;
    t[4 * k + 3] += (q >> 24) * x;
  }
}

/* n words an input, `inputs` activations; returns the weights of the next block */
INLINE const uint32_t *dot_packed(uint32_t *t, const uint32_t *w, int n, const int16_t *x,
                                  uint32_t inputs) {
  const int16_t *end = x + (inputs & ~1u);
  for (; x < end; x += 2, w += 2 * n) {
    add_products(t, w, n, (uint32_t)x[0]);
    add_products(t, w + n, n, (uint32_t)x[1]);
  }
  if (inputs & 1) {
    add_products(t, w, n, (uint32_t)x[0]);
    w += n;
  }
  return w;
}

/* the same for the activations that are not zero; w is where the row of index 0 starts */
INLINE void dot_events(uint32_t *t, const uint32_t *w, int n, const struct event *e,
                       const struct event *end) {
  for (; e < end; e++) add_products(t, w + e->index * n, n, (uint32_t)e->value);
}

/* y = bias + the sums of bytes, less 128 * the sum of all activations */
INLINE void unpack(int32_t *y, const int32_t *bias, const uint32_t *t, int n, uint32_t total) {
  UNROLL for (int k = 0; k < n; k++) {
    const uint32_t high = (k & 3) == 3 ? 0 : t[k + 1] << 8;
    y[k] = (int32_t)((uint32_t)bias[k] + t[k] - high - 128 * total);
  }
}

INLINE void unpack_some(int32_t *y, const int32_t *bias, const uint32_t *t, uint32_t n,
                        uint32_t total) {
  int32_t four[WORD], start[WORD] = {0};
  for (uint32_t k = 0; k < n; k++) start[k] = bias[k];
  unpack(four, start, t, WORD, total);
  for (uint32_t k = 0; k < n; k++) y[k] = four[k];
}

/* Spikes only add, 2^plane times in a bit plane of counts. The bytes of a word are summed in 16 bits each, the odd ones apart; the even ones
   are what remains of the sum of whole words. That holds for 256 spikes; then they are added to y. */
enum { SPIKES_A_TURN = 256 };

INLINE void add_rows(uint32_t *all, uint32_t *odd, const uint32_t *w, int n, const uint16_t *spike,
                     const uint16_t *end) {
  for (; spike < end; spike++) {
    const uint32_t *row = w + *spike * n;
    UNROLL for (int k = 0; k < n; k++) {
      ONE_BY_ONE;
      const uint32_t q = row[k];
      all[k] += q;
      odd[k] += (q >> 8) & 0xff00ff;
    }
  }
}

INLINE void add_sums(int32_t *y, uint32_t outputs, const uint32_t *all, const uint32_t *odd, int n,
                     uint32_t plane) {
  UNROLL for (int k = 0; k < n; k++) {
    const uint32_t even = all[k] - (odd[k] << 8);
    const uint32_t sums[4] = {even & 0xffff, odd[k] & 0xffff, even >> 16, odd[k] >> 16};
    UNROLL for (uint32_t j = 0; j < 4; j++)
      if (4 * (uint32_t)k + j < outputs) y[4 * k + j] += (int32_t)(sums[j] << plane);
  }
}

INLINE void add_spikes(int32_t *y, uint32_t outputs, const uint32_t *w, int n,
                       const uint16_t *spike, const uint16_t *end, uint32_t plane) {
  while (spike < end) {
    const uint16_t *stop = end - spike > SPIKES_A_TURN ? spike + SPIKES_A_TURN : end;
    uint32_t all[BLOCK / 4], odd[BLOCK / 4];
    UNROLL for (int k = 0; k < n; k++) all[k] = odd[k] = 0;
    add_rows(all, odd, w, n, spike, stop);
    add_sums(y, outputs, all, odd, n, plane);
    spike = stop;
  }
}

#endif
