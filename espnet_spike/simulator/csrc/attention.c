/* Attention of one query frame: scores, decay or softmax, context; and Spikformer's on spikes. */
#include "kernels.h"

struct scores {
  const int16_t *q; /* [heads * head_dim] */
  const int16_t *k; /* [keys][heads * head_dim] */
  int32_t *s;       /* [heads][keys] */
  uint32_t heads, head_dim, keys;
};

void scores_dense(const struct scores *a) {
  const uint32_t head_dim = a->head_dim, keys = a->keys, row = a->heads * head_dim;
  int32_t *s = a->s;
  for (uint32_t h = 0; h < a->heads; h++) {
    const int16_t *q = a->q + h * head_dim, *k = a->k + h * head_dim;
    for (uint32_t j = 0; j < keys; j++, k += row) {
      int32_t sum = 0;
      for (uint32_t c = 0; c < head_dim; c++) sum += q[c] * k[c];
      *s++ = sum;
    }
  }
}

void scores_dense_unrolled(const struct scores *a) {
  const uint32_t head_dim = a->head_dim, keys = a->keys, row = a->heads * head_dim;
  int32_t *s = a->s;
  for (uint32_t h = 0; h < a->heads; h++) {
    const int16_t *line = a->k + h * head_dim;
    for (uint32_t j = 0; j < keys; j++, line += row) {
      const int16_t *q = a->q + h * head_dim, *k = line;
      int32_t sum = 0;
      uint32_t c = head_dim;
      DOT_UNROLLED(sum, q, k, c);
      *s++ = sum;
    }
  }
}

enum { KEYS = 4, CHANNELS = 8 };

#define FOUR_KEYS(N)                   \
  UNROLL for (int i = 0; i < N; i++) { \
    ONE_BY_ONE;                        \
    const int32_t x = c[i];            \
    s0 += x * k0[i];                   \
    s1 += x * k1[i];                   \
    s2 += x * k2[i];                   \
    s3 += x * k3[i];                   \
  }

/* four keys at once: a query's channel is loaded once for all of them */
void scores_dense_blocked(const struct scores *a) {
  const uint32_t head_dim = a->head_dim, keys = a->keys, row = a->heads * head_dim;
  int32_t *s = a->s;
  for (uint32_t h = 0; h < a->heads; h++) {
    const int16_t *q = a->q + h * head_dim, *end = q + head_dim, *k = a->k + h * head_dim;
    uint32_t j = 0;
    for (; j + KEYS <= keys; j += KEYS, k += KEYS * row) {
      const int16_t *k0 = k, *k1 = k0 + row, *k2 = k1 + row, *k3 = k2 + row;
      int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      const int16_t *c = q, *whole = q + (head_dim & ~3u);
      for (; c < whole; c += 4, k0 += 4, k1 += 4, k2 += 4, k3 += 4) FOUR_KEYS(4)
      for (; c < end; c++, k0++, k1++, k2++, k3++) FOUR_KEYS(1)
      *s++ = s0;
      *s++ = s1;
      *s++ = s2;
      *s++ = s3;
    }
    for (; j < keys; j++, k += row) {
      int32_t sum = 0;
      for (uint32_t c = 0; c < head_dim; c++) sum += q[c] * k[c];
      *s++ = sum;
    }
  }
}

struct decay {
  const int32_t *s;        /* [heads][keys] */
  const uint16_t *decay;   /* [heads][keys]: 2^15 gamma^distance * row scale, by distance */
  const uint16_t *key;     /* [keys]: 2^15 * the unit of a key frame's spikes */
  int16_t *p;              /* [keys][heads] */
  uint32_t heads, keys, query, shift; /* s / 2^shift fits 16 bits */
};

