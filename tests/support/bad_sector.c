/* Stands between a process and its libc: what is read by position and holds the words in the file $BAD_SECTOR
   cannot be read. No such file: the disk is well. No headers, so that a compiler alone builds it. */

extern void *dlsym(void *, const char *);
extern int *__errno_location(void);
extern char *getenv(const char *);
extern void *memmem(const void *, unsigned long, const void *, unsigned long);
extern int open(const char *, int, ...);
extern int close(int);
extern long read(int, void *, unsigned long);

#define NEXT ((void *)-1L)
#define EIO 5

long pread64(int file, void *into, unsigned long size, long at)
{
    static long (*really)(int, void *, unsigned long, long);
    char words[64];
    long got, length = -1;
    int bad = open(getenv("BAD_SECTOR"), 0);

    if (!really)
        really = dlsym(NEXT, "pread64");
    if (bad >= 0) {
        length = read(bad, words, sizeof words);
        close(bad);
    }
    got = really(file, into, size, at);
    if (got > 0 && length > 0 && memmem(into, got, words, length)) {
        *__errno_location() = EIO;
        return -1;
    }
    return got;
}

long pread(int file, void *into, unsigned long size, long at)
{
    return pread64(file, into, size, at);
}
