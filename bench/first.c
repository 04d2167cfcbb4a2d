/* Writes to the FIFO of its argument when its first instruction ran: nanoseconds of CLOCK_MONOTONIC. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int fifo = open(argv[argc - 1], O_WRONLY);
    return fifo < 0 || dprintf(fifo, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec) < 0;
}
