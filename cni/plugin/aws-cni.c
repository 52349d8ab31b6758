/* The CNI executable for hosts without Python: the twin of __main__.py, which explains it.
 *
 * The frame is told in cni/wire.py; tests/plugin holds both plug-ins to one contract. Every buffer
 * is static and bounded, nothing is allocated, and untouched pages of them cost nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 12, BYTES_MAX = 1 << 20, VARIABLES_MAX = 64, ID_MAX = 200, IFNAME_MAX = 15 };
enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, INVALID_CONFIG = 7, TRY_AGAIN_LATER = 11 };
enum { LIMIT_MS = 110000, LIMIT_S_MAX = 3600 };

static const char VERSION_ANSWER[] =
    "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n";
static const unsigned char ASKS[8] = "CNI?\0\0\0\1", ANSWERS[8] = "CNI!\0\0\0\1";
static unsigned char config[BYTES_MAX + 1], frame[HEADER + BYTES_MAX], answer[HEADER + BYTES_MAX];
static size_t config_size, frame_size = HEADER;
static long long deadline_ms;

/* Write all of it; return the exit code, 1 if nobody reads. */
static int put(int code, const void *bytes, size_t size) {
    for (const char *at = bytes; size > 0;) {
        ssize_t written = write(STDOUT_FILENO, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return 1;
        at += written, size -= (size_t)written;
    }
    return code;
}

/* Print a CNI error, in the configuration's version as far as that can be seen, and end. */
static _Noreturn void fail(int code, const char *format, ...) {
    static const char *const KNOWN[] = {"\"0.3.1\"", "\"0.4.0\"", "\"1.0.0\""};
    const char *version = "\"1.1.0\"";
    char message[768], text[1024];
    const unsigned char *after = memmem(config, config_size, "\"cniVersion\"", 12);
    const unsigned char *end = config + config_size;
    if (after != NULL) {
        for (after += 12; after < end && memchr(" \t\r\n:", *after, 5) != NULL;)
            after++;
        for (size_t i = 0; i < 3; i++)
            if (end - after >= 7 && memcmp(after, KNOWN[i], 7) == 0)
                version = KNOWN[i];
    }
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    /* A path of the environment is in it: whatever a JSON string may not hold becomes '?'. */
    for (char *c = message; *c != '\0'; c++)
        if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
            *c = '?';
    int size = snprintf(text, sizeof text, "{\"cniVersion\":%s,\"code\":%d,\"msg\":\"%s\"}\n",
                        version, code, message);
    exit(put(1, text, (size_t)size));
}

static const char *variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : otherwise;
}

static const char *state_dir(void) { return variable("WARMBENCH_STATE_DIR", "/var/run/aws-node"); }

/* Return milliseconds that never run backwards. */
static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Read the time limit in milliseconds: up to four digits, and up to three behind a point. */
static long limit_ms(void) {
    static const char *const DIGITS = "0123456789";
    const char *text = variable("WARMBENCH_PLUGIN_TIMEOUT", NULL);
    if (text == NULL)
        return LIMIT_MS;
    size_t whole = strspn(text, DIGITS), part = 0;
    const char *end = text + whole;
    long ms = 0, unit = 100;
    if (*end == '.') {
        part = strspn(end + 1, DIGITS);
        for (size_t i = 1; i <= part && i <= 3; i++, unit /= 10)
            ms += (end[i] - '0') * unit;
        end += 1 + part;
    }
    if (whole >= 1 && whole <= 4)
        ms += strtol(text, NULL, 10) * 1000;
    if (whole < 1 || whole > 4 || part > 3 || (end == text + whole + 1) || *end != '\0' || ms < 1 ||
        ms > LIMIT_S_MAX * 1000L)
        fail(INVALID_ENVIRONMENT,
             "WARMBENCH_PLUGIN_TIMEOUT must be seconds, more than 0 and at most %d", LIMIT_S_MAX);
    return ms;
}

/* A socket must not become standard output where the caller closed that. */
static void fill_standard_streams(void) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            _exit(1);
}

/* Read the configuration, at most one byte more than a frame holds. */
static void read_config(void) {
    while (config_size < sizeof config) {
        ssize_t got = read(STDIN_FILENO, config + config_size, sizeof config - config_size);
        if (got == 0)
            return;
        if (got > 0)
            config_size += (size_t)got;
        else if (errno != EINTR)
            fail(IO_FAILURE, "cannot read standard input: %s", strerror(errno));
    }
}

static void put_number(unsigned char *at, size_t value) {
    for (int i = 3; i >= 0; i--, value >>= 8)
        at[i] = value & 0xff;
}

