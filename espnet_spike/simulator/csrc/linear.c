/* y = W x + bias. Dense kernels read W row by row, event kernels column by column. */
#include "kernels.h"

struct linear {
  const int8_t *w; /* [outputs][inputs] */
  const int16_t *x;
  const int32_t *bias;
  int32_t *y;
  uint32_t inputs, outputs;
};

void linear_dense(const struct linear *a) {
  const int8_t *w = a->w;
  const int32_t *bias = a->bias;
  int32_t *y = a->y;
  const uint32_t inputs = a->inputs, outputs = a->outputs;
  for (uint32_t o = 0; o < outputs; o++) {
    const int16_t *x = a->x;
    int32_t sum = bias[o];
    for (uint32_t i = 0; i < inputs; i++) sum += w[i] * x[i];
    w += inputs;
    y[o] = sum;
  }
}

void linear_dense_unrolled(const struct linear *a) {
  const int8_t *w = a->w;
  const int32_t *bias = a->bias;
  int32_t *y = a->y;
  const uint32_t inputs = a->inputs, outputs = a->outputs;
  for (uint32_t o = 0; o < outputs; o++) {
    const int16_t *x = a->x;
    int32_t sum = bias[o];
    uint32_t i = inputs;
    DOT_UNROLLED(sum, w, x, i);
    y[o] = sum;
  }
}

struct linear_blocked {
  const uint32_t *w; /* packed, see kernels.h */
  const int16_t *x;
  const int32_t *bias;
  int32_t *y;
  uint32_t inputs, outputs;
};

void linear_dense_blocked(const struct linear_blocked *a) {
  const uint32_t inputs = a->inputs, outputs = a->outputs;
  const int16_t *x = a->x;
  const uint32_t *w = a->w;
  uint32_t total = 0, o = 0;
  for (uint32_t i = 0; i < inputs; i++) total += (uint32_t)x[i];
  for (; o + BLOCK <= outputs; o += BLOCK) {
    uint32_t t[BLOCK] = {0};
    w = dot_packed(t, w, BLOCK / 4, x, inputs);
    unpack(a->y + o, a->bias + o, t, BLOCK, total);
  }
  for (; o < outputs; o += WORD) {
    uint32_t t[WORD] = {0};
    w = dot_packed(t, w, 1, x, inputs);
    unpack_some(a->y + o, a->bias + o, t, at_most(WORD, outputs - o), total);
  }
}

/* dense, with a test for zero before each product */
void linear_skip(const struct linear *a) {
  const int8_t *w = a->w;
  const int32_t *bias = a->bias;
  int32_t *y = a->y;
  const uint32_t inputs = a->inputs, outputs = a->outputs;
  for (uint32_t o = 0; o < outputs; o++) {
    const int16_t *x = a->x;
    int32_t sum = bias[o];
    for (uint32_t i = 0; i < inputs; i++)
      if (x[i]) sum += w[i] * x[i];
    w += inputs;
    y[o] = sum;
  }
}

struct linear_event {
  const int8_t *w; /* [inputs][outputs] */
  const struct event *events;
  const int32_t *bias;
  int32_t *y;
  uint32_t count, outputs;
};

static inline void copy(int32_t *y, const int32_t *bias, uint32_t n) {
  for (uint32_t o = 0; o < n; o++) y[o] = bias[o];
}

void linear_event(const struct linear_event *a) {
  const struct event *event = a->events, *end = event + a->count;
  const uint32_t outputs = a->outputs;
  int32_t *y = a->y;
  copy(y, a->bias, outputs);
  for (; event < end; event++) {
    const int8_t *w = a->w + event->index * outputs;
    const int32_t value = event->value;
    for (uint32_t o = 0; o < outputs; o++) y[o] += w[o] * value;
  }
}

void linear_event_unrolled(const struct linear_event *a) {
  const struct event *event = a->events, *end = event + a->count;
  const uint32_t outputs = a->outputs;
  copy(a->y, a->bias, outputs);
  for (; event < end; event++) {
    const int8_t *w = a->w + event->index * outputs;
    const int32_t value = event->value;
    int32_t *y = a->y;
    uint32_t o = outputs;
    ADD_SCALED_UNROLLED(y, w, value, o);
  }
}

struct linear_event_blocked {
  const uint32_t *w; /* packed */
  const struct event *events;
  const int32_t *bias;
  int32_t *y;
  uint32_t count, inputs, outputs;
};

void linear_event_blocked(const struct linear_event_blocked *a) {
  const uint32_t inputs = a->inputs, outputs = a->outputs;
  const struct event *events = a->events, *end = events + a->count;
  const uint32_t *w = a->w;
  uint32_t total = 0, o = 0;
  for (const struct event *e = events; e < end; e++) total += (uint32_t)e->value;
  for (; o + BLOCK <= outputs; o += BLOCK, w += inputs * (BLOCK / 4)) {
    uint32_t t[BLOCK] = {0};
    dot_events(t, w, BLOCK / 4, events, end);
    unpack(a->y + o, a->bias + o, t, BLOCK, total);
  }
  for (; o < outputs; o += WORD, w += inputs) {
    uint32_t t[WORD] = {0};
    dot_events(t, w, 1, events, end);
    unpack_some(a->y + o, a->bias + o, t, at_most(WORD, outputs - o), total);
  }
}

