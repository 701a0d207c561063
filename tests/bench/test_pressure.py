"""The cases of a memory budget: their arithmetic, and what their clients and their provider make of each other."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("bench.pressure")

from bench import hostile, pressure
from bench.figures import CaseResult
from bench.hostile_load import Drip, Endless, Sent, Stop, Upload
from bench.hostile_load import Plan as Uploads
from bench.peers import PEERS, Wiring
from bench.plots import apart
from bench.pressure import Fit, Settings, plan
from bench.pressure_load import EVENTS, SIZE, Ask, Guest, Returner, Staller, Tally, classed
from bench.pressure_provider import TAIL, Body, answer, command, read_script, script
from bench.pressure_readers import Pace, Probes, Seen, keep_probing, keep_reading, keep_sending
from bench.pressure_stage import MB, Honest, added_up, of_outcome, stage
from bench.processes import Process, free_port
from bench.resident import socket_bytes
from bench.stamps import STAMP
from bench.summary import lines
from bench.visitors import Arrivals, Crowd, Outcome, Visitor, moment_of

# --- arithmetic -----------------------------------------------------------------------------------------------------


def test_what_fits_is_the_budget_less_what_the_relay_has_anyway() -> None:
    assert Fit(before=56e6, each=12e3, in_kernel=8e3, memory=256_000_000).clients == 10_000


def test_the_load_is_ten_times_what_fits() -> None:
    settings = Settings()
    wanted = plan(1, Fit(before=0, each=0.5, in_kernel=0.5, memory=6000), settings)
    held = (1 - settings.returning) * settings.stall + settings.returning * settings.away
    of_batch = wanted.batch * wanted.stalled * held
    of_interactive = wanted.interactive * held
    readers = settings.honest.pace.streams
    assert of_batch + of_interactive + readers == pytest.approx(60_000)
    assert of_interactive == pytest.approx(4 * readers)


@pytest.mark.parametrize(("number", "moment"), [(0, 0), (25, 5), (100, 10), (120, 11)])
def test_a_rate_rises_evenly(number: int, moment: float) -> None:
    assert moment_of(number, 20, ramp=10) == pytest.approx(moment)


def test_without_a_ramp_arrivals_are_even() -> None:
    assert [moment_of(number, 4, ramp=0) for number in range(3)] == [0, 0.25, 0.5]


def test_readers_arrive_as_fast_as_they_leave() -> None:
    assert Pace(streams=200, events=100, interval=0.05).per_second == pytest.approx(40)


def test_figures_of_one_name_are_added_up() -> None:
    text = b'# HELP flow_a x\nflow_a{worker="0"} 1\nflow_a{worker="1"} 2.5\nflow_b 1e+06\nother 1\n'
    assert added_up(text) == {"flow_a": 3.5, "flow_b": 1e6}


def test_what_sockets_take_is_added_up() -> None:
    text = """ESTAB 0 0 127.0.0.1:1 127.0.0.1:2
