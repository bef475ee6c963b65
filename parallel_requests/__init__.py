"""Many HTTP calls at once from ordinary synchronous code.

::

    from parallel_requests import parallel_requests

    answers = parallel_requests(["https://httpbin.org/get"] * 100, concurrency=20)
"""

from parallel_requests._version import __version__
from parallel_requests.api import iter_results, parallel_requests

__all__ = ["parallel_requests", "iter_results", "__version__"]
