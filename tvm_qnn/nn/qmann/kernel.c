/* The memory network of qmann.py, many questions at once: answers, gradients, training.
 *
 * What it computes is defined by qmann.py (and tested against it); this file is only faster.
 * Vectors of the internal dimension are padded with zeros to WIDTH floats. All activations are
 * values, code / 2**fraction, so a product of a value and a code is a code before truncation;
 * float32 holds every product and sum exactly up to 13 bits.
 */
#include "kernel.h"

static inline float fix_code(float x, float limit) {
  float t = truncf(x);
  t = t < limit ? t : limit; /* NaN, from a run that diverged, becomes the limit */
  return t < -limit ? -limit : t;
}

static inline void fix_row(float *out, const float *x, float scale, float limit) {
  float inverse = 1.0f / scale;
  for (int e = 0; e < WIDTH; e++) out[e] = fix_code(x[e] * scale, limit) * inverse;
}

static void prepare(const Network *n, const Weights *w, Scratch *s) {
  for (int t = 0; t < n->tables; t++) {
    float scale = n->hop_scale[t], limit = n->hop_limit[t];
    for (int v = 0; v < n->vocabulary; v++) {
      Row *a = &s->wa[t * n->vocabulary + v], *r = &s->wr[t * n->vocabulary + v];
      if (n->fixed) {
        fix_row(*a, w->wa[v], scale, limit);
        fix_row(*r, w->wr[v], scale, limit);
        if (t == 0) fix_row(s->wq[v], w->wq[v], scale, limit);
      } else {
        memcpy(a, w->wa[v], sizeof(Row));
        memcpy(r, w->wr[v], sizeof(Row));
        memcpy(s->wq[v], w->wq[v], sizeof(Row));
      }
    }
    for (int e = 0; e < WIDTH; e++) {
      if (n->fixed) fix_row(s->wk[t * WIDTH + e], w->wk[e], scale, limit);
      else memcpy(s->wk[t * WIDTH + e], w->wk[e], sizeof(Row));
    }
  }
  for (int e = 0; e < WIDTH; e++) {
    for (int o = 0; o < WIDTH; o++) s->wk_back[o][e] = w->wk[e][o];
    for (int a = 0; a < n->outputs; a++) s->wo[e * n->outputs + a] = w->wo[a][e];
  }
}

static void bag(const Network *n, const Row *table, const int32_t *words, int count, int t,
                float *out) {
  float total[WIDTH] = {0};
  for (int i = 0; i < count && words[i]; i++)
    for (int e = 0; e < WIDTH; e++) total[e] += table[words[i]][e];
  if (n->fixed) {
    fix_row(total, total, n->hop_scale[t], n->hop_limit[t]);
    if (n->tables > 1) fix_row(total, total, n->scale, n->limit);
  }
  memcpy(out, total, sizeof(total));
}

static float similarity(const Network *n, const float *row, const float *key_code) {
  float total = 0.0f;
  if (!n->fixed || n->binary)
    for (int e = 0; e < WIDTH; e++) total += row[e] * key_code[e];
  else
    for (int e = 0; e < WIDTH; e++) total += fix_code(row[e] * key_code[e], n->limit);
  return total;
}

/* Bits that differ in the similarity of the authors' code: what one magnitude has over the other,
 * or both together where the signs differ. */
static inline int32_t apart_code(int32_t a, int32_t b, int differ, int32_t limit) {
  int32_t sum = a + b, less = a - b;
  less = less < 0 ? -less : less;
  sum = sum < limit ? sum : limit;
  return differ ? sum : less;
}

