/* What makes events: FATReLU, IMLS, LIF; and ReLU, their dense twin. */
#include "kernels.h"

struct relu {
  const int16_t *x;
  int16_t *y;
  uint32_t n;
  int32_t threshold;
};

void relu(const struct relu *a) {
  const int16_t *x = a->x;
  int16_t *y = a->y;
  const uint32_t n = a->n;
  const int32_t threshold = a->threshold;
  for (uint32_t i = 0; i < n; i++) y[i] = x[i] >= threshold ? x[i] : 0;
}

struct fatrelu {
  const int16_t *x;
  struct event *events;
  uint32_t *count;
  uint32_t n;
  int32_t threshold; /* at least 1 */
};

void fatrelu(const struct fatrelu *a) {
  const int16_t *x = a->x;
  struct event *event = a->events;
  const uint32_t n = a->n;
  const int32_t threshold = a->threshold;
  for (uint32_t i = 0; i < n; i++)
    if (x[i] >= threshold) {
      event->index = (uint16_t)i;
      event->value = x[i];
      event++;
    }
  *a->count = (uint32_t)(event - a->events);
}

void fatrelu_two_sided(const struct fatrelu *a) {
  const int16_t *x = a->x;
  struct event *event = a->events;
  const uint32_t n = a->n;
  const int32_t threshold = a->threshold;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t v = x[i];
    if (v >= threshold || v <= -threshold) {
      event->index = (uint16_t)i;
      event->value = (int16_t)v;
      event++;
    }
  }
  *a->count = (uint32_t)(event - a->events);
}

struct imls {
  const int16_t *x;
  const uint16_t *inverse_alpha; /* 2^10 / alpha, a channel each */
  void *events;
  uint32_t *count;
  uint32_t n, levels;
  uint32_t level; /* of the frame, in units of x; 0: its mean magnitude */
};

static inline uint32_t frame_level(const struct imls *a) {
  uint32_t m = a->level;
  if (!m) {
    for (uint32_t i = 0; i < a->n; i++) {
      const int32_t v = a->x[i];
      m += (uint32_t)(v < 0 ? -v : v);
    }
    m /= a->n;
    if (!m) m = 1;
  }
  return m;
}

/* spike count: floor(x / (alpha m) + 1/2) clipped to 0..levels; the reciprocal of m is taken once */
static inline int32_t spike_count(int32_t x, int32_t inverse_alpha, int32_t reciprocal,
                                  int32_t levels) {
  const int32_t ratio = multiply_high(x * inverse_alpha, reciprocal); /* 2^9 x / (alpha m) */
  const int32_t s = (ratio + 256) >> 9;
  return s > levels ? levels : s;
}

void imls(const struct imls *a) {
  const int16_t *x = a->x;
  const uint16_t *inverse_alpha = a->inverse_alpha;
  const int32_t reciprocal = (int32_t)(0x7fffffffu / frame_level(a)), levels = (int32_t)a->levels;
  const uint32_t n = a->n;
  struct event *event = a->events;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t s = spike_count(x[i], inverse_alpha[i], reciprocal, levels);
    if (s > 0) {
      event->index = (uint16_t)i;
      event->value = (int16_t)s;
      event++;
    }
  }
  *a->count = (uint32_t)(event - (struct event *)a->events);
}

/* the same as binary spikes: an index comes as often as its neuron fires */
void imls_spikes(const struct imls *a) {
  const int16_t *x = a->x;
  const uint16_t *inverse_alpha = a->inverse_alpha;
  const int32_t reciprocal = (int32_t)(0x7fffffffu / frame_level(a)), levels = (int32_t)a->levels;
  const uint32_t n = a->n;
  uint16_t *spike = a->events;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t s = spike_count(x[i], inverse_alpha[i], reciprocal, levels);
    for (int32_t k = 0; k < s; k++) *spike++ = (uint16_t)i;
  }
  *a->count = (uint32_t)(spike - (uint16_t *)a->events);
}

enum { PLANES = 4 };

struct planes {
  const int16_t *x;
  const uint16_t *inverse_alpha;
  uint16_t *lists;   /* [planes][n] */
  uint32_t *lengths; /* [planes] */
  uint32_t n, planes; /* at most PLANES */
  uint32_t levels, level;
};

/* the same as a list for each bit of the counts */
void imls_planes(const struct planes *a) {
  const struct imls all = {a->x, a->inverse_alpha, 0, 0, a->n, a->levels, a->level};
  const int16_t *x = a->x;
  const uint16_t *inverse_alpha = a->inverse_alpha;
  const int32_t reciprocal = (int32_t)(0x7fffffffu / frame_level(&all)), levels = (int32_t)a->levels;
  const uint32_t n = a->n;
  uint16_t *at[PLANES];
  for (uint32_t p = 0; p < PLANES; p++) at[p] = a->lists + p * n;
  for (uint32_t i = 0; i < n; i++) {
    const int32_t s = spike_count(x[i], inverse_alpha[i], reciprocal, levels);
    if (s <= 0) continue;
    UNROLL for (int p = 0; p < PLANES; p++)
      if (s >> p & 1) *at[p]++ = (uint16_t)i;
  }
  for (uint32_t p = 0; p < a->planes; p++) a->lengths[p] = (uint32_t)(at[p] - (a->lists + p * n));
}

struct lif {
  const int16_t *x;
  int16_t *v; /* membrane potentials, read and written back */
  uint16_t *spikes;
  uint32_t *count;
  uint32_t n;
  int32_t threshold;
  uint32_t tau_shift; /* time constant 2^tau_shift, so that no multiplication is needed */
};

static inline void lif_step(const struct lif *a, int soft, int decay_input) {
  const int16_t *x = a->x;
  int16_t *v = a->v;
  uint16_t *spike = a->spikes;
  const int32_t threshold = a->threshold;
  const uint32_t n = a->n, shift = a->tau_shift;
  for (uint32_t i = 0; i < n; i++) {
    int32_t h = v[i];
    h = decay_input ? h + ((x[i] - h) >> shift) : h - (h >> shift) + x[i];
    if (h >= threshold) {
      *spike++ = (uint16_t)i;
      h = soft ? h - threshold : 0;
    }
    v[i] = (int16_t)saturate16(h);
  }
  *a->count = (uint32_t)(spike - a->spikes);
}

void lif_hard(const struct lif *a) { lif_step(a, 0, 1); }
void lif_soft(const struct lif *a) { lif_step(a, 1, 1); }
void lif_hard_full_input(const struct lif *a) { lif_step(a, 0, 0); }
void lif_soft_full_input(const struct lif *a) { lif_step(a, 1, 0); }
