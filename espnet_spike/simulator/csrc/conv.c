/* One output frame of a 2-D convolution over time and frequency bins, and of a depthwise
   convolution over time. Inputs are padded by the caller. */
#include "kernels.h"

struct conv_dense {
  const int8_t *w;  /* [outputs][taps][span], span = frequency taps * input channels */
  const int16_t *x; /* [taps][row], row = padded bins * input channels */
  const int32_t *bias;
  int32_t *y; /* [positions][outputs] */
  uint32_t taps, span, row, step, positions, outputs;
};

void conv_dense(const struct conv_dense *a) {
  const uint32_t taps = a->taps, span = a->span, row = a->row, outputs = a->outputs;
  const int32_t *bias = a->bias;
  const int16_t *start = a->x;
  int32_t *y = a->y;
  for (uint32_t p = 0; p < a->positions; p++, start += a->step) {
    const int8_t *w = a->w;
    for (uint32_t o = 0; o < outputs; o++) {
      const int16_t *x = start;
      int32_t sum = bias[o];
      for (uint32_t t = 0; t < taps; t++, x += row, w += span)
        for (uint32_t k = 0; k < span; k++) sum += w[k] * x[k];
      *y++ = sum;
    }
  }
}

void conv_dense_unrolled(const struct conv_dense *a) {
  const uint32_t taps = a->taps, span = a->span, row = a->row, outputs = a->outputs;
  const int32_t *bias = a->bias;
  const int16_t *start = a->x;
  int32_t *y = a->y;
  for (uint32_t p = 0; p < a->positions; p++, start += a->step) {
    const int8_t *w = a->w;
    for (uint32_t o = 0; o < outputs; o++) {
      const int16_t *line = start;
      int32_t sum = bias[o];
      for (uint32_t t = 0; t < taps; t++, line += row) {
        const int16_t *x = line;
        uint32_t k = span;
        DOT_UNROLLED(sum, w, x, k);
      }
      *y++ = sum;
    }
  }
}

struct conv_blocked {
  const uint32_t *w; /* packed, see kernels.h; inputs are [taps][span] */
  const int16_t *x;  /* [taps][row] */
  const int32_t *bias;
  int32_t *y; /* [positions][outputs] */
  uint32_t taps, span, row, step, positions, outputs;
};

void conv_dense_blocked(const struct conv_blocked *a) {
  const uint32_t taps = a->taps, span = a->span, row = a->row, outputs = a->outputs;
  const int16_t *start = a->x;
  int32_t *y = a->y;
  for (uint32_t p = 0; p < a->positions; p++, start += a->step, y += outputs) {
    const uint32_t *w = a->w;
    const int16_t *x = start;
    uint32_t total = 0, o = 0;
    for (uint32_t t = 0; t < taps; t++, x += row)
      for (uint32_t k = 0; k < span; k++) total += (uint32_t)x[k];
    for (; o + BLOCK <= outputs; o += BLOCK) {
      uint32_t sums[BLOCK] = {0};
      x = start;
      for (uint32_t t = 0; t < taps; t++, x += row) w = dot_packed(sums, w, BLOCK / 4, x, span);
      unpack(y + o, a->bias + o, sums, BLOCK, total);
    }
    for (; o < outputs; o += WORD) {
      uint32_t sums[WORD] = {0};
      x = start;
      for (uint32_t t = 0; t < taps; t++, x += row) w = dot_packed(sums, w, 1, x, span);
      unpack_some(y + o, a->bias + o, sums, at_most(WORD, outputs - o), total);
    }
  }
}

struct conv_event_source {
  uint16_t source; /* time tap * input channels + channel */
  uint16_t bin;
  int16_t value;
  int16_t unused;
};

enum { MAX_TAPS = 8, NOWHERE = 0xffff };

struct conv_event {
  const int8_t *w;        /* [taps][frequency taps][input channels][outputs] */
  const uint32_t *rows;   /* source -> where its weights of the first frequency tap start */
  const uint16_t *target; /* [bins][MAX_TAPS]: position * outputs that a bin reaches, or NOWHERE */
  const struct conv_event_source *events;
  const int32_t *bias; /* [outputs] */
  int32_t *y;          /* [positions][outputs] */
  uint32_t count, width, tap, positions, outputs; /* frequency taps, weights from tap to tap */
};

struct conv_list {
  const void *events;     /* of one tap after the other, ascending; index = bin * channels + channel */
  const uint32_t *starts; /* [taps + 1]: the events of each tap */
  struct conv_event_source *list;
  uint32_t taps, channels;
};

