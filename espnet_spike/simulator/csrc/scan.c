/* One frame of the selective scan: h = exp(delta A) h + delta B u, y = C h + D u. */
#include "kernels.h"

struct scan {
  const int16_t *u, *delta;       /* [channels]; delta is not negative */
  const uint16_t *a;              /* [channels][states]: -A */
  const int16_t *b, *c;           /* [states] */
  const int32_t *d;               /* [channels] */
  const uint16_t *table;          /* 257 values 32767 exp(-i / 16) */
  int32_t *h;                     /* [channels][states] */
  int32_t *y;                     /* [channels] */
  uint32_t channels, states;
  uint32_t input_shift, state_shift; /* delta u / 2^input_shift; that times b / 2^state_shift */
  uint32_t fade_shift;               /* delta a / 2^fade_shift is in units of 2^-20 */
};

/* 2^16 exp(-delta a) with delta a in units of 2^-20 */
static inline int32_t fade(const uint16_t *table, uint32_t z) {
  if (z >> 24) return 0;
  const uint16_t *at = table + (z >> 16);
  return (at[0] - (((at[0] - at[1]) * (int32_t)((z >> 8) & 255)) >> 8)) << 16;
}

void scan_dense(const struct scan *s) {
  const uint16_t *a = s->a;
  int32_t *h = s->h;
  const uint32_t states = s->states;
  for (uint32_t ch = 0; ch < s->channels; ch++) {
    const int32_t u = s->u[ch], delta = s->delta[ch];
    const int32_t input = (delta * u) >> s->input_shift;
    int32_t y = s->d[ch] * u;
    for (uint32_t n = 0; n < states; n++, h++) {
      const int32_t faded = multiply_high(*h, fade(s->table, ((uint32_t)delta * *a++) >> s->fade_shift)) * 2;
      *h = faded + ((input * s->b[n]) >> s->state_shift);
      y += multiply_high(*h, s->c[n] << 16);
    }
    s->y[ch] = y;
  }
}

struct scan_event {
  struct scan s; /* b and c are not read */
  const struct event *b, *c;
  uint32_t count_b, count_c;
};

/* an input of 0 and states that B or C leave out cost nothing but their decay */
void scan_event(const struct scan_event *e) {
  const struct scan *s = &e->s;
  const uint16_t *a = s->a;
  int32_t *h = s->h;
  const uint32_t states = s->states;
  const struct event *end_b = e->b + e->count_b, *end_c = e->c + e->count_c;
  for (uint32_t ch = 0; ch < s->channels; ch++, h += states) {
    const int32_t u = s->u[ch], delta = s->delta[ch];
    int32_t y = 0;
    for (uint32_t n = 0; n < states; n++)
      h[n] = multiply_high(h[n], fade(s->table, ((uint32_t)delta * *a++) >> s->fade_shift)) * 2;
    if (u) {
      const int32_t input = (delta * u) >> s->input_shift;
      for (const struct event *b = e->b; b < end_b; b++)
        h[b->index] += (input * b->value) >> s->state_shift;
      y = s->d[ch] * u;
    }
    for (const struct event *c = e->c; c < end_c; c++)
      y += multiply_high(h[c->index], c->value << 16);
    s->y[ch] = y;
  }
}