\t skmem:(r768,rb12288,t0,tb2626560,f3328,w4,o0,bl10,d0)
ESTAB 0 0 127.0.0.1:1 127.0.0.1:3
\t skmem:(r0,rb131072,t0,tb87040,f0,w100,o0,bl0,d0)
"""
    assert socket_bytes(text) == 768 + 3328 + 4 + 10 + 100


def test_outcomes_are_counted_whatever_the_kind() -> None:
    outcomes = {"batch reader whole": 1, "batch returner whole": 2, "batch staller failed (0)": 4}
    assert of_outcome(outcomes, Outcome.WHOLE) == 3
    assert of_outcome(outcomes, Outcome.FAILED) == 4


def test_a_stream_that_was_left_waiting_was_not_served() -> None:
    seen = Seen()
    seen.outcomes.update({Outcome.WHOLE: 3, Outcome.LEFT: 1})
    assert seen.missed == 25
    assert Seen().missed == 100


def test_names_beside_curves_do_not_lie_on_each_other() -> None:
    assert apart([250.0, 10.0, 251.0, 252.0], 5) == [250.0, 10.0, 255.0, 260.0]


# --- the provider ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"post / http/1.1\r\ncontent-length: 12", b"0\r\n\r\n0\r\n\r\nab"),
        (b"post / http/1.1\r\ntransfer-encoding: chunked", b"5\r\nhell0\r\n1\r\n0\r\n0\r\n\r\n"),
        (b"post / http/1.1\r\ntransfer-encoding: chunked", b"0\r\n\r\n"),
    ],
)
def test_the_end_of_a_body_is_found(head: bytes, body: bytes, step: int) -> None:
    reading = Body(head)
    pieces = [body[position : position + step] for position in range(0, len(body), step)]
    for piece in pieces:
        assert not reading.is_over
        reading.feed(piece)
    assert reading.is_over


def test_a_request_without_a_body_is_over_at_once() -> None:
    assert Body(b"get / http/1.1\r\nhost: bench").is_over


def test_a_script_is_read_as_it_was_written() -> None:
    assert read_script(b"post /\r\nx-simulate: " + script(7, 20, 300).encode() + b"\r\na: b") == (7, 20, 300)
    assert read_script(b"post /\r\nhost: bench") == (1, 0, 250)


def test_an_answer_has_all_its_events() -> None:
    whole = bytes(answer(5, 250))
    assert whole.count(STAMP) == 5
    assert whole.endswith(TAIL)


# --- clients and the provider ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> Iterator[int]:
    port = free_port()
    with Process(command(port), port):
        yield port


def ask(events: int = EVENTS, rate: float = 0, away: float = 0.1) -> Ask:
    return Ask("batch", classed("batch", script(events, rate, SIZE)), events * SIZE, away)


def test_readers_and_probes_of_a_provider_without_a_relay(provider: int) -> None:
    seen, probes, long = Seen(), Probes(), Seen()
    with Crowd() as crowd:
        arrivals = [
            keep_reading(crowd, provider, Pace(streams=5, events=5, interval=0.02), seen),
            keep_probing(crowd, provider, 20, probes),
            keep_sending(crowd, provider, 20, 200_000, long),
        ]
        crowd.run(0.5)
        for arriving in arrivals:
            arriving.is_stopped = True
        assert crowd.run(10, lambda: not len(crowd))
    assert set(seen.outcomes) == set(probes.outcomes) == set(long.outcomes) == {Outcome.WHOLE}
    assert len(seen.times) == 5 * seen.outcomes[Outcome.WHOLE]
    assert min(seen.times) > 0
    assert probes.accepted_at is not None


def test_who_comes_back_gets_everything_and_who_does_not_gets_nothing_more(provider: int) -> None:
    tally = Tally()
    with Crowd() as crowd:
        guests = [Guest(ask(), tally), Returner(ask(), tally), Staller(ask(), tally)]
        for guest in guests:
            crowd.add(guest, provider)
        assert crowd.run(10, lambda: len(crowd) == 1)
        assert guests[2].received < 20_000
    assert tally.outcomes == {"batch reader whole": 1, "batch returner whole": 1, "batch staller left": 1}


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Does `answer` with each connection, and closes it."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # clients leave by a reset
                answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def saying(text: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text)

    return answer


OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Outcome.REFUSED),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", Outcome.REFUSED),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Outcome.FAILED),
        (b"", Outcome.FAILED),
        (OK + b"5\r\nhello\r\n", Outcome.CUT),
        (OK + b"5\r\nhello\r\n0\r\n\r\n", Outcome.CUT),
        (OK + TAIL, Outcome.WHOLE),
    ],
)
def test_how_a_visit_ends(text: bytes, outcome: Outcome) -> None:
    with server(saying(text)) as port, Crowd() as crowd:
        visitor = Visitor(b"GET / HTTP/1.1\r\n\r\n")
        crowd.add(visitor, port)
        assert crowd.run(10, lambda: visitor.outcome is not None)
        assert visitor.outcome is outcome


def test_a_client_that_has_stopped_reading_notices_that_it_is_cut() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK + b"x" * 3000)
        time.sleep(0.1)

    tally = Tally()
    with server(answer) as port, Crowd() as crowd:
        crowd.add(Staller(ask(), tally), port)
        assert crowd.run(10, lambda: not len(crowd))
    assert tally.outcomes == {"batch staller cut": 1}


class Impatient(Visitor):
    __slots__ = ()

    patience = 0.1


def test_a_client_without_an_answer_leaves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, Crowd() as crowd:
        visitor = Impatient(b"GET / HTTP/1.1\r\n\r\n")
        crowd.add(visitor, listening.getsockname()[1])
        crowd.run(10, lambda: visitor.outcome is not None)
        assert visitor.outcome is Outcome.UNANSWERED


def test_late_arrivals_are_made_up_for() -> None:
    came: list[float] = []
    with Crowd() as crowd:
        arrivals = Arrivals(crowd, 1000, lambda: came.append(time.monotonic()))
        time.sleep(0.1)
        crowd.run(0.1)
    assert len(came) >= 100
    assert arrivals.late >= 0.09


# --- hostile clients ------------------------------------------------------------------------------------------------


class Sink:
    """Reads requests, and never answers."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, connection: socket.socket) -> None:
        while data := connection.recv(1 << 20):
            self.data += data

    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


