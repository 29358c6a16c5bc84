/* A pool of threads for runs of short tasks, one after the other.
 *
 * A run is one word: its number, how many tasks it has, and how many of them were taken.  A thread
 * takes the next by compare-and-swap on that word, so one that wakes up late can never take a task of
 * a run that is over, and nobody waits for a thread that has no task in hand.  The caller works too.
 * Whoever has nothing to do spins for some microseconds (the next run of a step comes sooner than a
 * sleeper would wake) and then sleeps: a shared core goes to whoever has work. */
#include "decoder.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SPINS 3000 /* pauses before sleep: 40 to 100 us, longer than the serial parts of a step */
#define COUNT_BITS 24
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)

struct Pool {
    _Atomic uint64_t run; /* number << 48 | count << 24 | taken */
    _Atomic int64_t done; /* tasks of the run that are finished */
    Task task;
    void *context;
    _Atomic int sleepers; /* threads that wait for a run */
    _Atomic int caller_sleeps, stopping;
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
    int threads, started;
    struct Worker { Pool *pool; int index; pthread_t thread; } *workers; /* 1 to threads - 1 */
};

INLINE void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

INLINE int has_task(uint64_t run) {
    return (run & COUNT_MASK) < (run >> COUNT_BITS & COUNT_MASK);
}

/* Do tasks of whatever run there is until none is left to take. */
static void work(Pool *pool, int thread) {
    uint64_t run = atomic_load(&pool->run);
    while (has_task(run)) {
        if (!atomic_compare_exchange_weak(&pool->run, &run, run + 1)) continue;
        /* The run cannot end before this task is done, so its fields stay what they are. */
        int64_t count = (int64_t)(run >> COUNT_BITS & COUNT_MASK);
        pool->task(pool->context, (int64_t)(run & COUNT_MASK), thread);
        if (atomic_fetch_add(&pool->done, 1) + 1 == count && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->ended);
            pthread_mutex_unlock(&pool->lock);
        }
        run = atomic_load(&pool->run);
    }
}

static void *worker_main(void *argument) {
    struct Worker *worker = argument;
    Pool *pool = worker->pool;
    for (;;) {
        for (int i = 0; i < SPINS && !has_task(atomic_load(&pool->run)); i++) relax();
        if (!has_task(atomic_load(&pool->run))) {
            pthread_mutex_lock(&pool->lock);
            atomic_fetch_add(&pool->sleepers, 1);
            while (!has_task(atomic_load(&pool->run)) && !atomic_load(&pool->stopping))
                pthread_cond_wait(&pool->begun, &pool->lock);
            atomic_fetch_sub(&pool->sleepers, 1);
            pthread_mutex_unlock(&pool->lock);
        }
        if (atomic_load(&pool->stopping)) return NULL;
        work(pool, worker->index);
    }
}

EXPORT void pool_run(Pool *pool, int64_t count, Task task, void *context) {
    if (count <= 1 || pool->threads == 1 || count > (int64_t)COUNT_MASK) {
        for (int64_t i = 0; i < count; i++) task(context, i, 0);
        return;
    }
    pool->task = task;
    pool->context = context;
    atomic_store(&pool->done, 0);
    uint64_t number = (atomic_load(&pool->run) >> 2 * COUNT_BITS) + 1;
    atomic_store(&pool->run, number << 2 * COUNT_BITS | (uint64_t)count << COUNT_BITS);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->begun);
        pthread_mutex_unlock(&pool->lock);
    }
    work(pool, 0);
    for (int i = 0; i < SPINS && atomic_load(&pool->done) < count; i++) relax();
    if (atomic_load(&pool->done) < count) { /* another process has the core of a thread of ours */
        pthread_mutex_lock(&pool->lock);
        atomic_store(&pool->caller_sleeps, 1);
        while (atomic_load(&pool->done) < count) pthread_cond_wait(&pool->ended, &pool->lock);
        atomic_store(&pool->caller_sleeps, 0);
        pthread_mutex_unlock(&pool->lock);
    }
}

int pool_threads(const Pool *pool) { return pool->threads; }

EXPORT void pool_free(Pool *pool) {
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stopping, 1);
    pthread_cond_broadcast(&pool->begun);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->begun);
    pthread_cond_destroy(&pool->ended);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

/* A pool of that many threads, the caller's among them; NULL if they cannot be had. */
EXPORT Pool *pool_new(int threads) {
    Pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->threads = threads < 1 ? 1 : threads;
    pool->workers = calloc((size_t)pool->threads, sizeof *pool->workers);
    if (!pool->workers) {
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begun, NULL);
    pthread_cond_init(&pool->ended, NULL);
    for (int i = 1; i < pool->threads; i++) {
        struct Worker *worker = &pool->workers[pool->started];
        *worker = (struct Worker){pool, i, 0};
        if (pthread_create(&worker->thread, NULL, worker_main, worker)) {
            pool_free(pool);
            return NULL;
        }
        pool->started++;
    }
    return pool;
}