/* the events that conv_event reads, from those that the neurons made of each frame */
void conv_list(const struct conv_list *a) {
  struct conv_event_source *out = a->list;
  const uint32_t channels = a->channels;
  uint32_t first = 0;
  for (uint32_t t = 0; t < a->taps; t++, first += channels) {
    const struct event *e = a->events, *end = e + a->starts[t + 1];
    uint32_t bin = 0, before = 0;
    for (e += a->starts[t]; e < end; e++, out++) {
      for (; e->index - before >= channels; before += channels) bin++;
      out->source = (uint16_t)(first + e->index - before);
      out->bin = (uint16_t)bin;
      out->value = e->value;
    }
  }
}

void conv_list_spike(const struct conv_list *a) {
  struct conv_event_source *out = a->list;
  const uint32_t channels = a->channels;
  uint32_t first = 0;
  for (uint32_t t = 0; t < a->taps; t++, first += channels) {
    const uint16_t *e = a->events, *end = e + a->starts[t + 1];
    uint32_t bin = 0, before = 0;
    for (e += a->starts[t]; e < end; e++, out++) {
      for (; *e - before >= channels; before += channels) bin++;
      out->source = (uint16_t)(first + *e - before);
      out->bin = (uint16_t)bin;
    }
  }
}

static inline void spread_bias(const struct conv_event *a) {
  int32_t *y = a->y;
  for (uint32_t p = 0; p < a->positions; p++)
    for (uint32_t o = 0; o < a->outputs; o++) *y++ = a->bias[o];
}

void conv_event(const struct conv_event *a) {
  const struct conv_event_source *event = a->events, *end = event + a->count;
  const uint32_t outputs = a->outputs, width = a->width;
  spread_bias(a);
  for (; event < end; event++) {
    const int8_t *w = a->w + a->rows[event->source];
    const uint16_t *target = a->target + event->bin * MAX_TAPS;
    const int32_t value = event->value;
    for (uint32_t k = 0; k < width; k++, w += a->tap) {
      if (target[k] == NOWHERE) continue;
      int32_t *y = a->y + target[k];
      for (uint32_t o = 0; o < outputs; o++) y[o] += w[o] * value;
    }
  }
}

void conv_event_unrolled(const struct conv_event *a) {
  const struct conv_event_source *event = a->events, *end = event + a->count;
  const uint32_t outputs = a->outputs, width = a->width;
  spread_bias(a);
  for (; event < end; event++) {
    const int8_t *line = a->w + a->rows[event->source];
    const uint16_t *target = a->target + event->bin * MAX_TAPS;
    const int32_t value = event->value;
    for (uint32_t k = 0; k < width; k++, line += a->tap) {
      if (target[k] == NOWHERE) continue;
      const int8_t *w = line;
      int32_t *y = a->y + target[k];
      uint32_t o = outputs;
      ADD_SCALED_UNROLLED(y, w, value, o);
    }
  }
}

/* like conv_event with values of 1; a source that comes n times adds n times */
void conv_spike(const struct conv_event *a) {
  const struct conv_event_source *event = a->events, *end = event + a->count;
  const uint32_t outputs = a->outputs, width = a->width;
  spread_bias(a);
  for (; event < end; event++) {
    const int8_t *w = a->w + a->rows[event->source];
    const uint16_t *target = a->target + event->bin * MAX_TAPS;
    for (uint32_t k = 0; k < width; k++, w += a->tap) {
      if (target[k] == NOWHERE) continue;
      int32_t *y = a->y + target[k];
      for (uint32_t o = 0; o < outputs; o++) y[o] += w[o];
    }
  }
}

void conv_spike_unrolled(const struct conv_event *a) {
  const struct conv_event_source *event = a->events, *end = event + a->count;
  const uint32_t outputs = a->outputs, width = a->width;
  spread_bias(a);
  for (; event < end; event++) {
    const int8_t *line = a->w + a->rows[event->source];
    const uint16_t *target = a->target + event->bin * MAX_TAPS;
    for (uint32_t k = 0; k < width; k++, line += a->tap) {
      if (target[k] == NOWHERE) continue;
      const int8_t *w = line;
      int32_t *y = a->y + target[k];
      uint32_t o = outputs;
      ADD_UNROLLED(y, w, o);
    }
  }
}

struct conv_events_blocked {
  const uint32_t *w;      /* packed; inputs are [taps][span], span = frequency taps * channels */
  const void *events;     /* of one tap after the other, ascending; index = bin * channels + channel */
  const uint32_t *starts; /* [taps + 1]: the events of each tap */
  uint32_t *first;        /* [taps][bins + 1], filled here: the events of each bin */
  const int32_t *bias;
  int32_t *y; /* [positions][outputs] */
  uint32_t taps, bins, channels, width, stride, span, step, inputs, positions, outputs;
};

/* The events that a position reads at one tap lie side by side: note where those of a bin start. */
#define FIND_BINS(a, INDEX)                                             \
  {                                                                     \
    uint32_t *first = a->first;                                         \
    for (uint32_t t = 0; t < a->taps; t++) {                            \
      const uint32_t end = a->starts[t + 1];                            \
      uint32_t e = a->starts[t], limit = 0;                             \
      for (uint32_t b = 0; b <= a->bins; b++, limit += a->channels) {   \
        while (e < end && INDEX(e) < limit) e++;                        \
        *first++ = e;                                                   \
      }                                                                 \
    }                                                                   \
  }

/* `words` of weights past w, less those of the inputs before a position: may lie before the array */
static inline const uint32_t *row_at(const uint32_t *w, uint32_t words) {
  return (const uint32_t *)((uintptr_t)w + words * sizeof *w);
}

INLINE void conv_events(uint32_t *sums, const struct conv_events_blocked *a, const uint32_t *w, int n,
                        const uint32_t *first, uint32_t before) {
  const struct event *events = a->events;
  uint32_t at = -before;
  for (uint32_t t = 0; t < a->taps; t++, first += a->bins + 1, at += a->span)
    dot_events(sums, row_at(w, at * (uint32_t)n), n, events + first[0], events + first[a->width]);
}

void conv_event_blocked(const struct conv_events_blocked *a) {
  const struct event *events = a->events;
  const uint32_t outputs = a->outputs, *first = a->first;
  int32_t *y = a->y;
#define INDEX(e) events[e].index
  FIND_BINS(a, INDEX)
#undef INDEX
  for (uint32_t p = 0, before = 0; p < a->positions; p++, before += a->step) {
    const uint32_t *w = a->w, *from = first;
    uint32_t total = 0, o = 0;
    for (uint32_t t = 0; t < a->taps; t++, from += a->bins + 1)
      for (uint32_t e = from[0]; e < from[a->width]; e++) total += (uint32_t)events[e].value;
    for (; o + BLOCK <= outputs; o += BLOCK, w += a->inputs * (BLOCK / 4)) {
      uint32_t sums[BLOCK] = {0};
      conv_events(sums, a, w, BLOCK / 4, first, before);
      unpack(y + o, a->bias + o, sums, BLOCK, total);
    }
    for (; o < outputs; o += WORD, w += a->inputs) {
      uint32_t sums[WORD] = {0};
      conv_events(sums, a, w, 1, first, before);
      unpack_some(y + o, a->bias + o, sums, at_most(WORD, outputs - o), total);
    }
    first += a->stride;
    y += outputs;
  }
}

INLINE void conv_spikes(int32_t *y, uint32_t outputs, const struct conv_events_blocked *a,
                        const uint32_t *w, int n, const uint32_t *first, uint32_t before) {
  const uint16_t *spikes = a->events;
  uint32_t at = -before;
  for (uint32_t t = 0; t < a->taps; t++, first += a->bins + 1, at += a->span)
    add_spikes(y, outputs, row_at(w, at * (uint32_t)n), n, spikes + first[0],
               spikes + first[a->width], 0);
}

/* an index that comes n times adds its weights n times */
void conv_spike_blocked(const struct conv_events_blocked *a) {
  const uint16_t *spikes = a->events;
  const uint32_t outputs = a->outputs, *first = a->first;
  int32_t *y = a->y;
#define INDEX(e) spikes[e]
  FIND_BINS(a, INDEX)
#undef INDEX
  for (uint32_t p = 0, before = 0; p < a->positions; p++, before += a->step) {
    const uint32_t *w = a->w, *from = first;
    uint32_t count = 0, o = 0;
    for (uint32_t t = 0; t < a->taps; t++, from += a->bins + 1) count += from[a->width] - from[0];
    __asm__("" : "+r"(y)); /* or the compiler multiplies p by outputs to know where y ends */
    for (; o < outputs; o++) y[o] = a->bias[o] - (int32_t)(count << 7);
    for (o = 0; o + BLOCK <= outputs; o += BLOCK, w += a->inputs * (BLOCK / 4))
      conv_spikes(y + o, BLOCK, a, w, BLOCK / 4, first, before);
    for (; o < outputs; o += WORD, w += a->inputs)
      conv_spikes(y + o, at_most(WORD, outputs - o), a, w, 1, first, before);
    first += a->stride;
    y += outputs;
  }
}

struct depthwise {
  const int8_t *w;  /* [taps][channels] */
  const int16_t *x; /* [taps][channels] */
  const int32_t *bias;
  int32_t *y;
  uint32_t taps, channels;
};

