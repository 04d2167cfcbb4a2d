/* The least that can be done: posix_spawn /bin/true N times, at most K at once, and wait.
 * Prints seconds of wall clock and seconds of CPU, children included. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

static double cpu(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: spawn_loop TASKS CONCURRENCY\n");
        return 2;
    }
    int tasks = atoi(argv[1]), concurrency = atoi(argv[2]), started = 0, ended = 0;
    char *command[] = {"/bin/true", NULL};
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    while (ended < tasks) {
        while (started < tasks && started - ended < concurrency) {
            pid_t pid;
            if (posix_spawn(&pid, command[0], NULL, NULL, command, environ) != 0) return 1;
            started++;
        }
        int status;
        if (wait(&status) < 0 || status != 0) return 1;
        ended++;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double wall = end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9;
    printf("%.6f %.6f\n", wall, cpu(RUSAGE_SELF) + cpu(RUSAGE_CHILDREN));
    return 0;
}
