/* Requantisation, tables, gates, norms, the residual sum. */
#include "kernels.h"

struct requantize {
  const int32_t *x;
  int16_t *y;
  uint32_t n;
  int32_t multiplier; /* y = x * multiplier / 2^(32 + shift), rounded */
  uint32_t shift;     /* at least 1 */
};

void requantize(const struct requantize *a) {
  const int32_t *x = a->x;
  int16_t *y = a->y;
  const uint32_t n = a->n, shift = a->shift;
  const int32_t multiplier = a->multiplier, half = 1 << (shift - 1);
  for (uint32_t i = 0; i < n; i++)
    y[i] = (int16_t)saturate16((multiply_high(x[i], multiplier) + half) >> shift);
}

struct requantize_outputs {
  const int32_t *x;
  int16_t *y;
  const int32_t *multiplier; /* of each output */
  uint32_t n, shift;         /* at least 1 */
};

void requantize_outputs(const struct requantize_outputs *a) {
  const int32_t *x = a->x, *multiplier = a->multiplier;
  int16_t *y = a->y;
  const uint32_t n = a->n, shift = a->shift;
  const int32_t round = 1 << (shift - 1);
  for (uint32_t i = 0; i < n; i++)
    y[i] = (int16_t)saturate16((multiply_high(x[i], multiplier[i]) + round) >> shift);
}

struct requantize_units {
  const int32_t *x;
  int16_t *y;
  const int32_t *multiplier; /* of each output */
  const int16_t *offset;
  uint32_t n, shift; /* at least 1 */
  int32_t unit;      /* of the frame, * 2^down */
  uint32_t down;
};

/* and times the unit of the frame, plus the bias */
void requantize_units(const struct requantize_units *a) {
  const int32_t *x = a->x, *multiplier = a->multiplier;
  const int16_t *offset = a->offset;
  int16_t *y = a->y;
  const uint32_t n = a->n, shift = a->shift, down = a->down;
  const int32_t round = 1 << (shift - 1), unit = a->unit;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t v = saturate16((multiply_high(x[i], multiplier[i]) + round) >> shift);
    y[i] = (int16_t)saturate16(((v * unit) >> down) + offset[i]);
  }
}

struct lookup {
  const int16_t *x;
  int16_t *y;
  const int16_t *table; /* 257 values at x = -32768, -32512, ..., 32768 */
  uint32_t n;
};

void lookup(const struct lookup *a) {
  const int16_t *x = a->x, *table = a->table;
  int16_t *y = a->y;
  const uint32_t n = a->n;
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t u = (uint32_t)(x[i] + 32768);
    const int16_t *at = table + (u >> 8);
    y[i] = (int16_t)(at[0] + (((at[1] - at[0]) * (int32_t)(u & 255)) >> 8));
  }
}

struct gate {
  const int16_t *y, *g;
  int16_t *out;
  uint32_t n, shift;
};

void gate(const struct gate *a) {
  const int16_t *y = a->y, *g = a->g;
  int16_t *out = a->out;
  const uint32_t n = a->n, shift = a->shift;
  for (uint32_t i = 0; i < n; i++) out[i] = (int16_t)saturate16((y[i] * g[i]) >> shift);
}

struct gate_event {
  const int16_t *y;
  const struct event *g;
  struct event *out;
  uint32_t *out_count;
  uint32_t count, shift;
  int32_t threshold; /* FATReLU on the product; at least 1 */
};

void gate_event(const struct gate_event *a) {
  const int16_t *y = a->y;
  const struct event *g = a->g, *end = g + a->count;
  struct event *out = a->out;
  const uint32_t shift = a->shift;
  const int32_t threshold = a->threshold;
  for (; g < end; g++) {
    const int32_t product = saturate16((y[g->index] * g->value) >> shift);
    if (product >= threshold) {
      out->index = g->index;
      out->value = (int16_t)product;
      out++;
    }
  }
  *a->out_count = (uint32_t)(out - a->out);
}

struct scale_events {
  struct event *events;
  uint32_t count;
  int32_t unit; /* of the frame */
};