void depthwise_dense(const struct depthwise *a) {
  const uint32_t taps = a->taps, channels = a->channels;
  const int32_t *bias = a->bias;
  int32_t *y = a->y;
  for (uint32_t c = 0; c < channels; c++) {
    const int8_t *w = a->w + c;
    const int16_t *x = a->x + c;
    int32_t sum = bias[c];
    for (uint32_t t = 0; t < taps; t++, w += channels, x += channels) sum += *w * *x;
    y[c] = sum;
  }
}

void depthwise_dense_unrolled(const struct depthwise *a) {
  const uint32_t taps = a->taps, channels = a->channels;
  const int32_t *bias = a->bias;
  int32_t *y = a->y;
  for (uint32_t c = 0; c < channels; c++) {
    const int8_t *w = a->w + c;
    const int16_t *x = a->x + c;
    int32_t sum = bias[c];
    uint32_t t = taps;
    for (; t >= 2; t -= 2) {
      sum += w[0] * x[0];
      sum += w[channels] * x[channels];
      w += 2 * channels;
      x += 2 * channels;
    }
    if (t) sum += *w * *x;
    y[c] = sum;
  }
}

enum { CHANNELS = 8 };

/* eight channels at once: their sums stay in registers over all taps, and addresses are shared */
void depthwise_dense_blocked(const struct depthwise *a) {
  const uint32_t taps = a->taps, channels = a->channels;
  uint32_t c = 0;
  for (; c + CHANNELS <= channels; c += CHANNELS) {
    const int8_t *w = a->w + c;
    const int16_t *x = a->x + c;
    int32_t sums[CHANNELS];
    UNROLL for (int k = 0; k < CHANNELS; k++) sums[k] = a->bias[c + k];
    for (uint32_t t = 0; t < taps; t++, w += channels, x += channels)
      UNROLL for (int k = 0; k < CHANNELS; k++) {
        ONE_BY_ONE;
        sums[k] += w[k] * x[k];
      }
    UNROLL for (int k = 0; k < CHANNELS; k++) a->y[c + k] = sums[k];
  }
  for (; c < channels; c++) {
    const int8_t *w = a->w + c;
    const int16_t *x = a->x + c;
    int32_t sum = a->bias[c];
    for (uint32_t t = 0; t < taps; t++, w += channels, x += channels) sum += *w * *x;
    a->y[c] = sum;
  }
}

struct depthwise_event {
  const int8_t *w; /* [taps][channels] */
  const struct event *events;
  const uint32_t *starts; /* [taps + 1]: the events of each tap */
  const int32_t *bias;
  int32_t *y;
  uint32_t taps, channels;
};

void depthwise_event(const struct depthwise_event *a) {
  const uint32_t channels = a->channels;
  const int8_t *w = a->w;
  int32_t *y = a->y;
  for (uint32_t c = 0; c < channels; c++) y[c] = a->bias[c];
  for (uint32_t t = 0; t < a->taps; t++, w += channels) {
    const struct event *event = a->events + a->starts[t], *end = a->events + a->starts[t + 1];
    for (; event < end; event++) y[event->index] += w[event->index] * event->value;
  }
}

struct depthwise_spike {
  const int8_t *w; /* [taps][channels] */
  const uint16_t *spikes;
  const uint32_t *starts;
  const int32_t *bias;
  int32_t *y;
  uint32_t taps, channels;
};

void depthwise_spike(const struct depthwise_spike *a) {
  const uint32_t channels = a->channels;
  const int8_t *w = a->w;
  int32_t *y = a->y;
  for (uint32_t c = 0; c < channels; c++) y[c] = a->bias[c];
  for (uint32_t t = 0; t < a->taps; t++, w += channels) {
    const uint16_t *spike = a->spikes + a->starts[t], *end = a->spikes + a->starts[t + 1];
    for (; spike < end; spike++) y[*spike] += w[*spike];
  }
}

struct depthwise_scaled {
  const int8_t *w; /* [taps][channels] */
  const uint16_t *spikes;
  const uint32_t *starts;
  const int16_t *unit; /* [taps]: what a spike of the frame at each tap is worth */
  const int32_t *bias;
  int32_t *y;
  uint32_t taps, channels;
};

void depthwise_scaled(const struct depthwise_scaled *a) {
  const uint32_t channels = a->channels;
  const int8_t *w = a->w;
  int32_t *y = a->y;
  for (uint32_t c = 0; c < channels; c++) y[c] = a->bias[c];
  for (uint32_t t = 0; t < a->taps; t++, w += channels) {
    const uint16_t *spike = a->spikes + a->starts[t], *end = a->spikes + a->starts[t + 1];
    const int32_t unit = a->unit[t];
    for (; spike < end; spike++) y[*spike] += w[*spike] * unit;
  }
}
