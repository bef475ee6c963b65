"""The multi interface as in pycurl's example `retriever-multi.py`, with status and headers kept."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import pycurl

from benchmarks.contenders.worker import serve

if TYPE_CHECKING:
    from benchmarks.scenes import Reading


@dataclass
class Answer:
    place: int
    lines: list[bytes] = field(default_factory=list)
    body: BytesIO = field(default_factory=BytesIO)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    value: object = None


class CurlDocumented:
    """One CurlMulti and a list of easy handles that are free; for each call what its answer is made of."""

    def __init__(self, concurrency: int) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, concurrency)
        self._free = [self._easy() for _ in range(concurrency)]
        self._underway: dict[pycurl.Curl, Answer] = {}

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        queue = deque(enumerate(urls))
        answers: list[Answer] = []
        while len(answers) < len(urls):
            while queue and self._free:
                self._start(*queue.popleft())
            self._multi.perform()
            more = 1
            while more:
                more, succeeded, failed = self._multi.info_read()
                if failed:
                    raise ConnectionError(failed[0][2])
                answers += [self._finish(easy, reading) for easy in succeeded]
            self._multi.select(1.0)
        return [answer.value for answer in sorted(answers, key=lambda answer: answer.place)]

    def close(self) -> None:
        for easy in self._free:
            easy.close()
        self._multi.close()

    def _start(self, place: int, url: str) -> None:
        easy = self._free.pop()
        self._underway[easy] = answer = Answer(place)
        easy.setopt(pycurl.URL, url)
        easy.setopt(pycurl.HEADERFUNCTION, answer.lines.append)
        easy.setopt(pycurl.WRITEDATA, answer.body)
        self._multi.add_handle(easy)

    def _finish(self, easy: pycurl.Curl, reading: Reading) -> Answer:
        self._multi.remove_handle(easy)
        self._free.append(easy)
        answer = self._underway.pop(easy)
        answer.status = easy.getinfo(pycurl.RESPONSE_CODE)
        if answer.status != 200:
            raise ConnectionError(f"{easy.getinfo(pycurl.EFFECTIVE_URL)} answered {answer.status}")
        for line in answer.lines[1:]:
            name, _, value = line.decode("latin-1").partition(":")
            answer.headers[name.lower()] = value.strip()
        content = answer.body.getvalue()
        answer.value = json.loads(content) if reading == "json" else content
        return answer

    @staticmethod
    def _easy() -> pycurl.Curl:
        easy = pycurl.Curl()
        easy.setopt(pycurl.FOLLOWLOCATION, 1)
        easy.setopt(pycurl.MAXREDIRS, 5)
        easy.setopt(pycurl.CONNECTTIMEOUT, 30)
        easy.setopt(pycurl.TIMEOUT, 300)
        easy.setopt(pycurl.NOSIGNAL, 1)
        return easy


if __name__ == "__main__":
    serve(CurlDocumented)