void scale_events(const struct scale_events *a) {
  const int32_t unit = a->unit;
  for (struct event *e = a->events, *end = e + a->count; e < end; e++)
    e->value = (int16_t)(e->value * unit);
}

struct gate_spike {
  const uint16_t *a, *b; /* ascending */
  uint16_t *out;
  uint32_t *out_count;
  uint32_t count_a, count_b;
};

void gate_spike(const struct gate_spike *args) {
  const uint16_t *a = args->a, *b = args->b;
  const uint16_t *end_a = a + args->count_a, *end_b = b + args->count_b;
  uint16_t *out = args->out;
  while (a < end_a && b < end_b) {
    if (*a < *b) {
      a++;
    } else if (*b < *a) {
      b++;
    } else {
      *out++ = *a++;
      b++;
    }
  }
  *args->out_count = (uint32_t)(out - args->out);
}

struct add {
  int16_t *x;
  const int16_t *y;
  uint32_t n;
};

void add(const struct add *a) {
  int16_t *x = a->x;
  const int16_t *y = a->y;
  const uint32_t n = a->n;
  for (uint32_t i = 0; i < n; i++) x[i] = (int16_t)saturate16(x[i] + y[i]);
}

struct affine {
  const int16_t *x, *scale, *offset;
  int16_t *y; /* x * scale / 2^shift + offset, a channel each */
  uint32_t n, shift;
};

void affine(const struct affine *a) {
  const int16_t *x = a->x, *scale = a->scale, *offset = a->offset;
  int16_t *y = a->y;
  const uint32_t n = a->n, shift = a->shift;
  for (uint32_t i = 0; i < n; i++)
    y[i] = (int16_t)saturate16(((x[i] * scale[i]) >> shift) + offset[i]);
}

static inline uint32_t square_root(uint32_t x) {
  uint32_t root = 0;
  for (uint32_t bit = 1u << 30; bit; bit >>= 2) {
    if (x >= root + bit) {
      x -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
  }
  return root;
}

/* 2^29 / sqrt(sum / n) as inverse / 2^exponent, inverse about 2^15 */
static inline int32_t inverse_root(uint64_t sum, uint32_t n, int32_t *exponent) {
  int32_t e = 0;
  while (sum >> 31) {
    sum >>= 2;
    e++;
  }
  uint32_t mean = (uint32_t)sum / n;
  if (!mean) mean = 1;
  while (mean < (1u << 28)) {
    mean <<= 2;
    e--;
  }
  *exponent = e;
  return (int32_t)((1u << 29) / square_root(mean));
}

struct norm {
  const int16_t *x, *weight, *bias;
  int16_t *y; /* normalised x, in units of 2^-10, * weight / 2^shift + bias */
  uint32_t n, shift;
};

void rmsnorm(const struct norm *a) {
  const int16_t *x = a->x, *weight = a->weight;
  int16_t *y = a->y;
  const uint32_t n = a->n, shift = a->shift;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < n; i++) sum += (uint32_t)(x[i] * x[i]);
  int32_t exponent;
  const int32_t inverse = inverse_root(sum, n, &exponent), down = 19 + exponent;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t v = saturate16((x[i] * inverse) >> down);
    y[i] = (int16_t)saturate16((v * weight[i]) >> shift);
  }
}

void layernorm(const struct norm *a) {
  const int16_t *x = a->x, *weight = a->weight, *bias = a->bias;
  int16_t *y = a->y;
  const uint32_t n = a->n, shift = a->shift;
  int32_t total = 0;
  for (uint32_t i = 0; i < n; i++) total += x[i];
  const int32_t mean = total / (int32_t)n;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t d = saturate16(x[i] - mean);
    sum += (uint32_t)(d * d);
  }
  int32_t exponent;
  const int32_t inverse = inverse_root(sum, n, &exponent), down = 19 + exponent;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t v = saturate16((saturate16(x[i] - mean) * inverse) >> down);
    y[i] = (int16_t)saturate16(((v * weight[i]) >> shift) + bias[i]);
  }
}