static float hamming(const Network *n, const int32_t *code, const float *sign,
                     const int32_t *key_code, const float *key_sign) {
  int32_t total = 0, limit = (int32_t)n->limit;
  if (n->hamming == CODE) {
    for (int e = 0; e < WIDTH; e++) {
      int differ = sign[e] != key_sign[e];
      int32_t equal = limit - apart_code(code[e], key_code[e], differ, limit);
      total += differ ? -equal : equal;
    }
    total -= (WIDTH - n->embedding) * limit;
    float value = (float)total * n->raw_scale / n->scale, bound = (n->limit + 1.0f) / n->scale;
    return value > bound ? bound : value < -bound ? -bound : value;
  }
  for (int e = 0; e < WIDTH; e++)
    total += (int32_t)(sign[e] * key_sign[e]) * (limit - (code[e] ^ key_code[e]));
  /* the padding agrees in every bit */
  total -= (WIDTH - n->embedding) * limit;
  return fix_code((float)total * n->raw_scale, n->limit) / n->scale;
}

static void softmax(const Network *n, const float *score, const int32_t *valid, float *p,
                    float *entry, const double *exponential, double *weight) {
  float top = -INFINITY;
  double total = 0.0;
  for (int l = 0; l < n->slots; l++)
    if (valid[l] && score[l] > top) top = score[l];
  for (int l = 0; l < n->slots; l++) {
    double e = 0.0;
    if (valid[l])
      e = n->fixed && n->hamming != CODE ? exponential[(int)((top - score[l]) * n->scale)]
                                         : exp((double)(score[l] - top));
    weight[l] = e;
    total += e;
  }
  for (int l = 0; l < n->slots; l++) {
    double e = weight[l];
    entry[l] = 0.0f;
    p[l] = total > 0.0 ? (float)(e / total) : 0.0f;
    if (!n->fixed) entry[l] = p[l];
    else if (total > 0.0) {
      double code = floor(e * n->scale / total);
      entry[l] = (float)(code > n->limit ? n->limit : code) / n->scale;
    }
  }
}

