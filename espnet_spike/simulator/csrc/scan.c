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

struct cell {
  int32_t h;
  uint32_t a; /* -A */
};

struct blend {
  int32_t b, c; /* of a state; 2^16 c */
};

/* Two channels at once: B and C are loaded once for both. */
struct scan_blocked {
  const int16_t *u, *delta; /* [channels]; delta is not negative */
  struct cell *cells;       /* [channels][states] */
  const struct blend *blend; /* [states] */
  const int32_t *d;         /* [channels] */
  const uint32_t *table;    /* 1024 values 2^32 exp(-i / 64) */
  int32_t *y;               /* [channels] */
  uint32_t channels, states;
  uint32_t input_shift, state_shift; /* delta u / 2^input_shift; that times b / 2^state_shift */
  uint32_t fade_shift; /* delta a / 2^fade_shift counts 64ths, at least 2 */
  uint32_t limit;      /* 2^fade_shift * 1024: from there on nothing is left */
};

/* h exp(-delta a): the table's value and the tangent there, exp(-z - r) = exp(-z) (1 - r) */
INLINE int32_t faded(const struct cell *cell, uint32_t delta, const struct scan_blocked *s) {
  const uint32_t z = delta * cell->a;
  if (z >= s->limit) return 0;
  const char *table = (const char *)s->table;
  const uint32_t e = *(const uint32_t *)(table + ((z >> (s->fade_shift - 2)) & ~3u));
  const uint32_t less = (uint32_t)(((uint64_t)e * (z << (32 - s->fade_shift))) >> 32) >> 6;
  return (int32_t)(((int64_t)cell->h * (uint64_t)(e - less)) >> 32);
}

/* n channels; `driven` unless their inputs are 0; `sparse`: B and C are tested for zeros */
INLINE void scan_rows(const struct scan_blocked *all, int n, const uint32_t *channel, int driven,
                      int sparse) {
  const struct scan_blocked s = *all; /* a copy that cannot be written through h: stays in registers */
  struct cell *cell[2];
  uint32_t delta[2];
  int32_t input[2], y[2];
  UNROLL for (int k = 0; k < n; k++) {
    const int32_t u = s.u[channel[k]];
    cell[k] = s.cells + channel[k] * s.states;
    delta[k] = (uint32_t)s.delta[channel[k]];
    input[k] = ((int32_t)delta[k] * u) >> s.input_shift;
    y[k] = driven ? s.d[channel[k]] * u : 0;
  }
  for (const struct blend *at = s.blend, *end = at + s.states; at < end; at++) {
    const int32_t b = driven ? at->b : 0, c = at->c;
    int32_t h[2];
    UNROLL for (int k = 0; k < n; k++) {
      h[k] = faded(cell[k], delta[k], &s);
      if (driven && !sparse) h[k] += (input[k] * b) >> s.state_shift;
      if (!sparse) {
        cell[k]->h = h[k];
        cell[k]++;
        y[k] += multiply_high(h[k], c);
        ONE_BY_ONE;
      }
    }
    if (!sparse) continue;
    if (driven && b) UNROLL for (int k = 0; k < n; k++) h[k] += (input[k] * b) >> s.state_shift;
    UNROLL for (int k = 0; k < n; k++) {
      cell[k]->h = h[k];
      cell[k]++;
    }
    if (c) UNROLL for (int k = 0; k < n; k++) y[k] += multiply_high(h[k], c);
  }
  UNROLL for (int k = 0; k < n; k++) s.y[channel[k]] = y[k];
}

void scan_dense_blocked(const struct scan_blocked *s) {
  uint32_t ch = 0;
  for (; ch + 2 <= s->channels; ch += 2) {
    const uint32_t pair[2] = {ch, ch + 1};
    scan_rows(s, 2, pair, 1, 0);
  }
  if (ch < s->channels) scan_rows(s, 1, &ch, 1, 0);
}

/* channels with an input first, then those without: these need no B */
void scan_event_blocked(const struct scan_blocked *s) {
  const uint32_t none = s->channels;
  uint32_t held = none;
  for (int with = 1; with >= 0; with--)
    for (uint32_t ch = 0; ch < s->channels; ch++) {
      if ((s->u[ch] != 0) != with) continue;
      if (held == none) {
        held = ch;
        continue;
      }
      const uint32_t pair[2] = {held, ch};
      if (s->u[held])
        scan_rows(s, 2, pair, 1, 1);
      else
        scan_rows(s, 2, pair, 0, 1);
      held = none;
    }
  if (held != none) scan_rows(s, 1, &held, 1, 1);
}
