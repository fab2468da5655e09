/* A clock that is set back by an hour, once there is the file that SET_BACK names: preloaded into
   the service. The monotonic clock goes on, as it does where that of a machine is set. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && access(getenv("SET_BACK"), F_OK) == 0)
        now->tv_sec -= 60 * 60;
    return result;
}
