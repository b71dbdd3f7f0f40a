// The operating system's randomness, as the simulator has it: the same bytes for everybody who asks. What a thread makes of
// them (the standard library's HashMap counts on from there, sctp-proto's rand::rng() is a generator) is then the same in
// every thread, and each run has a thread of its own. Keys do not come from here (crypto.rs), and nothing but the simulator
// is linked with this file.

#include <stddef.h>
#include <sys/types.h>

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    unsigned char *bytes = buffer;
    for (size_t at = 0; at < length; at++) {
        bytes[at] = (unsigned char)(at * 167 + 73);
    }
    return (ssize_t)length;
}