/* Keys, similarities and logits of one question into the scratch. */
static void forward(const Network *n, Scratch *s, const int32_t *story, const int32_t *question) {
  for (int l = 0; l < n->slots; l++) {
    const int32_t *words = story + l * n->words;
    s->valid[l] = words[0] != 0;
    if (!s->valid[l]) continue;
    for (int t = 0; t < n->tables; t++) {
      int i = t * n->slots + l;
      bag(n, s->wa + t * n->vocabulary, words, n->words, t, s->ma[i]);
      bag(n, s->wr + t * n->vocabulary, words, n->words, t, s->mr[i]);
      if (!n->hamming) continue;
      for (int e = 0; e < WIDTH; e++) {
        s->code[i][e] = (int32_t)(fabsf(s->ma[i][e]) * n->scale);
        s->sign[i][e] = s->ma[i][e] < 0.0f ? -1.0f : 1.0f;
        s->ones[i][e] = (float)__builtin_popcount((uint32_t)s->code[i][e]);
      }
    }
  }
  bag(n, s->wq, question, n->question_words, 0, s->key[0]);
  for (int h = 0; h < n->hops; h++) {
    int t = n->tables > 1 ? h : 0;
    const Row *ma = s->ma + t * n->slots, *mr = s->mr + t * n->slots;
    float *key = s->key[h], *input = s->input[h];
    float seen[WIDTH], key_sign[WIDTH];
    IntRow key_code;
    for (int e = 0; e < WIDTH; e++) {
      key_sign[e] = key[e] < 0.0f ? -1.0f : 1.0f;
      key_code[e] = (int32_t)(fabsf(key[e]) * n->scale);
      input[e] = n->binary ? (e < n->embedding ? key_sign[e] : 0.0f) : key[e];
      /* a code where products are truncated, so that they come out as codes */
      seen[e] = n->binary || !n->fixed ? input[e] : key[e] * n->scale;
    }
    float *score = s->score + h * n->slots;
    for (int l = 0; l < n->slots; l++) {
      score[l] = 0.0f;
      if (!s->valid[l]) continue;
      int i = t * n->slots + l;
      if (n->hamming) score[l] = hamming(n, s->code[i], s->sign[i], key_code, key_sign);
      else {
        score[l] = similarity(n, ma[l], seen);
        if (n->fixed && n->binary) score[l] *= n->scale;
        if (n->fixed) score[l] = fix_code(score[l], n->limit) / n->scale;
      }
    }
    float *p = s->p + h * n->slots, *entry = s->entry + h * n->slots;
    softmax(n, score, s->valid, p, entry, s->exponential, s->weight);
    float read[WIDTH] = {0}, update[WIDTH] = {0};
    for (int l = 0; l < n->slots; l++) {
      if (entry[l] == 0.0f) continue;
      if (n->fixed) {
        float code = entry[l] * n->scale;
        for (int e = 0; e < WIDTH; e++) read[e] += fix_code(code * mr[l][e], n->limit);
      } else
        for (int e = 0; e < WIDTH; e++) read[e] += entry[l] * mr[l][e];
    }
    const Row *wk = s->wk + t * WIDTH;
    if (n->fixed && !n->binary) {
      float scale = n->hop_scale[t], limit = n->hop_limit[t];
      for (int e = 0; e < n->embedding; e++) {
        float code = fix_code(key[e] * scale, limit);
        for (int o = 0; o < WIDTH; o++) update[o] += fix_code(wk[e][o] * code, limit);
      }
      for (int o = 0; o < WIDTH; o++) update[o] = fix_code(update[o], limit) / scale;
    } else
      for (int e = 0; e < n->embedding; e++)
        for (int o = 0; o < WIDTH; o++) update[o] += wk[e][o] * input[e];
    float *next = s->key[h + 1];
    if (n->fixed) {
      if (n->binary) fix_row(update, update, n->hop_scale[t], n->hop_limit[t]);
      if (n->tables > 1) fix_row(update, update, n->scale, n->limit);
      for (int e = 0; e < WIDTH; e++)
        next[e] = fix_code(update[e] * n->scale + fix_code(read[e], n->limit), n->limit) / n->scale;
    } else
      for (int e = 0; e < WIDTH; e++) next[e] = update[e] + read[e];
  }
  for (int a = 0; a < n->outputs; a++) s->logit[a] = 0.0f;
  for (int e = 0; e < n->embedding; e++) {
    const float *wo = s->wo + e * n->outputs;
    float k = s->key[n->hops][e];
    for (int a = 0; a < n->outputs; a++) s->logit[a] += wo[a] * k;
  }
}

/* Cross entropy of the answer; the logits become softmax minus one-hot. */
static double loss(const Network *n, float *logit, int32_t answer, int32_t *predicted) {
  float top = logit[0];
  *predicted = 0;
  for (int a = 1; a < n->outputs; a++)
    if (logit[a] > top) top = logit[a], *predicted = a;
  double total = 0.0, own = (double)logit[answer] - top;
  for (int a = 0; a < n->outputs; a++) total += exp((double)logit[a] - top);
  for (int a = 0; a < n->outputs; a++)
    logit[a] = (float)(exp((double)logit[a] - top) / total) - (a == answer ? 1.0f : 0.0f);
  return log(total) - own;
}

static void hamming_backward(const Network *n, float ds, const int32_t *restrict code,
                             const float *restrict sign, const float *restrict ones,
                             const int32_t *restrict key_code, const float *restrict key_sign,
                             const float *restrict key_ones, float *restrict dma,
                             float *restrict dk) {
  float step = ds * n->slope, more[WIDTH];
  for (int e = 0; e < WIDTH; e++) more[e] = ones[e] - key_ones[e];
  if (n->hamming == CODE)
    for (int e = 0; e < WIDTH; e++) {
      int32_t bits = apart_code(code[e], key_code[e], sign[e] != key_sign[e], (int32_t)n->limit);
      float count = (float)__builtin_popcount((uint32_t)bits);
      more[e] = code[e] >= key_code[e] ? count : -count;
    }
  for (int e = 0; e < WIDTH; e++) {
    float apart = step * 0.5f * (1.0f - sign[e] * key_sign[e]), along = step * more[e];
    dma[e] += apart * (n->sign_constant + n->sign_other * key_sign[e]) - key_sign[e] * along;
    dk[e] += apart * (n->sign_constant + n->sign_other * sign[e]) + sign[e] * along;
  }
}

