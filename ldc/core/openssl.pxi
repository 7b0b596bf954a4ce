# OpenSSL, as the interpreter's own `_ssl` is linked to it: found at run time, called without the GIL.
#
# Rule 1: nothing is linked at build time. The table below holds public functions of OpenSSL 3; the numbers beside it
#         are those of its public macros. Python's security updates are ours, and no struct of CPython is touched.
# Rule 2: one thread at a time uses a connection. `busy` refuses a second one: it gets TLS_BUSY and nothing happens.
# Rule 3: the thread's error queue is empty after each call. Python's `ssl` would take what is left there for its own.
# Rule 4: a connection that failed stays failed: each later call returns TLS_FAILED, and the reason is kept in it.
#
# SIGPIPE: OpenSSL writes with write(2), so a peer that is gone raises it, as under Python's `ssl`. Python ignores it
# from its start on; a program that restores the default is ended by it.

cdef extern from *:
    """
    #if defined(_WIN32)
    #define LDC_HAS_DLOPEN 0
    #else
    #define LDC_HAS_DLOPEN 1
    #include <dlfcn.h>
    #include <poll.h>
    #endif
    #include <errno.h>

    /* What is used of OpenSSL: result, name, parameters. Objects are pointers to what is not known here. */
    #define LDC_OPENSSL_FUNCTIONS(X) \\
        X(unsigned long, OpenSSL_version_num, (void)) \\
        X(const char *, OpenSSL_version, (int)) \\
        X(unsigned long, ERR_peek_last_error, (void)) \\
        X(void, ERR_clear_error, (void)) \\
        X(const char *, ERR_reason_error_string, (unsigned long)) \\
        X(const char *, ERR_lib_error_string, (unsigned long)) \\
        X(const void *, TLS_client_method, (void)) \\
        X(void *, SSL_CTX_new, (const void *)) \\
        X(void, SSL_CTX_free, (void *)) \\
        X(long, SSL_CTX_ctrl, (void *, int, long, void *)) \\
        X(uint64_t, SSL_CTX_get_options, (const void *)) \\
        X(uint64_t, SSL_CTX_set_options, (void *, uint64_t)) \\
        X(uint64_t, SSL_CTX_clear_options, (void *, uint64_t)) \\
        X(void, SSL_CTX_set_verify, (void *, int, void *)) \\
        X(void, SSL_CTX_set_security_level, (void *, int)) \\
        X(int, SSL_CTX_set_cipher_list, (void *, const char *)) \\
        X(int, SSL_CTX_set_ciphersuites, (void *, const char *)) \\
        X(void, SSL_CTX_set_default_read_buffer_len, (void *, size_t)) \\
        X(int, SSL_CTX_set_default_verify_paths, (void *)) \\
        X(int, SSL_CTX_load_verify_locations, (void *, const char *, const char *)) \\
        X(void *, SSL_CTX_get0_param, (void *)) \\
        X(unsigned long, X509_VERIFY_PARAM_get_flags, (void *)) \\
        X(int, X509_VERIFY_PARAM_set_flags, (void *, unsigned long)) \\
        X(int, X509_VERIFY_PARAM_clear_flags, (void *, unsigned long)) \\
        X(void, X509_VERIFY_PARAM_set_hostflags, (void *, unsigned int)) \\
        X(int, X509_VERIFY_PARAM_set1_host, (void *, const char *, size_t)) \\
        X(int, X509_VERIFY_PARAM_set1_ip_asc, (void *, const char *)) \\
        X(const char *, X509_verify_cert_error_string, (long)) \\
        X(void *, SSL_new, (void *)) \\
        X(void, SSL_free, (void *)) \\
        X(long, SSL_ctrl, (void *, int, long, void *)) \\
        X(int, SSL_set_fd, (void *, int)) \\
        X(void, SSL_set_connect_state, (void *)) \\
        X(void *, SSL_get0_param, (void *)) \\
        X(long, SSL_get_verify_result, (const void *)) \\
        X(int, SSL_do_handshake, (void *)) \\
        X(int, SSL_is_init_finished, (const void *)) \\
        X(const char *, SSL_get_version, (const void *)) \\
        X(int, SSL_read_ex, (void *, void *, size_t, size_t *)) \\
        X(int, SSL_write_ex, (void *, const void *, size_t, size_t *)) \\
        X(int, SSL_pending, (const void *)) \\
        X(int, SSL_has_pending, (const void *)) \\
        X(int, SSL_get_error, (const void *, int)) \\
        X(int, SSL_shutdown, (void *))

    typedef struct {
    #define LDC_MEMBER(result, name, parameters) result (*name) parameters;
        LDC_OPENSSL_FUNCTIONS(LDC_MEMBER)
    #undef LDC_MEMBER
    } ldc_openssl_table;
    static ldc_openssl_table ldc_openssl;

    /* Fill the table from the file of `_ssl`. Returns NULL, or what is missing. `without`: for tests, a name that is
       treated as missing. The handle is kept for ever. */
    static const char *ldc_openssl_load(const char *file, const char *without) {
    #if LDC_HAS_DLOPEN
        ldc_openssl_table found;
        void *symbol, *handle = dlopen(file, RTLD_NOW | RTLD_NOLOAD);
        if (handle == NULL)
            handle = dlopen(file, RTLD_NOW);
        if (handle == NULL)
            return "dlopen";
        /* The handle finds what the file itself is linked to, not what else is in the process. */
    #define LDC_FIND(result, name, parameters) \\
        symbol = strcmp(without, #name) == 0 ? NULL : dlsym(handle, #name); \\
        if (symbol == NULL) \\
            return #name; \\
        memcpy(&found.name, &symbol, sizeof(symbol));
        LDC_OPENSSL_FUNCTIONS(LDC_FIND)
    #undef LDC_FIND
        ldc_openssl = found;
        return NULL;
    #else
        (void)file;
        (void)without;
        return "dlopen";
    #endif
    }

    enum {
        LDC_SSL_ERROR_SSL = 1, LDC_SSL_ERROR_WANT_READ = 2, LDC_SSL_ERROR_WANT_WRITE = 3, LDC_SSL_ERROR_SYSCALL = 5,
        LDC_SSL_ERROR_ZERO_RETURN = 6,
        LDC_CTRL_MODE = 33, LDC_CTRL_SET_READ_AHEAD = 41, LDC_CTRL_SET_TLSEXT_HOSTNAME = 55,
        LDC_CTRL_SET_MIN_PROTO_VERSION = 123, LDC_CTRL_SET_MAX_PROTO_VERSION = 124,
        LDC_MODE_PARTIAL_WRITE = 1, LDC_MODE_MOVING_WRITE_BUFFER = 2, LDC_MODE_AUTO_RETRY = 4,
        LDC_VERIFY_PEER = 1, LDC_READ_BUFFER_BYTES = 65536
    };

    /* What the functions below return instead of a count. */
    enum {
        LDC_TLS_WANT_READ = -1, LDC_TLS_WANT_WRITE = -2, LDC_TLS_FAILED = -3, LDC_TLS_CLOSED = -4, LDC_TLS_BUSY = -5
    };

    typedef struct {
        void *ssl;              /* owned */
        int busy;               /* 1 while a thread is in one of the functions below */
        int is_closed;
        int why;                /* SSL_ERROR_... of the failure; 0: none */
        int os_error;           /* errno of the failure */
        unsigned long code;     /* what OpenSSL's error queue held last */
        long verify_result;     /* X509_V_... */
    } ldc_tls;

    static int ldc_tls_take(ldc_tls *tls) {
    #if LDC_HAS_DLOPEN
        return __atomic_exchange_n(&tls->busy, 1, __ATOMIC_ACQUIRE) == 0;
    #else
        return tls->busy == 0;
    #endif
    }

    static void ldc_tls_leave(ldc_tls *tls) {
    #if LDC_HAS_DLOPEN
        __atomic_store_n(&tls->busy, 0, __ATOMIC_RELEASE);
    #else
        (void)tls;
    #endif
    }

    /* Returns 0, or why OpenSSL must not be called now. */
    static int ldc_tls_enter(ldc_tls *tls) {
        if (!ldc_tls_take(tls))
            return LDC_TLS_BUSY;
        if (tls->is_closed || tls->why) {
            int status = tls->is_closed ? LDC_TLS_CLOSED : LDC_TLS_FAILED;
            ldc_tls_leave(tls);
            return status;
        }
        ldc_openssl.ERR_clear_error();  /* what others left there would be taken for a failure of this call */
        errno = 0;
        return 0;
    }

    /* Why a call did not succeed: one of the states above, or 0 for an end in order. Keeps what a failure was. */
    static int ldc_tls_status(ldc_tls *tls, int result) {
        int os_error = errno, why = ldc_openssl.SSL_get_error(tls->ssl, result);
        if (why == LDC_SSL_ERROR_WANT_READ)
            return LDC_TLS_WANT_READ;
        if (why == LDC_SSL_ERROR_WANT_WRITE)
            return LDC_TLS_WANT_WRITE;
        if (why == LDC_SSL_ERROR_ZERO_RETURN)
            return 0;
        tls->why = why;
        tls->os_error = os_error;
        tls->code = ldc_openssl.ERR_peek_last_error();
        tls->verify_result = ldc_openssl.SSL_get_verify_result(tls->ssl);
        ldc_openssl.ERR_clear_error();
        return LDC_TLS_FAILED;
    }

    static int ldc_tls_fail_at_end(ldc_tls *tls, int status) {
        if (status == 0) {
            tls->why = LDC_SSL_ERROR_ZERO_RETURN;
            status = LDC_TLS_FAILED;
        }
        return status;
    }

    static Py_ssize_t ldc_tls_read(ldc_tls *tls, void *room, size_t size) {
        size_t count = 0;
        Py_ssize_t status = ldc_tls_enter(tls);
        if (status)
            return status;
        int result = ldc_openssl.SSL_read_ex(tls->ssl, room, size, &count);
        status = result == 1 ? (Py_ssize_t)count : ldc_tls_status(tls, result);
        ldc_tls_leave(tls);
        return status;
    }

    static Py_ssize_t ldc_tls_write(ldc_tls *tls, const void *data, size_t size) {
        size_t count = 0;
        Py_ssize_t status = ldc_tls_enter(tls);
        if (status)
            return status;
        int result = ldc_openssl.SSL_write_ex(tls->ssl, data, size, &count);
        status = result == 1 ? (Py_ssize_t)count : ldc_tls_fail_at_end(tls, ldc_tls_status(tls, result));
        ldc_tls_leave(tls);
        return status;
    }

    static int ldc_tls_connect(ldc_tls *tls) {
        int status = ldc_tls_enter(tls);
        if (status)
            return status;
        int result = ldc_openssl.SSL_do_handshake(tls->ssl);
        status = result == 1 ? 1 : ldc_tls_fail_at_end(tls, ldc_tls_status(tls, result));
        ldc_tls_leave(tls);
        return status;
    }

    static int ldc_tls_has_pending(ldc_tls *tls) {
        int status = ldc_tls_enter(tls);
        if (status)
            return 0;
        int has_pending = ldc_openssl.SSL_has_pending(tls->ssl);
        ldc_tls_leave(tls);
        return has_pending;
    }

    static int ldc_tls_pending(ldc_tls *tls) {
        int status = ldc_tls_enter(tls);
        if (status)
            return status == LDC_TLS_BUSY ? status : 0;
        int count = ldc_openssl.SSL_pending(tls->ssl);
        ldc_tls_leave(tls);
        return count;
    }

    /* The protocol's name once the handshake is over, else NULL. It is static in OpenSSL. */
    static const char *ldc_tls_version(ldc_tls *tls) {
        const char *name = NULL;
        if (ldc_tls_enter(tls) == 0) {
            if (ldc_openssl.SSL_is_init_finished(tls->ssl))
                name = ldc_openssl.SSL_get_version(tls->ssl);
            ldc_tls_leave(tls);
        }
        return name;
    }

    /* Whether a descriptor can be read or written before the time-out, in ms (-1: none). -1: a signal came. */
    static int ldc_poll_one(int descriptor, int is_write, int timeout_ms) {
    #if LDC_HAS_DLOPEN
        struct pollfd one = {descriptor, is_write ? POLLOUT : POLLIN, 0};
        return poll(&one, 1, timeout_ms);
    #else
        (void)descriptor;
        (void)is_write;
        (void)timeout_ms;
        return -1;
    #endif
    }

    /* Say good-bye (close_notify) if there is room for it, and let nothing happen after. Descriptor -1: say nothing. */
    static int ldc_tls_close(ldc_tls *tls, int descriptor) {
        if (!ldc_tls_take(tls))
            return LDC_TLS_BUSY;
        if (!tls->is_closed && !tls->why && ldc_openssl.SSL_is_init_finished(tls->ssl)
                && ldc_poll_one(descriptor, 1, 0) == 1) {
            ldc_openssl.ERR_clear_error();
            ldc_openssl.SSL_shutdown(tls->ssl);
            ldc_openssl.ERR_clear_error();
        }
        tls->is_closed = 1;
        ldc_tls_leave(tls);
        return 0;
    }

    static void ldc_tls_free(ldc_tls *tls) {
        if (tls->ssl != NULL)
            ldc_openssl.SSL_free(tls->ssl);
        tls->ssl = NULL;
    }

    /* A client's connection on a descriptor that stays the caller's. Returns 0; else nothing is left behind. */
    static int ldc_tls_open(ldc_tls *tls, void *context, int descriptor, const char *host) {
        void *ssl = ldc_openssl.SSL_new(context);
        void *parameters;
        int is_done;
        if (ssl == NULL)
            return -1;
        parameters = ldc_openssl.SSL_get0_param(ssl);
        is_done = ldc_openssl.SSL_set_fd(ssl, descriptor) == 1;
        /* What can be read as an address is one: no server name is sent, and the certificate must name the address. */
        if (is_done && ldc_openssl.X509_VERIFY_PARAM_set1_ip_asc(parameters, host) != 1)
            is_done = ldc_openssl.X509_VERIFY_PARAM_set1_host(parameters, host, strlen(host)) == 1
                && ldc_openssl.SSL_ctrl(ssl, LDC_CTRL_SET_TLSEXT_HOSTNAME, 0, (void *)host) == 1;
        ldc_openssl.ERR_clear_error();
        if (!is_done) {
            ldc_openssl.SSL_free(ssl);
            return -1;
        }
        ldc_openssl.SSL_set_connect_state(ssl);
        tls->ssl = ssl;
        return 0;
    }

    /* A client's context that verifies, trusts nobody yet, and else is as the arguments say. NULL: out of memory. */
    static void *ldc_tls_context_new(uint64_t options, unsigned long verify_flags, unsigned int host_flags) {
        void *parameters, *context = ldc_openssl.SSL_CTX_new(ldc_openssl.TLS_client_method());
        if (context == NULL) {
            ldc_openssl.ERR_clear_error();
            return NULL;
        }
        ldc_openssl.SSL_CTX_clear_options(context, ~options);
        ldc_openssl.SSL_CTX_set_options(context, options);
        ldc_openssl.SSL_CTX_set_verify(context, LDC_VERIFY_PEER, NULL);
        parameters = ldc_openssl.SSL_CTX_get0_param(context);
        ldc_openssl.X509_VERIFY_PARAM_clear_flags(parameters, ~verify_flags);
        ldc_openssl.X509_VERIFY_PARAM_set_flags(parameters, verify_flags);
        ldc_openssl.X509_VERIFY_PARAM_set_hostflags(parameters, host_flags);
        ldc_openssl.SSL_CTX_ctrl(context, LDC_CTRL_MODE,
            LDC_MODE_PARTIAL_WRITE | LDC_MODE_MOVING_WRITE_BUFFER | LDC_MODE_AUTO_RETRY, NULL);
        /* One receive brings as many records as there are; `tls_has_pending` says whether some are left. */
        ldc_openssl.SSL_CTX_ctrl(context, LDC_CTRL_SET_READ_AHEAD, 1, NULL);
        ldc_openssl.SSL_CTX_set_default_read_buffer_len(context, LDC_READ_BUFFER_BYTES);
        return context;
    }

    static int ldc_tls_context_has(void *context, uint64_t options, unsigned long verify_flags) {
        return ldc_openssl.SSL_CTX_get_options(context) == options
            && ldc_openssl.X509_VERIFY_PARAM_get_flags(ldc_openssl.SSL_CTX_get0_param(context)) == verify_flags;
    }

    static int ldc_tls_context_limit(void *context, long lowest, long highest) {
        return ldc_openssl.SSL_CTX_ctrl(context, LDC_CTRL_SET_MIN_PROTO_VERSION, lowest, NULL) == 1
            && ldc_openssl.SSL_CTX_ctrl(context, LDC_CTRL_SET_MAX_PROTO_VERSION, highest, NULL) == 1;
    }

    static int ldc_tls_context_ciphers(void *context, int level, const char *ciphers, const char *suites) {
        ldc_openssl.SSL_CTX_set_security_level(context, level);
        int is_done = (!*ciphers || ldc_openssl.SSL_CTX_set_cipher_list(context, ciphers) == 1)
            && ldc_openssl.SSL_CTX_set_ciphersuites(context, suites) == 1;
        ldc_openssl.ERR_clear_error();
        return is_done;
    }

    /* Trust the file, or the folder (looked into when needed), or neither: what OpenSSL trusts by itself.
       Returns 0, else errno, or -1 and OpenSSL's code. */
    static int ldc_tls_context_trust(void *context, const char *file, const char *folder, unsigned long *code) {
        int is_done, os_error;
        ldc_openssl.ERR_clear_error();
        errno = 0;
        if (file == NULL && folder == NULL)
            is_done = ldc_openssl.SSL_CTX_set_default_verify_paths(context);
        else
            is_done = ldc_openssl.SSL_CTX_load_verify_locations(context, file, folder);
        os_error = errno;
        *code = ldc_openssl.ERR_peek_last_error();
        ldc_openssl.ERR_clear_error();
        return is_done == 1 ? 0 : os_error ? os_error : -1;
    }

    static void ldc_tls_context_free(void *context) {
        if (context != NULL)
            ldc_openssl.SSL_CTX_free(context);
    }

    static const char *ldc_openssl_text(void) { return ldc_openssl.OpenSSL_version(0); }
    static unsigned long ldc_openssl_number(void) { return ldc_openssl.OpenSSL_version_num(); }
    static const char *ldc_tls_reason(unsigned long code) { return ldc_openssl.ERR_reason_error_string(code); }
    static const char *ldc_tls_library(unsigned long code) { return ldc_openssl.ERR_lib_error_string(code); }
    static const char *ldc_tls_verify_text(long result) { return ldc_openssl.X509_verify_cert_error_string(result); }
    """
    enum:
        TLS_WANT_READ "LDC_TLS_WANT_READ"       # nothing is there: come back when the socket can be read
        TLS_WANT_WRITE "LDC_TLS_WANT_WRITE"     # no room: come back when the socket can be written
        TLS_FAILED "LDC_TLS_FAILED"             # for good; `tls_error` says why
        TLS_CLOSED "LDC_TLS_CLOSED"             # by us
        TLS_BUSY "LDC_TLS_BUSY"                 # another thread is in it
        SSL_ERROR_SSL "LDC_SSL_ERROR_SSL"
        SSL_ERROR_SYSCALL "LDC_SSL_ERROR_SYSCALL"
        SSL_ERROR_ZERO_RETURN "LDC_SSL_ERROR_ZERO_RETURN"
    ctypedef struct Tls "ldc_tls":
        void* ssl
        int is_closed
        int why
        int os_error
        unsigned long code
        long verify_result
    # > 0: so many bytes; 0: the end, in order; else one of the enum.
    Py_ssize_t tls_read "ldc_tls_read"(Tls* tls, void* room, size_t size) noexcept nogil
    # >= 0: so many bytes; else one of the enum. What was not taken must be given again, first.
    Py_ssize_t tls_write "ldc_tls_write"(Tls* tls, const void* data, size_t size) noexcept nogil
    # 1: the handshake is over; else one of the enum. Reading and writing do it as well, at their first call.
    int tls_connect "ldc_tls_connect"(Tls* tls) noexcept nogil
    # Whether bytes are here that no selector sees: ask after each read. They may be less than a record, which reads as
    # TLS_WANT_READ.
    bint tls_has_pending "ldc_tls_has_pending"(Tls* tls) noexcept nogil
    int tls_pending "ldc_tls_pending"(Tls* tls) noexcept nogil
    const char* tls_version "ldc_tls_version"(Tls* tls) noexcept nogil
    int tls_close "ldc_tls_close"(Tls* tls, int descriptor) noexcept nogil
    void tls_free "ldc_tls_free"(Tls* tls) noexcept nogil
    int tls_open "ldc_tls_open"(Tls* tls, void* context, int descriptor, const char* host) noexcept nogil
    void* tls_context_new "ldc_tls_context_new"(
        uint64_t options, unsigned long verify_flags, unsigned int host_flags) noexcept nogil
    bint tls_context_has "ldc_tls_context_has"(void* context, uint64_t options, unsigned long flags) noexcept nogil
    bint tls_context_limit "ldc_tls_context_limit"(void* context, long lowest, long highest) noexcept nogil
    bint tls_context_ciphers "ldc_tls_context_ciphers"(
        void* context, int level, const char* ciphers, const char* suites) noexcept nogil
    int tls_context_trust "ldc_tls_context_trust"(
        void* context, const char* file, const char* folder, unsigned long* code) noexcept nogil
    void tls_context_free "ldc_tls_context_free"(void* context) noexcept nogil
    const char* openssl_load "ldc_openssl_load"(const char* file, const char* without) noexcept nogil
    const char* openssl_text "ldc_openssl_text"() noexcept nogil
    unsigned long openssl_number "ldc_openssl_number"() noexcept nogil
    const char* tls_reason "ldc_tls_reason"(unsigned long code) noexcept nogil
    const char* tls_library "ldc_tls_library"(unsigned long code) noexcept nogil
    const char* tls_verify_text "ldc_tls_verify_text"(long result) noexcept nogil
    int poll_one "ldc_poll_one"(int descriptor, int is_write, int timeout_ms) noexcept nogil
