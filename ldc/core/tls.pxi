# TLS connections as websocket-client and a feed's thread use them. What is called without the GIL is in openssl.pxi.
#
# Rule 1: `ssl` decides, this only does it: options, versions, ciphers, flags are read from a context that `ssl` made,
#         and whom it trusts is loaded by the calls that `ssl` makes.
# Rule 2: where anything is not as it was when this was written, `tls_problem` says so, and Python's `ssl` is used.

import os
import threading

cdef enum:
    HOSTS_NO_PARTIAL_WILDCARDS = 0x4    # X509_CHECK_FLAG_...; Python's `ssl` sets the first always
    HOSTS_NEVER_CHECK_SUBJECT = 0x20
    CERTIFICATE_HOSTNAME_MISMATCH = 62  # X509_V_ERR_...
    CERTIFICATE_ADDRESS_MISMATCH = 64
    REASON_CERTIFICATE_VERIFY_FAILED = 134  # SSL_R_..., of the library ERR_LIB_SSL
    REASON_UNEXPECTED_EOF = 294
    LIBRARY_SSL = 20
    MILLISECONDS_MAX = 0x7fffffff

cdef object _tls_lock = threading.Lock()
cdef object _tls_problem_found = None
cdef bint _is_tls_looked_for = False


def _forget_tls_lock():
    """In a forked child: a thread that does not exist there may have held it."""
    global _tls_lock
    _tls_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_tls_lock)


def tls_problem():
    """Return None if TLS can be done without the GIL here, else one sentence that says why not.

    It is done by the OpenSSL that the interpreter's own `ssl` uses, which is searched for at the first call. What is
    found then holds for the life of the process. `LDC_NATIVE_TLS=0` in the environment switches it off. Thread-safe.
    """
    global _tls_problem_found, _is_tls_looked_for
    with _tls_lock:
        if not _is_tls_looked_for:
            _tls_problem_found = _switched_off() or _find_openssl()
            _is_tls_looked_for = True
        return _tls_problem_found


cdef object _switched_off():
    value = os.environ.get("LDC_NATIVE_TLS", "")
    if value in ("", "1"):
        return None
    if value == "0":
        return "LDC_NATIVE_TLS=0 in the environment switches it off"
    return f"LDC_NATIVE_TLS={value!r} is neither '1' nor '0'"


def _find_openssl(file=None, without=""):
    """Find OpenSSL; return None, or why it cannot be used. For tests: another file, a symbol to treat as missing."""
    cdef const char* missing
    cdef bytes path, hidden = without.encode()
    try:
        import _ssl
        import ssl
    except ImportError as error:
        return f"this Python has no ssl ({error})"
    if not ssl.OPENSSL_VERSION.startswith("OpenSSL 3."):
        return f"Python's ssl uses {ssl.OPENSSL_VERSION}, and ldc knows OpenSSL 3"
    file = file or getattr(_ssl, "__file__", None)
    if file is None:
        return "OpenSSL is linked into this interpreter itself, where its functions cannot be found"
    path = os.fsencode(file)
    missing = openssl_load(path, hidden)
    if missing != NULL:
        if missing == b"dlopen":
            return f"{file} cannot be opened, or this is Windows"
        return f"OpenSSL's function {missing.decode()} cannot be found by {file}"
    text = openssl_text().decode()
    if text != ssl.OPENSSL_VERSION or openssl_number() != ssl.OPENSSL_VERSION_NUMBER:
        return f"{file} leads to {text}, and Python's ssl uses {ssl.OPENSSL_VERSION}"
    return None


# -------------------------------------------------------------------------------------------------------------- errors


cdef object tls_error(Tls* tls, str host):
    """Return the exception that Python's `ssl` raises for a failure."""
    import ssl
    cdef unsigned long reason = tls.code & 0x7fffff
    cdef bint is_of_ssl = (tls.code >> 23 & 0xff) == LIBRARY_SSL
    if tls.why == SSL_ERROR_ZERO_RETURN:
        return ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "TLS/SSL connection has been closed (EOF)")
    if tls.why == SSL_ERROR_SYSCALL:
        if tls.os_error:
            return OSError(tls.os_error, os.strerror(tls.os_error))
        return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
    if is_of_ssl and reason == REASON_UNEXPECTED_EOF:
        return _made_error(
            ssl.SSLEOFError, ssl.SSL_ERROR_EOF, tls.code, "EOF occurred in violation of protocol", "")
    if is_of_ssl and reason == REASON_CERTIFICATE_VERIFY_FAILED:
        what = _verify_text(tls.verify_result, host)
        error = _made_error(ssl.SSLCertVerificationError, ssl.SSL_ERROR_SSL, tls.code, None, f": {what}")
        error.verify_code = tls.verify_result
        error.verify_message = what
        return error
    return _made_error(ssl.SSLError, ssl.SSL_ERROR_SSL, tls.code, None, "")


