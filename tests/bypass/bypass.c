/* What a process of the agent's own user may try, to get a signature that only the agent should get; and the agent itself.
 *
 * bypass MODE SOCKET AGENT tries one way and prints the status of the answer, or "closed". The agent is this very program
 * under another name:
 *   agent sign SOCKET    asks for a signature and prints the status
 *   agent answer FD      reads the answer on a connection that it was handed, and prints the status
 *   agent wait SOCKET    says on standard input (a socket) that it is there, waits for an answer, then asks for what its memory says,
 *                        and prints the status
 *   agent idle           sleeps
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <linux/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* In writable memory, where somebody else could change it. */
static char request[512] = "POST /sign HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n"
                           "{\"payload\":{},\"intent\":\"of-agent00\"}";

static void fail(const char *what) {
    printf("error %s: %s\n", what, strerror(errno));
    exit(0);
}

static int connected(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        printf("closed\n");
        exit(0);
    }
    return fd;
}

static void ask(int fd) {
    size_t length = strlen(request);
    if (send(fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) {
        printf("closed\n");
        exit(0);
    }
}

static void answer(int fd) {
    char text[4096] = {0};
    ssize_t length = read(fd, text, sizeof text - 1);
    if (length < 12)
        printf("closed\n");
    else
        printf("%.3s\n", text + 9);
    fflush(stdout);
}

static void sign(const char *socket) {
    int fd = connected(socket);
    ask(fd);
    answer(fd);
}

static void become(const char *agent, const char *mode, const char *argument) {
    execl(agent, agent, mode, argument, NULL);
    fail("exec");
}

static void kill_parent(void) { kill(getppid(), SIGKILL); }

/* The one who connected becomes the agent; a child writes. */
static void fork_exec(const char *socket, const char *agent) {
    int fd = connected(socket);
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0)
        fail("pipe");
    if (fork() == 0) {
        char end;
        atexit(kill_parent);
        close(ready[1]);
        /* Ends when the parent has become the agent. */
        (void)!read(ready[0], &end, 1);
        usleep(20000);
        ask(fd);
        answer(fd);
        exit(0);
    }
    close(ready[0]);
    become(agent, "idle", NULL);
}

/* Writes the request, and then becomes the agent, before the sidecar looks: a race, so it is given others to look at first. */
static void write_exec(const char *socket, const char *agent) {
    for (int i = 0; i < 32; i++)
        connected(socket);
    int fd = connected(socket);
    char number[16];
    snprintf(number, sizeof number, "%d", fd);
    ask(fd);
    become(agent, "answer", number);
}

