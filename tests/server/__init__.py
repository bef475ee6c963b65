"""Real servers the tests talk to; each one counts what it sees.

- ``app``: HTTP/1.1 (and TLS) in a process of its own, see ``control.Server``.
- ``h2``: the same routes over HTTP/2, in a process of its own.
- ``faults`` and ``fault_cases``: byte-by-byte faults, played from threads.
- ``proxy``: a forward proxy.
- ``tls``: certificates, good and bad.
"""