cdef str _verify_text(long result, str host):
    if result == CERTIFICATE_HOSTNAME_MISMATCH:
        return f"Hostname mismatch, certificate is not valid for '{host}'."
    if result == CERTIFICATE_ADDRESS_MISMATCH:
        return f"IP address mismatch, certificate is not valid for '{host}'."
    return tls_verify_text(result).decode()


cdef object _made_error(type kind, int number, unsigned long code, text, str detail):
    """Return an error whose text, `library` and `reason` are as Python's, made of OpenSSL's own words."""
    cdef const char* reason_text = tls_reason(code)
    cdef const char* library_text = tls_library(code)
    said = reason_text.decode() if reason_text != NULL else "unknown error"
    reason = "".join(letter if letter.isalnum() else "_" for letter in said.upper()) if reason_text != NULL else None
    library = library_text.decode().removesuffix(" routines") if library_text != NULL else None
    where = f"[{library}: {reason}] " if library and reason else ""
    error = kind(number, f"{where}{text or said}{detail}")
    error.library = library
    error.reason = reason
    return error


# ------------------------------------------------------------------------------------------------------------- context


@cython.final
cdef class TlsContext:
    """Clients' TLS as an `ssl.SSLContext` is set up, done without the GIL; websocket-client takes it for one.

    What is taken over: options, versions, ciphers, security level, verification flags. Names and certificates are
    always checked. Not taken over, because `ssl` does not tell: certificates of our own, ALPN, whom it trusts.

    Args:
        settings: made by `ssl.create_default_context`. Whom it trusts does not matter.
        files: PEM files with certificates to trust, and lists of revoked ones.
        folders: folders of such files, named by hash, which OpenSSL looks into when it meets a certificate.
        with_defaults: whether to trust what OpenSSL trusts by itself (SSL_CERT_FILE and SSL_CERT_DIR included), too.

    Raises:
        ValueError: the settings cannot be done here: Python's `ssl` must be used. The text says why.
        OSError, ssl.SSLError: a file cannot be read, or holds no certificate.
        RuntimeError: `tls_problem()` is not None.

    Thread-safety: it does not change once it is made; any thread may use it.
    """

    cdef void* _context

    def __cinit__(self, settings, *, files=(), folders=(), with_defaults=False):
        problem = tls_problem()
        if problem is not None:
            raise RuntimeError(f"there is no TLS without the GIL: {problem}")
        _require_plain(settings)
        cdef uint64_t options = int(settings.options) & 0xffffffffffffffff
        cdef unsigned long verify_flags = int(settings.verify_flags)
        cdef unsigned int host_flags = HOSTS_NO_PARTIAL_WILDCARDS
        if not settings.hostname_checks_common_name:
            host_flags |= HOSTS_NEVER_CHECK_SUBJECT
        self._context = tls_context_new(options, verify_flags, host_flags)
        if self._context == NULL:
            raise MemoryError
        if not tls_context_has(self._context, options, verify_flags):
            raise ValueError("OpenSSL does not take the options of the context")
        _set_protocol(self._context, settings)
        if with_defaults:
            _trust(self._context, None, None)
        for file in files:
            _trust(self._context, os.fsencode(file), None)
        for folder in folders:
            _trust(self._context, None, os.fsencode(folder))

    def __dealloc__(self):
        tls_context_free(self._context)

    def __reduce__(self):
        raise TypeError("a TlsContext cannot be copied or pickled")

    def wrap_socket(self, sock, *, server_hostname, do_handshake_on_connect=True, suppress_ragged_eofs=True):
        """Return a `TlsSocket` on a connected socket, which belongs to it from then on; as `ssl.SSLContext`."""
        wrapped = TlsSocket(self, sock, server_hostname, suppress_ragged_eofs=suppress_ragged_eofs)
        if do_handshake_on_connect:
            if sock.gettimeout() == 0:
                raise ValueError("do_handshake_on_connect should not be specified for non-blocking sockets")
            wrapped.do_handshake()
        return wrapped


cdef object _require_plain(settings):
    """Raise ValueError for what is not read from a context, or cannot be done without Python."""
    import ssl
    if not isinstance(settings, ssl.SSLContext):
        raise TypeError(f"settings must be an ssl.SSLContext, not {type(settings).__name__}")
    if type(settings).__module__ != "ssl":
        raise ValueError(f"{type(settings).__module__} has replaced ssl.SSLContext, and decides itself whom to trust")
    if settings.protocol != ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("the context is not for clients")
    if not settings.check_hostname or settings.verify_mode != ssl.CERT_REQUIRED:
        raise ValueError("the context does not check certificates and names, and here they are always checked")
    if settings.keylog_filename is not None:
        raise ValueError("keys are to be logged (SSLKEYLOGFILE), which Python's ssl does")