/* Gradient of the weighted read: to p (returned) and, added, to the row. dr is rounded already. */
static float read_backward(const Network *n, const float *restrict row, const float *restrict dr,
                           float entry, float *restrict dmr) {
  float total = 0.0f;
  if (n->read_scale == 0.0f) {
    for (int e = 0; e < WIDTH; e++) {
      total += dr[e] * row[e];
      dmr[e] += entry * dr[e];
    }
    return total;
  }
  float scale = n->read_scale, unit = 1.0f / scale;
  for (int e = 0; e < WIDTH; e++) {
    /* codes: of the row, of the products */
    float code = fix_code(row[e] * scale, n->limit);
    total += fix_code(code * dr[e], n->limit);
    dmr[e] += fix_code(entry * dr[e] * scale, n->limit) * unit;
  }
  return fix_code(total, n->limit) * unit;
}

/* Add the gradient of one question, straight through every quantizer, to g. */
static void backward(const Network *n, Scratch *s, const int32_t *story, const int32_t *question,
                     const Weights *w, Weights *g) {
  float dk[WIDTH] = {0}, *error = s->logit;
  const float *last = s->key[n->hops];
  for (int a = 0; a < n->outputs; a++)
    for (int e = 0; e < WIDTH; e++) {
      dk[e] += error[a] * w->wo[a][e];
      g->wo[a][e] += error[a] * last[e];
    }
  memset(s->dma, 0, sizeof(Row) * (size_t)n->slots);
  memset(s->dmr, 0, sizeof(Row) * (size_t)n->slots);
  for (int h = n->hops - 1; h >= 0; h--) {
    int t = n->tables > 1 ? h : 0;
    const Row *ma = s->ma + t * n->slots, *mr = s->mr + t * n->slots;
    const float *p = s->p + h * n->slots, *entry = s->entry + h * n->slots;
    const float *key = s->key[h], *input = s->input[h];
    float before[WIDTH] = {0}, key_sign[WIDTH], key_ones[WIDTH];
    IntRow key_code;
    for (int e = 0; e < n->embedding; e++)
      for (int o = 0; o < WIDTH; o++) g->wk[e][o] += input[e] * dk[o];
    for (int o = 0; o < n->embedding; o++)
      for (int e = 0; e < WIDTH; e++) before[e] += dk[o] * s->wk_back[o][e];
    for (int e = 0; e < WIDTH; e++) {
      key_sign[e] = key[e] < 0.0f ? -1.0f : 1.0f;
      key_code[e] = (int32_t)(fabsf(key[e]) * n->scale);
      key_ones[e] = (float)__builtin_popcount((uint32_t)key_code[e]);
    }
    float *dp = s->score + h * n->slots, mean = 0.0f; /* the scores are no longer needed */
    float dr[WIDTH];
    if (n->read_scale == 0.0f) memcpy(dr, dk, sizeof(dr));
    else fix_row(dr, dk, n->read_scale, n->limit);
    for (int l = 0; l < n->slots; l++) {
      if (!s->valid[l]) continue;
      dp[l] = read_backward(n, mr[l], dr, entry[l], s->dmr[l]);
      mean += p[l] * dp[l];
    }
    for (int l = 0; l < n->slots; l++) {
      if (p[l] == 0.0f) continue;
      float ds = p[l] * (dp[l] - mean);
      int i = t * n->slots + l;
      if (n->hamming)
        hamming_backward(n, ds, s->code[i], s->sign[i], s->ones[i], key_code, key_sign, key_ones,
                         s->dma[l], before);
      else
        for (int e = 0; e < WIDTH; e++) {
          s->dma[l][e] += ds * input[e];
          before[e] += ds * ma[l][e];
        }
    }
    memcpy(dk, before, sizeof(dk));
  }
  for (int l = 0; l < n->slots; l++) {
    const int32_t *words = story + l * n->words;
    for (int i = 0; i < n->words && words[i]; i++)
      for (int e = 0; e < WIDTH; e++) {
        g->wa[words[i]][e] += s->dma[l][e];
        g->wr[words[i]][e] += s->dmr[l][e];
      }
  }
  for (int i = 0; i < n->question_words && question[i]; i++)
    for (int e = 0; e < WIDTH; e++) g->wq[question[i]][e] += dk[e];
}