/* In a user namespace of its own, makes the kernel say that it runs the agent: needs no mapping of its own program left. */
static void exe_file(const char *socket, const char *agent) {
    unsigned long uid = geteuid(), gid = getegid();
    char map[64];
    if (unshare(CLONE_NEWUSER) != 0)
        fail("unshare");
    int fd = open("/proc/self/setgroups", O_WRONLY);
    (void)!write(fd, "deny", 4);
    close(fd);
    fd = open("/proc/self/uid_map", O_WRONLY);
    snprintf(map, sizeof map, "%lu %lu 1", uid, uid);
    if (write(fd, map, strlen(map)) < 0)
        fail("uid_map");
    close(fd);
    fd = open("/proc/self/gid_map", O_WRONLY);
    snprintf(map, sizeof map, "%lu %lu 1", gid, gid);
    (void)!write(fd, map, strlen(map));
    close(fd);
    /* Copies every mapping of this program elsewhere, so that no page is of its file any more. */
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512], self[256] = {0};
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    struct { unsigned long begin, end; int protection; } found[32];
    int count = 0;
    while (length > 0 && fgets(line, sizeof line, maps) != NULL && count < 32) {
        char flags[8];
        if (strstr(line, self) == NULL || sscanf(line, "%lx-%lx %7s", &found[count].begin, &found[count].end, flags) != 3)
            continue;
        found[count].protection = (flags[0] == 'r' ? PROT_READ : 0) | (flags[1] == 'w' ? PROT_WRITE : 0) | (flags[2] == 'x' ? PROT_EXEC : 0);
        count++;
    }
    for (int i = 0; i < count; i++) {
        size_t size = found[i].end - found[i].begin;
        void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memcpy(copy, (void *)found[i].begin, size);
        mprotect(copy, size, found[i].protection);
        if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)found[i].begin) == MAP_FAILED)
            fail("mremap");
    }
    char text[2048] = {0};
    unsigned long long field[64] = {0};
    fd = open("/proc/self/stat", O_RDONLY);
    if (read(fd, text, sizeof text - 1) <= 0)
        fail("stat");
    close(fd);
    int number = 3;
    /* Numbers are counted from 1 in proc(5); the second one, in parentheses, is the name. */
    for (char *part = strtok(strrchr(text, ')') + 2, " "); part != NULL && number < 64; part = strtok(NULL, " "))
        field[number++] = strtoull(part, NULL, 10);
    struct prctl_mm_map map_of = {
        .start_code = field[26], .end_code = field[27], .start_stack = field[28], .start_data = field[45], .end_data = field[46],
        .start_brk = field[47], .brk = (unsigned long)sbrk(0), .arg_start = field[48], .arg_end = field[49], .env_start = field[50],
        .env_end = field[51], .auxv = NULL, .auxv_size = 0, .exe_fd = open(agent, O_RDONLY),
    };
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map_of, sizeof map_of, 0) != 0)
        fail("PR_SET_MM_MAP");
    char now[256] = {0};
    if (readlink("/proc/self/exe", now, sizeof now - 1) <= 0 || strcmp(now, agent) != 0)
        fail("exe");
    sign(socket);
}

/* Runs the agent as its tracer. */
static void trace(const char *socket, const char *agent) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        become(agent, "sign", socket);
    }
    int status;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        int signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
        ptrace(PTRACE_CONT, child, 0, signal);
    }
}

/* Changes what the agent is about to ask for, in its memory. */
static void memory(const char *socket, const char *agent) {
    int talk[2];
    char byte = 'x';
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, talk) != 0)
        fail("socketpair");
    pid_t child = fork();
    if (child == 0) {
        dup2(talk[1], 0);
        become(agent, "wait", socket);
    }
    close(talk[1]);
    /* The agent has begun. */
    if (read(talk[0], &byte, 1) != 1)
        fail("agent");
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    FILE *maps = fopen(path, "r");
    snprintf(path, sizeof path, "/proc/%d/mem", child);
    int mem = open(path, O_RDWR);
    int changed = 0;
    while (maps != NULL && mem >= 0 && fgets(line, sizeof line, maps) != NULL) {
        unsigned long begin, end;
        char flags[8];
        if (sscanf(line, "%lx-%lx %7s", &begin, &end, flags) != 3 || flags[1] != 'w' || end - begin > (1 << 20))
            continue;
        char *copy = malloc(end - begin);
        if (pread(mem, copy, end - begin, begin) == (ssize_t)(end - begin)) {
            char *at = memmem(copy, end - begin, "of-agent00", 10);
            while (at != NULL) {
                changed += pwrite(mem, "of-thief00", 10, begin + (at - copy)) == 10;
                at = memmem(at + 10, copy + (end - begin) - at - 10, "of-agent00", 10);
            }
        }
        free(copy);
    }
    if (changed == 0) {
        kill(child, SIGKILL);
        printf("closed\n");
    }
    (void)!send(talk[0], &byte, 1, MSG_NOSIGNAL);
    waitpid(child, NULL, 0);
}

/* Waits until the other end of a pipe is closed: its process has ended, or has become another program. */
static void wait_for_end(const int ends[2]) {
    char end;
    close(ends[1]);
    (void)!read(ends[0], &end, 1);
    close(ends[0]);
}

/* A child has the connection of a parent that ended; the parent's number is then given to the agent. Root can ask for a number.
 * Everybody else would have to go round all of them once, which takes too long, and tries a few. */