/* Append bytes and their length to the frame. */
static void append(const void *bytes, size_t size) {
    if (size + 4 > sizeof frame - frame_size)
        fail(INVALID_CONFIG,
             "the CNI variables and standard input have together more than %d bytes", BYTES_MAX);
    put_number(frame + frame_size, size);
    memcpy(frame + frame_size + 4, bytes, size);
    frame_size += 4 + size;
}

/* Tell whether no entry of the environment before this one has the same name. */
static int is_first(char **entry, size_t name) {
    for (char **e = environ; e < entry; e++)
        if (strncmp(*e, *entry, name + 1) == 0)
            return 0;
    return 1;
}

/* Encode the request as `wire.encode_request` does. */
static void fill_frame(void) {
    size_t count = 0;
    frame_size = HEADER + 4;
    for (char **e = environ; *e != NULL; e++) {
        const char *equals = strchr(*e, '=');
        if (strncmp(*e, "CNI_", 4) != 0 || equals == NULL || !is_first(e, (size_t)(equals - *e)))
            continue;
        if (++count > VARIABLES_MAX)
            fail(INVALID_ENVIRONMENT, "more than %d variables begin with CNI_", VARIABLES_MAX);
        append(*e, (size_t)(equals - *e));
        append(equals + 1, strlen(equals + 1));
    }
    append(config, config_size);
    memcpy(frame, ASKS, sizeof ASKS);
    put_number(frame + 8, frame_size - HEADER);
    put_number(frame + HEADER, count);
}

/* End with what an errno means for a daemon that is, or may be, there. */
static _Noreturn void fail_to_ask(int error) {
    if (error == EAGAIN)
        fail(TRY_AGAIN_LATER, "the daemon did not answer within %.200s s; see its log",
             variable("WARMBENCH_PLUGIN_TIMEOUT", "110"));
    fail(TRY_AGAIN_LATER,
         "no daemon answers at %.200s/cni.sock (%s); the aws-node pod of this node must run",
         state_dir(), strerror(error));
}

/* Let the next call on the socket wait until the deadline and no longer. */
static void allow(int sock) {
    long long left = deadline_ms - now_ms();
    if (left <= 0)
        fail_to_ask(EAGAIN);
    struct timeval limit = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

/* Connect to the daemon; return the socket, or -1 with errno when nobody is there. */
static int connect_to_daemon(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int size = snprintf(address.sun_path, sizeof address.sun_path, "%s/cni.sock", state_dir());
    if (size < 0 || (size_t)size >= sizeof address.sun_path)
        fail(INVALID_ENVIRONMENT, "WARMBENCH_STATE_DIR may have at most %zu bytes",
             sizeof address.sun_path - sizeof "/cni.sock");
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        fail_to_ask(errno);
    for (;;) {
        allow(sock);
        if (connect(sock, (struct sockaddr *)&address, sizeof address) == 0)
            return sock;
        if (errno == ENOENT || errno == ECONNREFUSED)
            break;
        if (errno != EINTR)
            fail_to_ask(errno);
    }
    int error = errno;
    close(sock);
    errno = error;
    return -1;
}

/* Send the frame, the namespace's descriptor with its first byte if there is one. */
static void send_frame(int sock, int netns) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    for (size_t sent = 0; sent < frame_size;) {
        struct iovec part = {.iov_base = frame + sent, .iov_len = frame_size - sent};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (sent == 0 && netns >= 0) {
            message.msg_control = control.bytes;
            message.msg_controllen = sizeof control.bytes;
            struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(sizeof netns);
            memcpy(CMSG_DATA(rights), &netns, sizeof netns);
        }
        allow(sock);
        ssize_t got = sendmsg(sock, &message, MSG_NOSIGNAL);
        if (got >= 0)
            sent += (size_t)got;
        else if (errno == EPIPE || errno == ECONNRESET)
            return; /* It may have refused halfway: what it said is still there to be read. */
        else if (errno != EINTR)
            fail_to_ask(errno);
    }
}

/* Receive more of the answer, until it has so many bytes. */
static void receive(int sock, size_t *got, size_t size) {
    while (*got < size) {
        allow(sock);
        ssize_t more = recv(sock, answer + *got, size - *got, 0);
        if (more > 0)
            *got += (size_t)more;
        else if (more == 0)
            fail(TRY_AGAIN_LATER,
                 "the daemon closed the connection without an answer; see its log");
        else if (errno != EINTR)
            fail_to_ask(errno);
    }
}