void decay_scores(const struct decay *a) {
  const uint32_t heads = a->heads, keys = a->keys, shift = a->shift;
  const int32_t query = (int32_t)a->query;
  const int32_t *s = a->s;
  for (uint32_t h = 0; h < heads; h++) {
    const uint16_t *decay = a->decay + h * keys;
    int16_t *p = a->p + h;
    for (int32_t j = 0; j < (int32_t)keys; j++, p += heads) {
      const int32_t distance = j > query ? j - query : query - j;
      const int32_t faded = ((*s++ >> shift) * decay[distance]) >> 15;
      *p = (int16_t)((faded * a->key[j]) >> 15);
    }
  }
}

struct softmax {
  const int32_t *s;      /* [heads][keys] */
  const uint16_t *table; /* 257 values 32767 exp(-i / 16) */
  int16_t *p;            /* [keys][heads], 2^15 * probability */
  uint32_t heads, keys;
  uint32_t multiplier; /* difference of scores * multiplier / 2^32 counts 4096ths */
};

void softmax(const struct softmax *a) {
  const uint32_t heads = a->heads, keys = a->keys;
  const uint16_t *table = a->table;
  for (uint32_t h = 0; h < heads; h++) {
    const int32_t *s = a->s + h * keys;
    int32_t top = s[0];
    for (uint32_t j = 1; j < keys; j++)
      if (s[j] > top) top = s[j];
    uint32_t sum = 0;
    int16_t *p = a->p + h;
    for (uint32_t j = 0; j < keys; j++, p += heads) {
      const uint32_t below = (uint32_t)top - (uint32_t)s[j];
      const uint32_t z = (uint32_t)(((uint64_t)below * a->multiplier) >> 32);
      int32_t e = 0;
      if (z < 65536) {
        const uint16_t *at = table + (z >> 8);
        e = at[0] - (((at[0] - at[1]) * (int32_t)(z & 255)) >> 8);
      }
      *p = (int16_t)e;
      sum += (uint32_t)e;
    }
    const int32_t inverse = (int32_t)((1u << 30) / sum);
    p = a->p + h;
    for (uint32_t j = 0; j < keys; j++, p += heads) *p = (int16_t)saturate16((*p * inverse) >> 15);
  }
}

struct context {
  const int16_t *p; /* [keys][heads] */
  const int16_t *v; /* [keys][heads * head_dim] */
  int32_t *y;       /* [heads * head_dim] */
  uint32_t heads, head_dim, keys;
};

void context_dense(const struct context *a) {
  const uint32_t heads = a->heads, head_dim = a->head_dim;
  const int16_t *p = a->p, *v = a->v;
  for (uint32_t c = 0; c < heads * head_dim; c++) a->y[c] = 0;
  for (uint32_t j = 0; j < a->keys; j++) {
    int32_t *y = a->y;
    for (uint32_t h = 0; h < heads; h++) {
      const int32_t weight = *p++;
      for (uint32_t c = 0; c < head_dim; c++) *y++ += weight * *v++;
    }
  }
}

void context_dense_unrolled(const struct context *a) {
  const uint32_t heads = a->heads, head_dim = a->head_dim;
  const int16_t *p = a->p, *v = a->v;
  for (uint32_t c = 0; c < heads * head_dim; c++) a->y[c] = 0;
  for (uint32_t j = 0; j < a->keys; j++) {
    int32_t *y = a->y;
    for (uint32_t h = 0; h < heads; h++) {
      const int32_t weight = *p++;
      uint32_t c = head_dim;
      for (; c >= 4; c -= 4, y += 4, v += 4) {
        y[0] += weight * v[0];
        y[1] += weight * v[1];
        y[2] += weight * v[2];
        y[3] += weight * v[3];
      }
      for (; c; c--) *y++ += weight * *v++;
    }
  }
}