def uploaded(kind: type[Upload], size: int, until: Callable[[Sink], bool]) -> Sink:
    sink = Sink()

    def holds() -> bool:
        return until(sink)

    with server(sink) as port, Crowd() as crowd:
        crowd.add(kind(size, Sent(Counter()), lambda: None), port)
        assert crowd.run(10, holds)
        crowd.run(0.1)
    return sink


@pytest.mark.parametrize("size", [80, 1000, 600_000])
def test_an_upload_has_the_size_that_it_says(size: int) -> None:
    body = uploaded(Upload, size, lambda sink: len(sink.body()) >= size).body()
    assert len(body) == size
    assert body.startswith(b'{"model"')
    assert body.endswith(b'"}]}')


def test_one_that_stops_has_sent_half() -> None:
    body = uploaded(Stop, 2_000_000, lambda sink: len(sink.body()) >= 1_000_000).body()
    assert 1_000_000 <= len(body) < 1_500_000


def test_one_that_drips_sends_little() -> None:
    body = uploaded(Drip, 2_000_000, lambda sink: len(sink.body()) > 100).body()
    assert len(body) < 10_000


def test_one_without_an_end_sends_chunks() -> None:
    body = uploaded(Endless, 1, lambda sink: len(sink.body()) > 300_000).body()
    while len(body) > 70_000:
        size, _, body = body.partition(b"\r\n")
        assert body[int(size, 16) :][:2] == b"\r\n"
        body = body[int(size, 16) + 2 :]


# --- each case once, on tiny settings -------------------------------------------------------------------------------

TINY = Honest(Pace(streams=5, events=5, interval=0.02), direct=2, warm_up=0.2)


def figure(result: CaseResult, what: str) -> float:
    (found,) = [each.median for each in result.figures if each.what == what and each.relay == "flowserver"]
    return found


@pytest.mark.serial
@pytest.mark.slow
def test_pressure_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "TRIAL", 50)
    monkeypatch.setattr(pressure, "RELAYS", ("naive", "flowserver"))
    settings = Settings(times=0.02, seconds=1, ramp=0.1, stall=2, away=0.2, honest=TINY)
    result = pressure.run(["flowserver"], settings)
    assert figure(result, "interactive requests not served whole") == 0
    assert figure(result, "load: clients whole") > 0
    assert figure(result, "after the load: back to normal") < 10
    assert {series.relay for series in result.series} == {"naive", "flowserver", "budget"}
    met = {line.what: line.seen for line in lines([result])}
    assert met["10 x the load that fits: resident memory, peak"] is not None


@pytest.mark.serial
@pytest.mark.slow
def test_a_few_hostile_clients() -> None:
    few = Uploads(0, uploads=6, size=100_000, endless=1, idle=10, ramp=0.1)
    settings = hostile.Settings(seconds=1.5, plan=few, honest=TINY, prompts=5, prompt=10_000)
    result = hostile.run(["flowserver"], settings)
    assert figure(result, "interactive requests not served whole") == 0
    assert figure(result, "honest prompts of 10 KB not served whole") == 0
    assert figure(result, hostile.LEFT_CONNECTIONS) == 0
    assert any("fast upload whole" in note and "idle connection left 10" in note for note in result.notes)


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("name", ["naive", "nginx", "envoy"])
def test_a_relay_starts_with_a_budget(name: str) -> None:
    if name in PEERS and not PEERS[name].available():
        pytest.skip(f"{name} is not installed: {PEERS[name].install}")
    with stage(name, Wiring(stall=5, memory=256 * MB), 1024 * MB) as scene:
        scene.begin(TINY)
        scene.play(0.3)
        scene.end()
    assert set(scene.seen.outcomes) == set(scene.direct.outcomes) == {Outcome.WHOLE}
    assert scene.resident.peak() > 0