struct linear_spike {
  const int8_t *w;        /* [inputs][outputs] */
  const uint32_t *rows;   /* where the row of an input starts: no product for the address */
  const uint16_t *spikes; /* indices; one that comes n times adds its row n times */
  const int32_t *bias;
  int32_t *y;
  uint32_t count, outputs;
};

void linear_spike(const struct linear_spike *a) {
  const uint16_t *spike = a->spikes, *end = spike + a->count;
  const uint32_t *rows = a->rows;
  const uint32_t outputs = a->outputs;
  int32_t *y = a->y;
  copy(y, a->bias, outputs);
  for (; spike < end; spike++) {
    const int8_t *w = a->w + rows[*spike];
    for (uint32_t o = 0; o < outputs; o++) y[o] += w[o];
  }
}

void linear_spike_unrolled(const struct linear_spike *a) {
  const uint16_t *spike = a->spikes, *end = spike + a->count;
  const uint32_t *rows = a->rows;
  const uint32_t outputs = a->outputs;
  copy(a->y, a->bias, outputs);
  for (; spike < end; spike++) {
    const int8_t *w = a->w + rows[*spike];
    int32_t *y = a->y;
    uint32_t o = outputs;
    ADD_UNROLLED(y, w, o);
  }
}

struct linear_spike_blocked {
  const uint32_t *w; /* packed */
  const uint16_t *spikes;
  const int32_t *bias;
  int32_t *y;
  uint32_t count, inputs, outputs;
};

void linear_spike_blocked(const struct linear_spike_blocked *a) {
  const uint32_t inputs = a->inputs, outputs = a->outputs;
  const uint16_t *spikes = a->spikes, *end = spikes + a->count;
  const uint32_t *w = a->w;
  const int32_t total = (int32_t)(a->count << 7);
  uint32_t o = 0;
  for (; o < outputs; o++) a->y[o] = a->bias[o] - total;
  for (o = 0; o + BLOCK <= outputs; o += BLOCK, w += inputs * (BLOCK / 4))
    add_spikes(a->y + o, BLOCK, w, BLOCK / 4, spikes, end, 0);
  for (; o < outputs; o += WORD, w += inputs)
    add_spikes(a->y + o, at_most(WORD, outputs - o), w, 1, spikes, end, 0);
}

struct linear_planes {
  const uint32_t *w;       /* packed */
  const uint16_t *lists;   /* [planes][inputs]: inputs whose counts have that bit */
  const uint32_t *lengths; /* [planes] */
  const int32_t *bias;
  int32_t *y;
  uint32_t planes, inputs, outputs;
};

/* Counts of spikes by their bits: what has the same bit is only added. The highest comes first, and
   the sums are doubled before the next. More spikes than 16 bits hold go plane by plane. */
INLINE void add_planes(int32_t *y, uint32_t outputs, const struct linear_planes *a, const uint32_t *w,
                       int n, int few) {
  const uint16_t *list = a->lists + a->planes * a->inputs;
  if (!few) {
    for (uint32_t p = a->planes; p--;) {
      list -= a->inputs;
      add_spikes(y, outputs, w, n, list, list + a->lengths[p], p);
    }
    return;
  }
  uint32_t all[BLOCK / 4], odd[BLOCK / 4];
  UNROLL for (int k = 0; k < n; k++) all[k] = odd[k] = 0;
  for (uint32_t p = a->planes; p--;) {
    UNROLL for (int k = 0; k < n; k++) {
      all[k] <<= 1;
      odd[k] <<= 1;
    }
    list -= a->inputs;
    add_rows(all, odd, w, n, list, list + a->lengths[p]);
  }
  add_sums(y, outputs, all, odd, n, 0);
}

void linear_planes_blocked(const struct linear_planes *a) {
  const uint32_t inputs = a->inputs, outputs = a->outputs;
  const uint32_t *w = a->w;
  uint32_t total = 0, o = 0;
  for (uint32_t p = 0; p < a->planes; p++) total += a->lengths[p] << p;
  const int few = total <= SPIKES_A_TURN;
  total <<= 7;
  for (; o < outputs; o++) a->y[o] = a->bias[o] - (int32_t)total;
  for (o = 0; o + BLOCK <= outputs; o += BLOCK, w += inputs * (BLOCK / 4))
    add_planes(a->y + o, BLOCK, a, w, BLOCK / 4, few);
  for (; o < outputs; o += WORD, w += inputs)
    add_planes(a->y + o, at_most(WORD, outputs - o), a, w, 1, few);
}