/* Receive the answer; return its size. */
static size_t receive_answer(int sock) {
    size_t got = 0, size = 0;
    receive(sock, &got, HEADER);
    if (memcmp(answer, ANSWERS, sizeof ANSWERS) != 0)
        fail(TRY_AGAIN_LATER,
             "the daemon speaks another frame version: plug-in and daemon must be of one release");
    for (int i = 8; i < HEADER; i++)
        size = size << 8 | answer[i];
    if (size < 1 || size > BYTES_MAX)
        fail(TRY_AGAIN_LATER, "the daemon's answer has a length that none may have");
    receive(sock, &got, HEADER + size);
    return size;
}

/* Return what is amiss with the names of a tombstone, or NULL. */
static const char *amiss(const char *container, const char *ifname) {
    static const char ID[] = "_.-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    size_t length = strlen(container), ifname_length = strlen(ifname);
    if (length < 1 || length > ID_MAX || strspn(container, ID) != length ||
        strchr("_.-", *container) != NULL)
        return "CNI_CONTAINERID is missing or not a container ID";
    if (ifname_length < 1 || ifname_length > IFNAME_MAX || strpbrk(ifname, "/: \t\n\v\f\r") ||
        strcmp(ifname, ".") == 0 || strcmp(ifname, "..") == 0)
        return "CNI_IFNAME is missing or not an interface's name";
    return NULL;
}

/* Write the request's body to a draft in the folder and give it its name; 0, or -1 with errno. */
static int write_tombstone(int folder, const char *draft, const char *name) {
    if (unlinkat(folder, draft, 0) < 0 && errno != ENOENT)
        return -1;
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int file = openat(folder, draft, flags, 0600);
    if (file < 0)
        return -1;
    ssize_t got = 0;
    for (size_t at = HEADER; at < frame_size && got >= 0; at += (size_t)got)
        if ((got = write(file, frame + at, frame_size - at)) < 0 && errno == EINTR)
            got = 0;
    int error = got < 0 || renameat(folder, draft, folder, name) < 0 ? errno : 0;
    close(file);
    if (error != 0)
        unlinkat(folder, draft, 0);
    errno = error;
    return error == 0 ? 0 : -1;
}

/* Leave a tombstone: the request's body, in a file named for container and interface. */
static int bury(void) {
    const char *container = variable("CNI_CONTAINERID", ""), *ifname = variable("CNI_IFNAME", "");
    const char *wrong = amiss(container, ifname);
    char path[sizeof((struct sockaddr_un *)0)->sun_path + 16], name[ID_MAX + IFNAME_MAX + 2];
    char draft[32];
    struct stat status;
    if (wrong != NULL)
        fail(INVALID_ENVIRONMENT, "%s", wrong);
    /* The directory's length was checked before the socket's path was tried. */
    snprintf(path, sizeof path, "%s/tombstones", state_dir());
    snprintf(name, sizeof name, "%s:%s", container, ifname);
    snprintf(draft, sizeof draft, ".%ld", (long)getpid());
    int folder = -1;
    if ((mkdir(state_dir(), 0700) == 0 || errno == EEXIST) &&
        (mkdir(path, 0700) == 0 || errno == EEXIST))
        folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int good = folder >= 0 && fstat(folder, &status) == 0;
    if (good && (status.st_uid != geteuid() || (status.st_mode & 022) != 0))
        fail(TRY_AGAIN_LATER, "no daemon answers, and the DEL cannot be noted in %.200s: %s", path,
             "others may write there");
    if (!good || write_tombstone(folder, draft, name) < 0)
        fail(TRY_AGAIN_LATER, "no daemon answers, and the DEL cannot be noted in %.200s: %s", path,
             strerror(errno));
    close(folder);
    return 0;
}

int main(void) {
    fill_standard_streams();
    /* An output that nobody reads and a file that may not grow are errors to be told. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    const char *command = variable("CNI_COMMAND", "");
    /* VERSION is known without a daemon, and a runtime may ask for it long before. */
    if (strcmp(command, "VERSION") == 0)
        return put(0, VERSION_ANSWER, sizeof VERSION_ANSWER - 1);
    read_config();
    fill_frame();
    deadline_ms = now_ms() + limit_ms();
    int sock = connect_to_daemon();
    if (sock < 0) {
        if (strcmp(command, "DEL") == 0)
            return bury();
        fail_to_ask(errno);
    }
    /* Whatever else the path may name, a FIFO for one, opening it must not wait. */
    int netns = open(variable("CNI_NETNS", ""), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    send_frame(sock, netns);
    size_t size = receive_answer(sock);
    if (netns >= 0)
        close(netns);
    close(sock);
    return put(answer[HEADER], answer + HEADER + 1, size - 1);
}