/* eight channels at once: their sums stay in registers over all keys */
void context_dense_blocked(const struct context *a) {
  const uint32_t heads = a->heads, head_dim = a->head_dim, row = heads * head_dim;
  int32_t *y = a->y;
  for (uint32_t h = 0; h < heads; h++) {
    const int16_t *end = a->p + a->keys * heads, *first = a->v + h * head_dim;
    uint32_t c = 0;
    for (; c + CHANNELS <= head_dim; c += CHANNELS, first += CHANNELS) {
      int32_t sums[CHANNELS] = {0};
      const int16_t *v = first;
      for (const int16_t *p = a->p + h; p < end; p += heads, v += row) {
        const int32_t weight = *p;
        UNROLL for (int k = 0; k < CHANNELS; k++) {
          ONE_BY_ONE;
          sums[k] += weight * v[k];
        }
      }
      UNROLL for (int k = 0; k < CHANNELS; k++) *y++ = sums[k];
    }
    for (; c < head_dim; c++, first++) {
      int32_t sum = 0;
      const int16_t *v = first;
      for (const int16_t *p = a->p + h; p < end; p += heads, v += row) sum += *p * *v;
      *y++ = sum;
    }
  }
}

struct context_event {
  const int16_t *p; /* [keys][heads] */
  const uint8_t *head; /* of a channel */
  const void *events;
  const uint32_t *starts; /* [keys + 1]: the events of each key */
  int32_t *y;
  uint32_t heads, keys, channels;
};

void context_event(const struct context_event *a) {
  const int16_t *p = a->p;
  const uint8_t *head = a->head;
  const struct event *events = a->events;
  int32_t *y = a->y;
  for (uint32_t c = 0; c < a->channels; c++) y[c] = 0;
  for (uint32_t j = 0; j < a->keys; j++, p += a->heads) {
    const struct event *event = events + a->starts[j], *end = events + a->starts[j + 1];
    for (; event < end; event++) y[event->index] += p[head[event->index]] * event->value;
  }
}

void context_spike(const struct context_event *a) {
  const int16_t *p = a->p;
  const uint8_t *head = a->head;
  const uint16_t *spikes = a->events;
  int32_t *y = a->y;
  for (uint32_t c = 0; c < a->channels; c++) y[c] = 0;
  for (uint32_t j = 0; j < a->keys; j++, p += a->heads) {
    const uint16_t *spike = spikes + a->starts[j], *end = spikes + a->starts[j + 1];
    for (; spike < end; spike++) y[*spike] += p[head[*spike]];
  }
}

struct outer_spike {
  int16_t *kv;          /* [heads * head_dim][head_dim] */
  const int32_t *rows;  /* where row c starts, less the first channel of its head */
  const uint8_t *head;  /* of a channel */
  const uint16_t *k, *v; /* ascending */
  const uint32_t *starts; /* [heads + 1]: the spikes of v in each head */
  uint32_t count;         /* spikes of k */
};

/* K^T V of one frame, added up: a count for each pair that fires together */
void outer_spike(const struct outer_spike *a) {
  const uint16_t *k = a->k, *end = k + a->count, *v = a->v;
  for (; k < end; k++) {
    int16_t *row = a->kv + a->rows[*k];
    const uint32_t *start = a->starts + a->head[*k];
    for (uint32_t e = start[0]; e < start[1]; e++) row[v[e]]++;
  }
}

struct read_spike {
  const int16_t *kv;     /* [heads * head_dim][head_dim] */
  const uint32_t *rows;  /* where row c starts */
  const uint16_t *first; /* first channel of c's head */
  const uint16_t *q;
  int32_t *y;
  uint32_t count, head_dim, channels;
};

/* Q (K^T V) of one frame */
void read_spike(const struct read_spike *a) {
  const uint16_t *q = a->q, *end = q + a->count;
  for (uint32_t c = 0; c < a->channels; c++) a->y[c] = 0;
  for (; q < end; q++) {
    const int16_t *row = a->kv + a->rows[*q];
    int32_t *y = a->y + a->first[*q];
    for (uint32_t d = 0; d < a->head_dim; d++) y[d] += row[d];
  }
}
