/* Types and memory of kernel.c. */
#ifndef QMANN_KERNEL_H
#define QMANN_KERNEL_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef WIDTH
#define WIDTH 64
#endif
#define MAX_HOPS 8
#define CODE 2 /* Network.hamming: 0 is the dot product, 1 the similarity of the paper */

typedef struct { /* keep in step with qmann_native.Network */
  int32_t embedding, hops, vocabulary, outputs, slots, words, question_words;
  int32_t fixed, hamming, binary, tables;
  float scale, limit;                            /* 2**fraction and largest code of F */
  float hop_scale[MAX_HOPS], hop_limit[MAX_HOPS]; /* of the parameter side of every hop */
  float raw_scale, slope, sign_constant, sign_other;
  float read_scale; /* codes in a unit of the gradient of the read; 0 where it is float */
} Network;

typedef float Row[WIDTH];
typedef int32_t IntRow[WIDTH];

typedef struct { /* float master weights; wk is [in][out] */
  Row *wa, *wr, *wq, *wk, *wo;
} Weights;

typedef struct {
  Row *wa, *wr, *wq, *wk;   /* quantized: wa, wr, wk once for every hop format */
  Row *wk_back;             /* master W_k as [out][in] */
  float *wo;                /* master W_o as [embedding][outputs] */
  Row *ma, *mr, *dma, *dmr; /* [tables][slots] */
  IntRow *code;             /* [tables][slots] magnitudes of ma */
  Row *sign, *ones;         /* [tables][slots] signs and bit counts of ma */
  Row *key, *input;         /* [hops + 1] keys; what enters W_k */
  float *score, *p, *entry; /* [hops][slots] similarity, softmax, its quantized value */
  float *logit;
  double *exponential;      /* exp(-d / 2**fraction) * 2**24, rounded */
  double *weight;           /* [slots] terms of the softmax */
  int32_t *valid;
} Scratch;

static void *part(char **memory, size_t count, size_t size) {
  void *start = *memory;
  *memory += (count * size + 63) / 64 * 64;
  return start;
}

static size_t layout(const Network *n, char *memory, Scratch *s, Weights *g) {
  char *end = memory;
  size_t v = (size_t)n->vocabulary, t = (size_t)n->tables, l = (size_t)n->slots;
  size_t h = (size_t)n->hops, depth = 2 * (size_t)n->limit + 1;
  g->wa = part(&end, v, sizeof(Row));
  g->wr = part(&end, v, sizeof(Row));
  g->wq = part(&end, v, sizeof(Row));
  g->wk = part(&end, WIDTH, sizeof(Row));
  g->wo = part(&end, (size_t)n->outputs, sizeof(Row));
  s->exponential = part(&end, n->fixed ? depth : 0, sizeof(double));
  s->wa = part(&end, t * v, sizeof(Row));
  s->wr = part(&end, t * v, sizeof(Row));
  s->wq = part(&end, v, sizeof(Row));
  s->wk = part(&end, t * WIDTH, sizeof(Row));
  s->wk_back = part(&end, WIDTH, sizeof(Row));
  s->wo = part(&end, WIDTH * (size_t)n->outputs, sizeof(float));
  s->ma = part(&end, t * l, sizeof(Row));
  s->mr = part(&end, t * l, sizeof(Row));
  s->sign = part(&end, t * l, sizeof(Row));
  s->ones = part(&end, t * l, sizeof(Row));
  s->code = part(&end, t * l, sizeof(IntRow));
  s->dma = part(&end, l, sizeof(Row));
  s->dmr = part(&end, l, sizeof(Row));
  s->key = part(&end, h + 1, sizeof(Row));
  s->input = part(&end, h, sizeof(Row));
  s->score = part(&end, h * l, sizeof(float));
  s->p = part(&end, h * l, sizeof(float));
  s->entry = part(&end, h * l, sizeof(float));
  s->logit = part(&end, (size_t)n->outputs, sizeof(float));
  s->weight = part(&end, l, sizeof(double));
  s->valid = part(&end, l, sizeof(int32_t));
  return (size_t)(end - memory);
}

static char *allocate(const Network *n, Scratch *s, Weights *g) {
  size_t size = layout(n, NULL, s, g);
  char *memory = aligned_alloc(64, size);
  if (!memory) return NULL;
  memset(memory, 0, size);
  layout(n, memory, s, g);
  if (n->fixed)
    for (int d = 0; d <= 2 * (int)n->limit; d++)
      s->exponential[d] = nearbyint(16777216.0 * exp(-(double)d / n->scale));
  return memory;
}

#endif
