"""libcurl's multi interface driven by hand: the least that Python can do around it."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import pycurl

from benchmarks.contenders.worker import serve

if TYPE_CHECKING:
    from benchmarks.scenes import Reading


class CurlLoop:
    """One thread, one CurlMulti, and as many easy handles as calls in flight, used over and over."""

    def __init__(self, concurrency: int) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, concurrency)
        self._bodies = {self._easy(body): body for body in (BytesIO() for _ in range(concurrency))}

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        multi, bodies = self._multi, self._bodies
        values: list[object] = [None] * len(urls)
        waiting = iter(enumerate(urls))
        places: dict[pycurl.Curl, int] = {}
        for easy, (place, url) in zip(bodies, waiting, strict=False):
            easy.setopt(pycurl.URL, url)
            places[easy] = place
            multi.add_handle(easy)
        while places:
            multi.perform()
            finished = self._finished()
            for easy in finished:
                multi.remove_handle(easy)
                body = bodies[easy]
                content = body.getvalue()
                values[places.pop(easy)] = json.loads(content) if reading == "json" else content
                body.seek(0)
                body.truncate()
                if following := next(waiting, None):
                    places[easy], url = following
                    easy.setopt(pycurl.URL, url)
                    multi.add_handle(easy)
            # What was just added has not begun: only perform() starts it.
            if not finished:
                multi.select(1.0)
        return values

    def close(self) -> None:
        for easy in self._bodies:
            easy.close()
        self._multi.close()

    def _finished(self) -> list[pycurl.Curl]:
        finished: list[pycurl.Curl] = []
        more = 1
        while more:
            more, succeeded, failed = self._multi.info_read()
            if failed:
                raise ConnectionError(failed[0][2])
            finished += succeeded
        return finished

    @staticmethod
    def _easy(body: BytesIO) -> pycurl.Curl:
        easy = pycurl.Curl()
        easy.setopt(pycurl.WRITEDATA, body)
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.BUFFERSIZE, 512 * 1024)
        easy.setopt(pycurl.TIMEOUT, 30)
        return easy


if __name__ == "__main__":
    serve(CurlLoop)
