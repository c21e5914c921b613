/*
 * A foreign client: calls every procedure of NLM (versions 1, 3 and 4) or NSM of a server, with
 * encoders made by rpcgen, and prints a line for each answer. It is the client's lockd too: what the
 * server calls back is printed and answered. All of it runs in one thread, so lines have an order.
 *
 *     caller nlm|nsm SERVER udp|tcp
 */

#include <poll.h>
#include <rpc/rpc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "nlm_prot.h"
#include "sm_inter.h"

#define NAME "foreign.test"
#define COOKIE "cookie"
#define MAX_POLLED 64

static const struct timeval PATIENCE = {10, 0};
static const char *transport;
static bool heard;

static void die(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* What a lock request asks for. */
struct ask {
    int svid;
    unsigned long long offset, len;
    bool exclusive, block, reclaim;
    fsh_mode deny;
    fsh_access access;
};

enum shape { VOID, TEST, LOCK, CANCEL, UNLOCK, SHARE, NOTIFY, RES, TEST_RES, SHARE_RES };

static const struct row {
    u_long number;
    const char *name;
    enum shape args, results;
} ROWS[] = {
    {0, "NULL", VOID, VOID},
    {1, "TEST", TEST, TEST_RES},
    {2, "LOCK", LOCK, RES},
    {3, "CANCEL", CANCEL, RES},
    {4, "UNLOCK", UNLOCK, RES},
    {5, "GRANTED", TEST, RES},
    {6, "TEST_MSG", TEST, VOID},
    {7, "LOCK_MSG", LOCK, VOID},
    {8, "CANCEL_MSG", CANCEL, VOID},
    {9, "UNLOCK_MSG", UNLOCK, VOID},
    {10, "GRANTED_MSG", TEST, VOID},
    {11, "TEST_RES", TEST_RES, VOID},
    {12, "LOCK_RES", RES, VOID},
    {13, "CANCEL_RES", RES, VOID},
    {14, "UNLOCK_RES", RES, VOID},
    {15, "GRANTED_RES", RES, VOID},
    {16, "SM_NOTIFY", NOTIFY, VOID},
    {20, "SHARE", SHARE, SHARE_RES},
    {21, "UNSHARE", SHARE, SHARE_RES},
    {22, "NM_LOCK", LOCK, RES},
    {23, "FREE_ALL", NOTIFY, VOID},
    {24, "24", VOID, VOID},
};

static const struct row *row_of(u_long number) {
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (ROWS[i].number == number)
            return &ROWS[i];
    return NULL;
}

static netobj opaque(const char *text) {
    netobj object = {strlen(text), (char *)text};
    return object;
}

static netobj owner(int svid) {
    static char text[4][16];
    char *to = text[svid & 3];
    snprintf(to, sizeof text[0], "owner%d", svid);
    return opaque(to);
}

/* Arguments and results of any procedure. */
union any {
    nlm_testargs test;
    nlm_lockargs lock;
    nlm_cancargs cancel;
    nlm_unlockargs unlock;
    nlm_shareargs share;
    nlm_res res;
    nlm_testres test_res;
    nlm_shareres share_res;
    nlm_notify notify;
    nlm4_testargs test4;
    nlm4_lockargs lock4;
    nlm4_cancargs cancel4;
    nlm4_unlockargs unlock4;
    nlm4_shareargs share4;
    nlm4_res res4;
    nlm4_testres test_res4;
    nlm4_shareres share_res4;
};

static xdrproc_t coder(u_long version, enum shape shape) {
    bool v4 = version == 4;
    switch (shape) {
    case TEST: return v4 ? (xdrproc_t)xdr_nlm4_testargs : (xdrproc_t)xdr_nlm_testargs;
    case LOCK: return v4 ? (xdrproc_t)xdr_nlm4_lockargs : (xdrproc_t)xdr_nlm_lockargs;
    case CANCEL: return v4 ? (xdrproc_t)xdr_nlm4_cancargs : (xdrproc_t)xdr_nlm_cancargs;
    case UNLOCK: return v4 ? (xdrproc_t)xdr_nlm4_unlockargs : (xdrproc_t)xdr_nlm_unlockargs;
    case SHARE: return v4 ? (xdrproc_t)xdr_nlm4_shareargs : (xdrproc_t)xdr_nlm_shareargs;
    case RES: return v4 ? (xdrproc_t)xdr_nlm4_res : (xdrproc_t)xdr_nlm_res;
    case TEST_RES: return v4 ? (xdrproc_t)xdr_nlm4_testres : (xdrproc_t)xdr_nlm_testres;
    case SHARE_RES: return v4 ? (xdrproc_t)xdr_nlm4_shareres : (xdrproc_t)xdr_nlm_shareres;
    case NOTIFY: return (xdrproc_t)xdr_nlm_notify;
    case VOID: break;
    }
    return (xdrproc_t)xdr_void;
}

/* A file for each version: what one leaves behind is not in another's way. */
static netobj file(u_long version) {
    static const char *const names[] = {"file0", "file1", "file2", "file3", "file4"};
    return opaque(names[version]);
}

static void fill(union any *any, u_long version, enum shape shape, const struct ask *ask) {
    netobj cookie = opaque(COOKIE);
    nlm_lock lock = {NAME, file(version), owner(ask->svid), ask->svid, (u_int)ask->offset, (u_int)ask->len};
    nlm4_lock lock4 = {NAME, file(version), owner(ask->svid), ask->svid, ask->offset, ask->len};
    bool v4 = version == 4;
    memset(any, 0, sizeof *any);
    switch (shape) {
    case VOID:
        break;
    case TEST:
        if (v4) any->test4 = (nlm4_testargs){cookie, ask->exclusive, lock4};
        else any->test = (nlm_testargs){cookie, ask->exclusive, lock};
        break;
    case LOCK:
        if (v4) any->lock4 = (nlm4_lockargs){cookie, ask->block, ask->exclusive, lock4, ask->reclaim, 3};
        else any->lock = (nlm_lockargs){cookie, ask->block, ask->exclusive, lock, ask->reclaim, 3};
        break;
    case CANCEL:
        if (v4) any->cancel4 = (nlm4_cancargs){cookie, ask->block, ask->exclusive, lock4};
        else any->cancel = (nlm_cancargs){cookie, ask->block, ask->exclusive, lock};
        break;
    case UNLOCK:
        if (v4) any->unlock4 = (nlm4_unlockargs){cookie, lock4};
        else any->unlock = (nlm_unlockargs){cookie, lock};
        break;
    case SHARE:
        if (v4) any->share4 = (nlm4_shareargs){cookie, {NAME, file(version), owner(ask->svid), ask->deny, ask->access}, false};
        else any->share = (nlm_shareargs){cookie, {NAME, file(version), owner(ask->svid), ask->deny, ask->access}, false};
        break;
    case NOTIFY:
        any->notify = (nlm_notify){NAME, 0};
        break;
    case RES:
        if (v4) any->res4.cookie = cookie;
        else any->res.cookie = cookie;
        break;
    case TEST_RES:
        if (v4) any->test_res4.cookie = cookie;
        else any->test_res.cookie = cookie;
        break;
    case SHARE_RES:
        break;
    }
}

static const char *status(int stat) {
    static const char *const names[] = {"GRANTED", "DENIED", "DENIED_NOLOCKS", "BLOCKED", "DENIED_GRACE_PERIOD",
                                        "DEADLCK", "ROFS", "STALE_FH", "FBIG", "FAILED"};
    return stat >= 0 && stat < 10 ? names[stat] : "a status that is none";
}

static void print_cookie(netobj cookie) {
    if (cookie.n_len != strlen(COOKIE) || memcmp(cookie.n_bytes, COOKIE, cookie.n_len) != 0)
        printf(", with another cookie");
}

static void print_holder(int svid, netobj oh, bool exclusive, unsigned long long offset, unsigned long long len) {
    printf("%s of %d (%.*s), %llu+%llu", exclusive ? "exclusive" : "shared", svid, (int)oh.n_len, oh.n_bytes, offset,
           len);
}

static void print(union any *any, u_long version, enum shape shape) {
    bool v4 = version == 4;
    switch (shape) {
    case VOID:
        printf("void");
        break;
    case RES:
        printf("%s", status(v4 ? (int)any->res4.stat : (int)any->res.stat));
        print_cookie(v4 ? any->res4.cookie : any->res.cookie);
        break;
    case SHARE_RES:
        printf("%s", status(v4 ? (int)any->share_res4.stat : (int)any->share_res.stat));
        print_cookie(v4 ? any->share_res4.cookie : any->share_res.cookie);
        break;
    case TEST_RES:
        if (v4) {
            nlm4_holder *holder = &any->test_res4.test_stat.nlm4_testrply_u.holder;
            printf("%s", status(any->test_res4.test_stat.stat));
            if (any->test_res4.test_stat.stat == NLM4_DENIED)
                printf(": "), print_holder(holder->svid, holder->oh, holder->exclusive, holder->l_offset, holder->l_len);
            print_cookie(any->test_res4.cookie);
        } else {
            nlm_holder *holder = &any->test_res.test_stat.nlm_testrply_u.holder;
            printf("%s", status(any->test_res.test_stat.stat));
            if (any->test_res.test_stat.stat == LCK_DENIED)
                printf(": "), print_holder(holder->uppid, holder->oh, holder->exclusive, holder->l_offset, holder->l_len);
            print_cookie(any->test_res.cookie);
        }
        break;
    case TEST:
        if (v4) {
            nlm4_lock *lock = &any->test4.alock;
            print_holder(lock->svid, lock->oh, any->test4.exclusive, lock->l_offset, lock->l_len);
        } else {
            nlm_lock *lock = &any->test.alock;
            print_holder(lock->uppid, lock->oh, any->test.exclusive, lock->l_offset, lock->l_len);
        }
        print_cookie(v4 ? any->test4.cookie : any->test.cookie);
        break;
    default:
        printf("?");
    }
}

static void print_error(CLIENT *client, enum clnt_stat outcome) {
    struct rpc_err error;
    clnt_geterr(client, &error);
    switch (outcome) {
    case RPC_PROCUNAVAIL: printf("PROC_UNAVAIL"); break;
    case RPC_CANTDECODEARGS: printf("GARBAGE_ARGS"); break;
    case RPC_PROGVERSMISMATCH:
        printf("PROG_MISMATCH %lu-%lu", (u_long)error.re_vers.low, (u_long)error.re_vers.high);
        break;
    default: printf("%s", clnt_sperrno(outcome));
    }
}

/* The client's lockd. */
static void called_back(struct svc_req *request, SVCXPRT *socket) {
    static union any any;
    int type;
    socklen_t size = sizeof type;
    const struct row *row = row_of(request->rq_proc);
    if (request->rq_proc == 0) {
        svc_sendreply(socket, (xdrproc_t)xdr_void, NULL);
        return;
    }
    if (row == NULL || row->args == VOID) {
        svcerr_noproc(socket);
        return;
    }
    memset(&any, 0, sizeof any);
    if (!svc_getargs(socket, coder(request->rq_vers, row->args), (char *)&any)) {
        printf("v%lu %-11s <- cannot be decoded\n", (u_long)request->rq_vers, row->name);
        svcerr_decode(socket);
        return;
    }
    printf("v%lu %-11s <- ", (u_long)request->rq_vers, row->name);
    print(&any, request->rq_vers, row->args);
    getsockopt(socket->xp_fd, SOL_SOCKET, SO_TYPE, &type, &size);
    if ((type == SOCK_DGRAM) != (strcmp(transport, "udp") == 0))
        printf(", over another transport");
    printf("\n");
    if (row->results == VOID) {
        svc_sendreply(socket, (xdrproc_t)xdr_void, NULL);
    } else {
        struct ask none = {0};
        fill(&any, request->rq_vers, RES, &none);
        svc_sendreply(socket, coder(request->rq_vers, RES), (char *)&any);
    }
    heard = true;
}

static void await_call_back(void) {
    heard = false;
    while (!heard) {
        struct pollfd polled[MAX_POLLED];
        int count = svc_max_pollfd < MAX_POLLED ? svc_max_pollfd : MAX_POLLED;
        memcpy(polled, svc_pollfd, (size_t)count * sizeof *polled);
        int ready = poll(polled, (nfds_t)count, (int)PATIENCE.tv_sec * 1000);
        if (ready <= 0) {
            printf("nothing comes back\n");
            return;
        }
        svc_getreq_poll(polled, ready);
    }
}

static void call_with(CLIENT *client, u_long version, u_long number, const char *what, struct ask ask, bool cut) {
    static union any args, results;
    const struct row *row = row_of(number);
    fill(&args, version, row->args, &ask);
    memset(&results, 0, sizeof results);
    xdrproc_t encode = cut ? (xdrproc_t)xdr_void : coder(version, row->args);
    enum clnt_stat outcome = clnt_call(client, number, encode, (char *)&args, coder(version, row->results),
                                       (char *)&results, PATIENCE);
    printf("v%lu %-11s %s%s-> ", version, row->name, what, *what ? " " : "");
    if (outcome == RPC_SUCCESS)
        print(&results, version, row->results);
    else
        print_error(client, outcome);
    printf("\n");
}

static CLIENT *reach(const char *server, u_long program, u_long version) {
    CLIENT *client = clnt_create(server, program, version, transport);
    if (client == NULL) {
        clnt_pcreateerror(server);
        exit(1);
    }
    client->cl_auth = authunix_create_default();
    return client;
}

static void nlm(const char *server, u_long version) {
    CLIENT *client = reach(server, NLM_PROG, version);
    const struct ask one = {.svid = 1, .len = 100, .exclusive = true};
    const struct ask two = {.svid = 2, .len = 100, .exclusive = true};
    struct ask waits = two, reclaims = {.svid = 3, .len = 100, .exclusive = true, .reclaim = true};
    waits.block = true;
#define CALL(number, what, ask) call_with(client, version, number, what, ask, false)
    CALL(0, "", one);
    CALL(1, "of a free range", one);
    CALL(2, "of a free range", one);
    CALL(2, "once more", one);
    CALL(1, "of another's range", two);
    CALL(2, "of another's range", two);
    CALL(2, "of another's range, waiting", waits);
    CALL(3, "of the waiter", waits);
    CALL(2, "of another's range, waiting", waits);
    CALL(4, "by the holder", one);
    await_call_back();
    CALL(1, "of what the waiter has now", one);
    CALL(4, "by the waiter", two);
    CALL(4, "of nothing", two);
    CALL(2, "as a reclaim, without grace", reclaims);
    call_with(client, version, 2, "without arguments", one, true);
    CALL(5, "to a server", one);

    CALL(7, "of a free range", one);
    await_call_back();
    CALL(6, "of another's range", two);
    await_call_back();
    CALL(7, "of another's range, waiting", waits);
    await_call_back();
    CALL(8, "of the waiter", waits);
    await_call_back();
    CALL(9, "by the holder", one);
    await_call_back();
    CALL(6, "of a free range", two);
    await_call_back();
    CALL(10, "to a server", one);
    await_call_back();
    for (u_long number = 11; number <= 15; number++)
        CALL(number, "without a question", one);
    CALL(16, "from another host", one);

    struct ask low = {.svid = 1, .len = 10, .exclusive = true}, high = {.svid = 2, .offset = 20, .len = 10, .exclusive = true};
    struct ask low_waits = {.svid = 1, .offset = 20, .len = 10, .exclusive = true, .block = true};
    struct ask high_waits = {.svid = 2, .len = 10, .exclusive = true, .block = true};
    CALL(2, "of 0-9 by 1", low);
    CALL(2, "of 20-29 by 2", high);
    CALL(2, "of 20-29 by 1, waiting", low_waits);
    CALL(2, "of 0-9 by 2, waiting", high_waits);
    CALL(3, "of the waiter", low_waits);
    CALL(23, "of all of them", one);
    CALL(4, "by 1", low);
    CALL(4, "by 2", high);

    struct ask reads = {.svid = 1, .access = fsa_R, .deny = fsm_DW}, writes = {.svid = 2, .access = fsa_W, .deny = fsm_DN};
    CALL(20, "to read, denying writers", reads);
    CALL(20, "to write", writes);
    CALL(21, "by the reader", reads);
    CALL(20, "to write", writes);
    CALL(21, "by the writer", writes);
    CALL(22, "of a free range", one);
    CALL(22, "of another's range", two);
    CALL(23, "", one);
    CALL(1, "of what was freed", two);
    CALL(4, "by the holder", one);

    struct ask at_the_end = {.svid = 1, .offset = 0xfffffff0u, .exclusive = true}, after = {.svid = 1, .offset = 0xfffffff0u, .len = 0x100, .exclusive = true};
    CALL(2, "to the end of the file", at_the_end);
    CALL(1, "of another's, to the end of the file", ((struct ask){.svid = 2, .offset = 0xfffffff0u, .exclusive = true}));
    CALL(4, "to the end of the file", at_the_end);
    CALL(2, "across 32 bits", after);
    CALL(1, "of another's, across 32 bits", ((struct ask){.svid = 2, .exclusive = true}));
    CALL(4, "across 32 bits", after);
    if (version == 4)
        CALL(2, "across 64 bits", ((struct ask){.svid = 1, .offset = 0xfffffffffffffff0ull, .len = 0x100, .exclusive = true}));
    CALL(24, "", one);
    clnt_destroy(client);
}

/* A lock that only version 4 can say, met in the others. */
static void beyond(const char *server) {
    struct ask far = {.svid = 1, .offset = 1ull << 32, .len = 10, .exclusive = true};
    struct ask all = {.svid = 2, .exclusive = true};
    CLIENT *v4 = reach(server, NLM_PROG, 4);
    for (u_long version = 1; version <= 3; version += 2) {
        CLIENT *client = reach(server, NLM_PROG, version);
        union any args, results;
        fill(&args, 4, LOCK, &far);
        args.lock4.alock.fh = file(version);
        memset(&results, 0, sizeof results);
        if (clnt_call(v4, 2, coder(4, LOCK), (char *)&args, coder(4, RES), (char *)&results, PATIENCE) != RPC_SUCCESS)
            die("version 4 cannot lock");
        call_with(client, version, 1, "of all, with a lock of version 4 beyond 32 bits", all, false);
        call_with(client, version, 2, "of all, with a lock of version 4 beyond 32 bits", all, false);
        clnt_destroy(client);
    }
    call_with(v4, 4, 23, "of all of them", all, false);
    u_long version = 2;
    clnt_control(v4, CLSET_VERS, (char *)&version);
    call_with(v4, 2, 0, "", all, false);
    clnt_destroy(v4);
}

enum nsm_shape { NSM_VOID, NSM_RESULT, NSM_STATE };

static void call_nsm(CLIENT *client, u_long number, const char *name, xdrproc_t encode, void *args, enum nsm_shape shape) {
    static const xdrproc_t decoders[] = {(xdrproc_t)xdr_void, (xdrproc_t)xdr_sm_stat_res, (xdrproc_t)xdr_sm_stat};
    union {
        sm_stat_res result;
        sm_stat stat;
    } results = {0};
    enum clnt_stat outcome = clnt_call(client, number, encode, (char *)args, decoders[shape], (char *)&results, PATIENCE);
    printf("nsm %-13s -> ", name);
    if (outcome != RPC_SUCCESS)
        print_error(client, outcome);
    else if (shape == NSM_VOID)
        printf("void");
    else if (shape == NSM_STATE)
        printf("the state is %s", results.stat.state & 1 ? "odd" : "even");
    else
        printf("%s, the state is %s", results.result.res_stat == stat_succ ? "stat_succ" : "stat_fail",
               results.result.state & 1 ? "odd" : "even");
    printf("\n");
}

static void nsm(const char *server) {
    CLIENT *client = reach(server, SM_PROG, SM_VERS);
    sm_name name = {NAME};
    my_id me = {"localhost", NLM_PROG, 4, 16};
    mon_id whom = {NAME, me};
    mon monitor = {whom, "0123456789abcde"};
    stat_chge change = {"nobody.test", 5};
    xdrproc_t nothing = (xdrproc_t)xdr_void;
    call_nsm(client, SM_NULL, "NULL", nothing, NULL, NSM_VOID);
    call_nsm(client, SM_STAT, "SM_STAT", (xdrproc_t)xdr_sm_name, &name, NSM_RESULT);
    call_nsm(client, SM_MON, "SM_MON", (xdrproc_t)xdr_mon, &monitor, NSM_RESULT);
    call_nsm(client, SM_UNMON, "SM_UNMON", (xdrproc_t)xdr_mon_id, &whom, NSM_STATE);
    call_nsm(client, SM_UNMON_ALL, "SM_UNMON_ALL", (xdrproc_t)xdr_my_id, &me, NSM_STATE);
    call_nsm(client, SM_SIMU_CRASH, "SM_SIMU_CRASH", nothing, NULL, NSM_VOID);
    call_nsm(client, SM_NOTIFY, "SM_NOTIFY", (xdrproc_t)xdr_stat_chge, &change, NSM_VOID);
    call_nsm(client, 7, "7", nothing, NULL, NSM_VOID);
    clnt_destroy(client);
}

int main(int argc, char **argv) {
    if (argc != 4)
        die("usage: caller nlm|nsm SERVER udp|tcp");
    transport = argv[3];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(argv[1], "nsm") == 0) {
        nsm(argv[2]);
        return 0;
    }
    for (u_long version = 1; version <= 4; version++)
        if (version != 2 && (svc_create(called_back, NLM_PROG, version, "udp") == 0 || svc_create(called_back, NLM_PROG, version, "tcp") == 0))
            die("cannot register with rpcbind");
    for (u_long version = 1; version <= 4; version++)
        if (version != 2)
            nlm(argv[2], version);
    beyond(argv[2]);
    return 0;
}