cdef object _set_protocol(void* context, settings):
    """Allow the versions and ciphers that the settings allow."""
    cdef int level = settings.security_level
    lowest, highest = (max(int(each), 0) for each in (settings.minimum_version, settings.maximum_version))
    if not tls_context_limit(context, lowest, highest):
        raise ValueError("OpenSSL does not take the versions of the context")
    ciphers = settings.get_ciphers()
    older = ":".join(each["name"] for each in ciphers if each["protocol"] != "TLSv1.3").encode()
    newer = ":".join(each["name"] for each in ciphers if each["protocol"] == "TLSv1.3").encode()
    if not tls_context_ciphers(context, level, older, newer):
        raise ValueError("OpenSSL does not take the ciphers of the context")


cdef object _trust(void* context, bytes file, bytes folder):
    """Load as `ssl` does it; raise what it raises."""
    import ssl
    cdef const char* file_name = NULL
    cdef const char* folder_name = NULL
    cdef unsigned long code = 0
    cdef int status
    if file is not None:
        file_name = file
    if folder is not None:
        folder_name = folder
    with nogil:
        status = tls_context_trust(context, file_name, folder_name, &code)
    if status > 0:
        raise OSError(status, os.strerror(status), os.fsdecode(file or folder or b""))
    if status:
        raise _made_error(ssl.SSLError, ssl.SSL_ERROR_SSL, code, None, f" in {os.fsdecode(file or folder or b'')}")


# -------------------------------------------------------------------------------------------------------------- socket


