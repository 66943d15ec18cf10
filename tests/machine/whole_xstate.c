/* Stands between Debian's user-mode-linux 6.1 and its libc, on processors with AMX. That kernel keeps 2,696 bytes
   of a process's floating point registers, which is all up to AVX-512. With AMX they are 11,008. Reading the first
   part is fine, writing less than the whole is refused (EFAULT), and the first program dies of it. So the rest is
   written back as it is; nobody in that machine uses it. Where 2,696 is the whole, nothing changes.
   No headers, so that a compiler alone builds it. */

extern void *dlsym(void *, const char *);

#define NEXT ((void *)-1L)
#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE ((void *)0x202)

struct iovec {
    char *base;
    unsigned long size;
};

long ptrace(int request, int process, void *address, void *data)
{
    static long (*really)(int, int, void *, void *);
    static char registers[1 << 16]; /* not on the stack: that of a kernel's thread is small */
    struct iovec whole = {registers, sizeof registers}, *part = data;
    unsigned long i;

    if (!really)
        really = dlsym(NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && address == NT_X86_XSTATE &&
        really(PTRACE_GETREGSET, process, address, &whole) == 0 && part->size < whole.size) {
        for (i = 0; i < part->size; i++)
            registers[i] = part->base[i];
        data = &whole;
    }
    return really(request, process, address, data);
}
