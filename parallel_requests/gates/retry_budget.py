"""How many retries a host that fails may get."""

from __future__ import annotations

from parallel_requests.locks import Lock


class RetryBudget:
    """Limits the retries to one host to a share of its traffic.

    Every first attempt earns a fifth of a retry, every successful response a whole one, and every
    retry spends one. As long as a host succeeds now and then, retries go on; if it only fails, they
    are at most a fifth of the calls, plus the reserve. The idea is that of gRPC's retry throttling
    (gRFC A6) and Finagle's RetryBudget.

    Attributes:
        balance: Retries that may be made now.
    """

    DEPOSIT_PER_CALL = 0.2
    DEPOSIT_PER_SUCCESS = 1.0
    RESERVE = 40.0

    def __init__(self) -> None:
        self._lock = Lock()  # guards balance
        self.balance = self.RESERVE

    def deposit_call(self) -> None:
        """Count a first attempt."""
        self._deposit(self.DEPOSIT_PER_CALL)

    def deposit_success(self) -> None:
        """Count a response that was not a failure."""
        self._deposit(self.DEPOSIT_PER_SUCCESS)

    def withdraw(self) -> bool:
        """Spend one retry; return False if none is left."""
        with self._lock:
            if self.balance < 1.0:
                return False
            self.balance -= 1.0
            return True

    def _deposit(self, amount: float) -> None:
        with self._lock:
            self.balance = min(self.RESERVE, self.balance + amount)