@cython.final
cdef class TlsSocket:
    """A TLS connection on a connected stream socket, which it owns: as much of an `ssl.SSLSocket` as feeds need.

    Errors and time-outs are those of `ssl.SSLSocket`; so is the handshake, which comes with the first write or read,
    within its time-out, where `do_handshake` is not called. A time-out is for the whole of a call. A reset connection
    raises ConnectionResetError in `recv`, which some versions of `ssl` take for an end.

    Args:
        context: how.
        sock: a connected socket with any time-out. It is closed by `close`, and is `raw` until then and after.
        server_hostname: a name, or an IPv4 or IPv6 address; the certificate must be for it. Names are sent (SNI).
        suppress_ragged_eofs: whether an end without good-bye (close_notify) reads as an end, not as an SSLEOFError.

    Thread-safety: one thread at a time uses it: the connector, then the feed's thread. A second one in `recv`, `send`,
    `do_handshake` or `close` gets a RuntimeError. Any thread may call `shutdown`, which ends a call that waits.
    """

    cdef Tls _tls
    cdef TlsContext _context
    cdef readonly object raw
    cdef readonly str server_hostname
    cdef bint _suppresses_ragged_ends
    cdef int _descriptor

    def __cinit__(self, TlsContext context not None, sock, server_hostname, *, suppress_ragged_eofs=True):
        import socket
        import ssl
        cdef bytes host
        if not isinstance(sock, socket.socket) or isinstance(sock, ssl.SSLSocket):
            raise TypeError(f"sock must be a plain socket, not {type(sock).__name__}")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError("only stream sockets are supported")
        host = server_hostname.encode("idna")
        if not host or host.startswith(b".") or b"\0" in host:
            raise ValueError("server_hostname cannot be empty, start with a dot, or hold a null character")
        sock.getpeername()  # raises if it is not connected
        self._context = context
        self.raw = sock
        self.server_hostname = host.decode()
        self._suppresses_ragged_ends = suppress_ragged_eofs
        self._descriptor = sock.fileno()
        if tls_open(&self._tls, context._context, self._descriptor, host):
            raise MemoryError

    def __dealloc__(self):
        tls_free(&self._tls)

    def __reduce__(self):
        raise TypeError("a TlsSocket cannot be copied or pickled")

    def __repr__(self):
        return f"<TlsSocket to {self.server_hostname} on {self.raw!r}>"

    # Whether a call is to be made again. Waits if it should; raises what `ssl` raises.
    cdef int _wait(self, Py_ssize_t status, double* deadline, str operation) except -1:
        import math
        import time
        cdef int timeout_ms = -1, is_ready
        cdef int is_write = status == TLS_WANT_WRITE
        if status != TLS_WANT_READ and status != TLS_WANT_WRITE:
            self._fail(status)
        PyErr_CheckSignals()  # one may have ended a call that blocks
        timeout_s = self.raw.gettimeout()
        if timeout_s == 0:
            self._fail(status)
        if timeout_s is not None:
            now = time.monotonic()
            if deadline[0] == 0:
                deadline[0] = now + timeout_s
            left_s = deadline[0] - now
            if left_s <= 0:
                raise TimeoutError(f"The {operation} operation timed out")
            timeout_ms = min(math.ceil(left_s * 1000), MILLISECONDS_MAX)
        with nogil:
            is_ready = poll_one(self._descriptor, is_write, timeout_ms)
        if is_ready == 0:
            raise TimeoutError(f"The {operation} operation timed out")
        if is_ready < 0:
            PyErr_CheckSignals()
        return 0

    cdef int _fail(self, Py_ssize_t status) except -1:
        import errno
        import ssl
        if status == TLS_WANT_READ:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)")
        if status == TLS_WANT_WRITE:
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)")
        if status == TLS_CLOSED:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if status == TLS_BUSY:
            raise RuntimeError("another thread uses this TlsSocket: one at a time may")
        raise tls_error(&self._tls, self.server_hostname)

    def do_handshake(self):
        """Do the handshake, all of it within the socket's time-out; as `ssl.SSLSocket`."""
        cdef double deadline = 0
        cdef int status
        while True:
            with nogil:
                status = tls_connect(&self._tls)
            if status == 1:
                return
            self._wait(status, &deadline, "handshake")

    cdef Py_ssize_t _read(self, void* room, Py_ssize_t size) except -1:
        cdef double deadline = 0
        cdef Py_ssize_t count
        if size == 0:
            return 0
        while True:
            with nogil:
                count = tls_read(&self._tls, room, size)
            if count >= 0:
                return count
            if count == TLS_FAILED and self._suppresses_ragged_ends and self._has_ragged_end():
                return 0
            self._wait(count, &deadline, "read")

    cdef bint _has_ragged_end(self) noexcept:
        """Whether the connection ended without close_notify."""
        if self._tls.why == SSL_ERROR_SYSCALL:
            return self._tls.os_error == 0
        return (self._tls.code >> 23 & 0xff) == LIBRARY_SSL and (self._tls.code & 0x7fffff) == REASON_UNEXPECTED_EOF

    def recv_into(self, buffer):
        """Receive at most as many bytes as the buffer holds; return how many, 0 at the end. Of one record at most."""
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_CONTIG)
        try:
            return self._read(view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def recv(self, Py_ssize_t size):
        """Receive at most so many bytes; b"" at the end. Of one record at most."""
        cdef bytes room
        cdef Py_ssize_t count
        if size < 0:
            raise ValueError("size must not be negative")
        room = PyBytes_FromStringAndSize(NULL, size)
        count = self._read(PyBytes_AS_STRING(room), size)
        return room if count == size else room[:count]

    def send(self, data):
        """Send what can be sent of bytes; return how many. After SSLWantWriteError they must be sent again, first."""
        cdef double deadline = 0
        cdef Py_buffer view
        cdef Py_ssize_t count
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while True:
                with nogil:
                    count = tls_write(&self._tls, view.buf, view.len)
                if count >= 0:
                    return count
                self._wait(count, &deadline, "write")
        finally:
            PyBuffer_Release(&view)

    def sendall(self, data):
        """Send all of it; each part of it within the socket's time-out."""
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self.send(left[sent:])

    def pending(self):
        """Return how many decrypted bytes can be read without the socket; as `ssl.SSLSocket`."""
        cdef int count = tls_pending(&self._tls)
        if count < 0:
            self._fail(count)
        return count

    def has_pending(self):
        """Return whether something was received that has not been read, so that no selector sees it.

        It may be less than a record: then reading raises SSLWantReadError, and a selector sees the rest.
        """
        return tls_has_pending(&self._tls)

    def version(self):
        """Return the protocol, as "TLSv1.3", or None before the handshake."""
        cdef const char* name = tls_version(&self._tls)
        return name.decode() if name != NULL else None

    def fileno(self):
        """Return the descriptor, -1 after `close`."""
        return self.raw.fileno()

    def getpeername(self):
        """As of the socket."""
        return self.raw.getpeername()

    def gettimeout(self):
        """As of the socket."""
        return self.raw.gettimeout()

    def settimeout(self, timeout):
        """As of the socket."""
        self.raw.settimeout(timeout)

    def setblocking(self, flag):
        """As of the socket."""
        self.raw.setblocking(flag)

    def shutdown(self, how):
        """End the connection below TLS, without good-bye. Any thread may: one that waits in a call gets an end."""
        self.raw.shutdown(how)

    def close(self):
        """Say good-bye (close_notify) if that needs no waiting, then end the connection and release the socket.

        Idempotent. What is called after it raises OSError (EBADF).
        """
        if tls_close(&self._tls, self.raw.fileno()):
            self._fail(TLS_BUSY)
        _end(self.raw)


cdef object _end(sock):
    """Shut down, so that copies of the descriptor in forked children do not keep the connection, and close."""
    import socket
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer was quicker, or it was closed before
    sock.close()
