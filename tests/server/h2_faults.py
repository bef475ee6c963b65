"""Steps of a FaultServer that speak HTTP/2, fault included."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived, StreamEnded
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame, SettingsFrame

from tests.server.faults import SeenRequest, stall

if TYPE_CHECKING:
    import ssl
    import threading

    from tests.server.faults import Connection, Step
    from tests.server.tls import Identity

Answer = Callable[[H2Connection, int, str], None]
"""What is done about a request: with the protocol, on which stream, for which path."""


def h2_context(identity: Identity) -> ssl.SSLContext:
    """A TLS context for a server that speaks HTTP/2 alone."""
    context = identity.server_context()
    context.set_alpn_protocols(["h2"])
    return context


class FallSilent(Exception):
    """Raised by an Answer: what it has said is sent, and nothing more."""

    drops_packets = False


class HangUp(Exception):
    """Raised by an Answer: what it has said is sent, and the connection is closed."""


class Vanish(FallSilent):
    """Raised by an Answer: what it has said is sent, and no packet gets through to it any more."""

    drops_packets = True


class Pause(Exception):
    """Raised by an Answer: what it has said is sent, and the rest once the event is set."""

    def __init__(self, event: threading.Event, go_on: Callable[[], None]) -> None:
        super().__init__()
        self.event = event
        self.go_on = go_on


def speak_h2(
    answer: Answer,
    *,
    at_once: Answer = lambda *_: None,
    on_other: Callable[[H2Connection, Event], None] = lambda *_: None,
    begin: Callable[[H2Connection], None] = H2Connection.initiate_connection,
) -> Step:
    """Take requests and have each one answered, until the client leaves.

    Of all bodies on a connection it takes 65,535 bytes, and lets the client send no more.

    Args:
        answer: What is done about a request.
        at_once: What is done as soon as its head has come.
        on_other: What is done about any other event, such as a part of a body.
        begin: Sends the settings.
    """

    def step(connection: Connection) -> None:
        protocol = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
        begin(protocol)
        headers: dict[int, dict[str, str]] = {}
        while True:
            connection.send(protocol.data_to_send())
            for event in protocol.receive_data(connection.receive()):
                try:
                    if isinstance(event, RequestReceived):
                        headers[event.stream_id] = {
                            name.decode(): value.decode() for name, value in event.headers or ()
                        }
                        at_once(protocol, event.stream_id, headers[event.stream_id][":path"])
                    elif isinstance(event, StreamEnded):
                        seen = _seen(headers[event.stream_id], connection.number)
                        connection.server.record(seen)
                        answer(protocol, event.stream_id, seen.target)
                    else:
                        on_other(protocol, event)
                except FallSilent as silence:
                    if silence.drops_packets:
                        connection.drop_packets()  # first, or the next request might still be acknowledged
                    connection.send(protocol.data_to_send())
                    stall()(connection)
                except HangUp:
                    connection.send(protocol.data_to_send())
                    return
                except Pause as pause:
                    connection.send(protocol.data_to_send())
                    connection.wait(pause.event)
                    pause.go_on()

    return step


def announce_no_window(protocol: H2Connection) -> None:
    """Send settings as Apache does: the default of 65,535 bytes holds for a stream, not for all together."""
    protocol.initiate_connection()
    protocol.clear_outbound_data_buffer()
    protocol._prepare_for_sending([SettingsFrame(0)])
    protocol.increment_flow_control_window(1 << 30)


def allow_one_stream(protocol: H2Connection) -> None:
    """Send settings by which the client has one stream at a time."""
    protocol.initiate_connection()
    protocol.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})


def take_any_amount(protocol: H2Connection) -> None:
    """Send settings by which only the system's buffers limit what is sent."""
    protocol.initiate_connection()
    protocol.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
    protocol.increment_flow_control_window(1 << 30)


def good_answer(protocol: H2Connection, stream: int, _path: str = "") -> None:
    """Answer as one should."""
    protocol.send_headers(stream, [(":status", "200"), ("content-length", "2")])
    protocol.send_data(stream, b"ok", end_stream=True)


def go_away(protocol: H2Connection, last_stream: int, code: int = 0) -> None:
    """Serve the streams up to this one, and no other; ``close_connection`` would end them all."""
    protocol._prepare_for_sending([GoAwayFrame(0, last_stream_id=last_stream, error_code=code)])


def _seen(headers: dict[str, str], connection: int) -> SeenRequest:
    return SeenRequest(
        raw=b"",
        method=headers[":method"],
        target=headers[":path"],
        headers=headers,
        body=b"",
        connection=connection,
        at=time.monotonic(),
    )
