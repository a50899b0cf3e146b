/* Faults from below the program: a wrong wall clock, a full disk, a death in the middle of a write, directories that can't be
 * watched. The tests build this with `cc` and load it into a worker (LD_PRELOAD, Linux), so that the program under test is the very
 * one that is shipped.
 *
 *   FAULT_CLOCK  seconds that the wall clock is ahead
 *   FAULT_PATH   part of the path of the files whose writes are concerned
 *   FAULT_FULL   a file: while it exists, those writes fail with ENOSPC
 *   FAULT_DIE    n: the process kills itself in its n-th such write, when half of it is written
 *   FAULT_WATCH  `instances`: there are as many inotify instances as one user may have (EMFILE); `watches`: as many watches (ENOSPC)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
  const char *seconds = getenv("FAULT_CLOCK");
  return seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t id, struct timespec *time) {
  int failed = (int)syscall(SYS_clock_gettime, id, time);
  if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) time->tv_sec += ahead();
  return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  int failed = (int)syscall(SYS_gettimeofday, time, zone);
  if (!failed) time->tv_sec += ahead();
  return failed;
}

static int may_not(const char *more) {
  const char *fault = getenv("FAULT_WATCH");
  return fault && strcmp(fault, more) == 0;
}

int inotify_init1(int flags) {
  if (may_not("instances")) {
    errno = EMFILE;
    return -1;
  }
  return (int)syscall(SYS_inotify_init1, flags);
}

int inotify_add_watch(int fd, const char *path, uint32_t mask) {
  if (may_not("watches")) {
    errno = ENOSPC;
    return -1;
  }
  return (int)syscall(SYS_inotify_add_watch, fd, path, mask);
}

/* Bytes that may be written: all of them, or -1 and errno. May not return. */
static long allowed(int fd, size_t length, int *dies) {
  const char *part = getenv("FAULT_PATH"), *full = getenv("FAULT_FULL"), *nth = getenv("FAULT_DIE");
  static long count = 0;
  char link[64], path[1024];
  *dies = 0;
  if (!part) return (long)length;
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t got = readlink(link, path, sizeof path - 1);
  errno = before;
  if (got < 0) return (long)length;
  path[got] = 0;
  if (!strstr(path, part)) return (long)length;
  if (full && access(full, F_OK) == 0) {
    errno = ENOSPC;
    return -1;
  }
  errno = before;
  if (nth && __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) == atol(nth)) {
    *dies = 1;
    return (long)(length / 2);
  }
  return (long)length;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

ssize_t write(int fd, const void *bytes, size_t length) {
  int dies;
  long most = allowed(fd, length, &dies);
  if (most < 0) return -1;
  ssize_t written = syscall(SYS_write, fd, bytes, (size_t)most);
  if (dies) die();
  return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
  int dies;
  long most = allowed(fd, length, &dies);
  if (most < 0) return -1;
  ssize_t written = syscall(SYS_pwrite64, fd, bytes, (size_t)most, at);
  if (dies) die();
  return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }
