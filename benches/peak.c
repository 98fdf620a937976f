// Prints what the multiply-add units of this machine do at most, as JSON: {"f32": FLOP/s, "bf16": FLOP/s or 0}.
//   cc -O2 -pthread benches/peak.c -o peak && ./peak 2
// f32: fused multiply-adds on registers only, AVX-512 or AVX2. bf16: AMX tile products on registers only.
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile float sink;

// Each kernel runs `rounds` rounds and returns the floating point operations it did. Sixteen independent chains hide the latency.
__attribute__((target("avx512f"))) static double fma512(long rounds) {
  __m512 a[16], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
  for (int i = 0; i < 16; i++) a[i] = _mm512_set1_ps((float)i);
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
  }
  for (int i = 0; i < 16; i++) sink += _mm512_reduce_add_ps(a[i]);
  return (double)rounds * 16 * 16 * 2;
}

__attribute__((target("avx2,fma"))) static double fma256(long rounds) {
  __m256 a[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
  for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps((float)i);
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
  }
  for (int i = 0; i < 12; i++) sink += _mm256_cvtss_f32(a[i]);
  return (double)rounds * 12 * 8 * 2;
}

__attribute__((target("amx-tile,amx-bf16"))) static double amx(long rounds) {
  static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
  } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&shape);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return (double)rounds * 4 * 16 * 16 * 32 * 2;
}

typedef double (*kernel)(long);
struct job {
  kernel run;
  double flops, begin, end;
  pthread_barrier_t *start;
};

static void *work(void *argument) {
  struct job *job = argument;
  job->run(100000); // the clock settles
  pthread_barrier_wait(job->start);
  job->begin = now();
  for (int i = 0; i < 40; i++) job->flops += job->run(200000);
  job->end = now();
  return NULL;
}

static double measure(kernel run, int threads) {
  pthread_t handles[threads];
  struct job jobs[threads];
  pthread_barrier_t start;
  pthread_barrier_init(&start, NULL, (unsigned)threads);
  for (int t = 0; t < threads; t++) {
    jobs[t] = (struct job){run, 0, 0, 0, &start};
    pthread_create(&handles[t], NULL, work, &jobs[t]);
  }
  double begin = 0, end = 0, flops = 0;
  for (int t = 0; t < threads; t++) {
    pthread_join(handles[t], NULL);
    flops += jobs[t].flops;
    begin = t == 0 || jobs[t].begin < begin ? jobs[t].begin : begin;
    end = jobs[t].end > end ? jobs[t].end : end;
  }
  return flops / (end - begin);
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  if (threads < 1 || threads > 1024) return 2;
  __builtin_cpu_init();
  kernel f32 = __builtin_cpu_supports("avx512f") ? fma512 : __builtin_cpu_supports("fma") ? fma256 : NULL;
  // CPUID leaf 7: EDX bit 22 is amx-bf16; the kernel grants the tile registers on request (ARCH_REQ_XCOMP_PERM of 18).
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  int tiles = (edx >> 22 & 1) && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  double best_f32 = 0, best_bf16 = 0;
  for (int i = 0; i < 3; i++) {
    double a = f32 ? measure(f32, threads) : 0, b = tiles ? measure(amx, threads) : 0;
    best_f32 = a > best_f32 ? a : best_f32;
    best_bf16 = b > best_bf16 ? b : best_bf16;
  }
  printf("{\"f32\": %.6e, \"bf16\": %.6e}\n", best_f32, best_bf16);
  return 0;
}