static void update(Row *w, const Row *g, int rows, float rate, float clip) {
  double squares = 0.0;
  for (int i = 0; i < rows; i++) {
    float part = 0.0f;
    for (int e = 0; e < WIDTH; e++) part += g[i][e] * g[i][e];
    squares += part;
  }
  double norm = sqrt(squares);
  float step = norm > clip ? (float)(rate * clip / norm) : rate;
  for (int i = 0; i < rows; i++)
    for (int e = 0; e < WIDTH; e++) w[i][e] -= step * g[i][e];
}

/* One epoch of gradient descent in the order of the questions; returns 0, or 1 without memory. */
int qmann_train(const Network *n, Weights *w, const int32_t *story, const int32_t *question,
                const int32_t *answer, int32_t count, int32_t batch, float rate, float key_rate,
                float clip, float key_clip, double *total_loss, int32_t *wrong) {
  Scratch s;
  Weights g;
  char *memory = allocate(n, &s, &g);
  if (!memory) return 1;
  size_t gradients = (size_t)((char *)s.exponential - memory);
  *total_loss = 0.0;
  *wrong = 0;
  for (int start = 0; start < count; start += batch) {
    prepare(n, w, &s);
    memset(memory, 0, gradients);
    for (int i = start; i < count && i < start + batch; i++) {
      const int32_t *sentences = story + (size_t)i * n->slots * n->words;
      const int32_t *asked = question + (size_t)i * n->question_words;
      int32_t predicted;
      forward(n, &s, sentences, asked);
      *total_loss += loss(n, s.logit, answer[i], &predicted);
      *wrong += predicted != answer[i];
      backward(n, &s, sentences, asked, w, &g);
    }
    update(w->wa, g.wa, n->vocabulary, rate, clip);
    update(w->wr, g.wr, n->vocabulary, rate, clip);
    update(w->wq, g.wq, n->vocabulary, rate, clip);
    update(w->wo, g.wo, n->outputs, rate, clip);
    update(w->wk, g.wk, WIDTH, key_rate, key_clip);
  }
  free(memory);
  return 0;
}

/* Logits, similarities [count][hops][slots] and keys [count][hops + 1][WIDTH]; 1 without memory. */
int qmann_infer(const Network *n, const Weights *w, const int32_t *story, const int32_t *question,
                int32_t count, float *logits, float *scores, float *keys) {
  Scratch s;
  Weights g;
  char *memory = allocate(n, &s, &g);
  if (!memory) return 1;
  prepare(n, w, &s);
  for (size_t i = 0; i < (size_t)count; i++) {
    forward(n, &s, story + i * n->slots * n->words, question + i * n->question_words);
    memcpy(logits + i * n->outputs, s.logit, sizeof(float) * (size_t)n->outputs);
    memcpy(scores + i * n->hops * n->slots, s.score, sizeof(float) * (size_t)(n->hops * n->slots));
    memcpy(keys + i * (n->hops + 1) * WIDTH, s.key, sizeof(Row) * (size_t)(n->hops + 1));
  }
  free(memory);
  return 0;
}