static void pid_reuse(const char *socket, const char *agent) {
    int go[2], answered[2], become_agent[2];
    if (pipe2(go, O_CLOEXEC) != 0 || pipe2(answered, O_CLOEXEC) != 0)
        fail("pipe");
    pid_t first = fork();
    if (first == 0) {
        int fd = connected(socket);
        if (fork() == 0) {
            close(answered[0]);
            wait_for_end(go);
            ask(fd);
            answer(fd);
            exit(0);
        }
        _exit(0);
    }
    close(answered[1]);
    waitpid(first, NULL, 0);
    /* The number is free now. */
    int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    pid_t agent_pid = 0;
    for (int i = 0; i < (last >= 0 ? 1000 : 20) && agent_pid != first; i++) {
        if (last >= 0) {
            char number[16];
            snprintf(number, sizeof number, "%d", first - 1);
            (void)!pwrite(last, number, strlen(number), 0);
        }
        if (pipe2(become_agent, O_CLOEXEC) != 0)
            fail("pipe");
        agent_pid = fork();
        if (agent_pid == 0) {
            if (getpid() != first)
                _exit(0);
            become(agent, "idle", NULL);
        }
        wait_for_end(become_agent);
        if (agent_pid != first)
            waitpid(agent_pid, NULL, 0);
    }
    close(go[0]);
    close(go[1]);
    char end;
    (void)!read(answered[0], &end, 1);
    if (agent_pid == first) {
        printf("the agent has the number\n");
        kill(first, SIGKILL);
        waitpid(first, NULL, 0);
    }
}

/* Puts itself where the agent is. */
static void move(const char *socket, const char *procs) {
    int fd = open(procs, O_WRONLY);
    char number[16];
    snprintf(number, sizeof number, "%d", getpid());
    if (fd < 0 || write(fd, number, strlen(number)) < 0)
        printf("stays where it is: %s\n", strerror(errno));
    sign(socket);
}

/* Lies about its cgroup, in a mount namespace of its own. */
static void cgroup(const char *socket, const char *agent) {
    (void)agent;
    unsigned long uid = geteuid();
    if (unshare(uid == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) != 0)
        fail("unshare");
    char lie[] = "/tmp/cgroup-XXXXXX";
    int fd = mkstemp(lie);
    (void)!write(fd, "0::/system.slice/agent.service\n", 31);
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (mount(lie, "/proc/self/cgroup", NULL, MS_BIND, NULL) != 0)
        fail("mount");
    unlink(lie);
    sign(socket);
}

#ifdef PRELOAD
__attribute__((constructor)) static void preloaded(void) {
    const char *socket = getenv("PRELOADED_SOCKET");
    if (socket != NULL) {
        sign(socket);
        exit(0);
    }
}
#endif

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    const char *socket = count > 2 ? arguments[2] : "";
    const char *agent = count > 3 ? arguments[3] : "";
    if (strcmp(mode, "sign") == 0)
        sign(socket);
    else if (strcmp(mode, "answer") == 0)
        answer(atoi(socket));
    else if (strcmp(mode, "wait") == 0) {
        char byte = 'x';
        (void)!send(0, &byte, 1, MSG_NOSIGNAL);
        (void)!read(0, &byte, 1);
        sign(socket);
    } else if (strcmp(mode, "idle") == 0)
        sleep(5);
    else if (strcmp(mode, "fork-exec") == 0)
        fork_exec(socket, agent);
    else if (strcmp(mode, "write-exec") == 0)
        write_exec(socket, agent);
    else if (strcmp(mode, "exe-file") == 0)
        exe_file(socket, agent);
    else if (strcmp(mode, "trace") == 0)
        trace(socket, agent);
    else if (strcmp(mode, "memory") == 0)
        memory(socket, agent);
    else if (strcmp(mode, "pid-reuse") == 0)
        pid_reuse(socket, agent);
    else if (strcmp(mode, "cgroup") == 0)
        cgroup(socket, agent);
    else if (strcmp(mode, "move") == 0)
        move(socket, agent);
    return 0;
}
