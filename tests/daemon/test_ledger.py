"""What was answered for is on disk, whatever the disk does; what was refused is not."""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.allocator.model import SandboxKey
from cni.daemon import ledger as module
from cni.daemon.disk import Disk
from cni.daemon.holdings import Holding, Recovered, read_ledger
from cni.daemon.ledger import Ledger, LedgerError
from tests.daemon.disks import FaultyDisk, Killed, LethalDisk
from tests.daemon.test_holdings import (
    BOOT,
    NOW,
    address,
    holding,
    ledger,
    newer_header,
    sandbox,
)


def opened(folder: Path, disk: Disk | None = None, boot: str = BOOT) -> tuple[Ledger, Recovered]:
    """Open the ledger of a folder."""
    return Ledger.open(folder / "ledger.jsonl", boot_id=boot, now_unix=NOW, disk=disk)


def on_disk(folder: Path) -> dict[SandboxKey, IPv4Address]:
    """Return who holds what by the file alone, as a restart would find it; no problems."""
    reading = read_ledger((folder / "ledger.jsonl").read_bytes(), BOOT, NOW)
    assert reading.problems == []
    return {one.sandbox: one.address for one in reading.book.holdings.values()}


def in_memory(book: Ledger) -> dict[SandboxKey, IPv4Address]:
    """Return who holds what by the ledger's own word."""
    return {one.sandbox: one.address for one in book.holdings()}


def files_in(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_fresh_ledger_is_empty_and_for_its_user_alone(tmp_path: Path) -> None:
    """A node's first start finds nothing and leaves a file that nobody else reads."""

    async def scene() -> None:
        book, recovered = opened(tmp_path / "state")
        assert recovered == Recovered((), (), ())
        await book.assigned(holding(1, 1))
        await book.close()
        for file in (tmp_path / "state").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700

    asyncio.run(scene())


def test_what_was_appended_comes_back(tmp_path: Path) -> None:
    """A restart finds all holdings with all they say, oldest first, and what cools."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        for number in range(5):
            await book.assigned(holding(number, number))
        await book.released(sandbox(1), address(1), NOW - 7)
        assert book.find(sandbox(2)) == holding(2, 2)
        assert book.find(sandbox(1)) is None
        await book.close()
        book, recovered = opened(tmp_path)
        await book.close()
        assert recovered.holdings == tuple(holding(n, n) for n in (0, 2, 3, 4))
        assert recovered.cooling == ((address(1), NOW - 7),)
        assert recovered.problems == ()

    asyncio.run(scene())


def test_a_clock_that_once_was_wrong_ends_no_cooldown(tmp_path: Path) -> None:
    """A pod that was added while the clock was a year ahead makes no release look old."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        await book.assigned(holding(1, 1, NOW + 365 * 86_400.0))
        await book.assigned(holding(2, 2, NOW - 20))
        await book.released(sandbox(2), address(2), NOW - 7)
        await book.close()
        for _ in range(2):
            book, recovered = opened(tmp_path)
            await book.close()
            assert recovered.cooling == ((address(2), NOW - 7),)

    asyncio.run(scene())


def test_an_append_returns_after_the_sync(tmp_path: Path) -> None:
    """Written and synced, in this order, before anybody is told; a new file also with its name."""
    order: list[str] = []

    class Listening(FaultyDisk):
        def _meet(self, operation: str) -> None:
            order.append(operation)
            super()._meet(operation)

    async def scene() -> None:
        book, _ = opened(tmp_path, Listening())
        # The folder is opened and synced after the file has got its name.
        assert order == ["unlink", "open", "write", "fsync", "replace", "open", "fsync"]
        order.clear()
        await book.assigned(holding(1, 1))
        assert order == ["write", "fdatasync"]
        await book.close()

    asyncio.run(scene())


def test_a_hundred_at_once_take_few_syncs_and_keep_their_order(tmp_path: Path) -> None:
    """While one sync runs, appends gather and go together; each answer comes in its turn."""

    class Slow(FaultyDisk):
        def __init__(self) -> None:
            super().__init__()
            self.gate = threading.Event()
            self.entered = threading.Event()

        def fdatasync(self, fd: int) -> None:
            self.entered.set()
            assert self.gate.wait(10)
            super().fdatasync(fd)

    async def scene() -> None:
        disk = Slow()
        book, _ = opened(tmp_path, disk)
        answered: list[int] = []

        async def append(number: int) -> None:
            await book.assigned(holding(number, number))
            answered.append(number)

        first = asyncio.create_task(append(0))
        await asyncio.to_thread(disk.entered.wait, 10)
        rest = [asyncio.create_task(append(number)) for number in range(1, 100)]
        await asyncio.sleep(0)
        assert answered == []
        disk.gate.set()
        await asyncio.gather(first, *rest)
        assert answered == list(range(100))
        assert book.syncs == disk.calls["fdatasync"] == 2
        assert list(on_disk(tmp_path)) == [sandbox(number) for number in range(100)]
        await book.close()

    asyncio.run(scene())


def test_all_of_one_turn_of_the_loop_go_together(tmp_path: Path) -> None:
    """A burst that comes in at once is one write or two, even where nothing is under way."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        await asyncio.gather(*(book.assigned(holding(n, n)) for n in range(100)))
        # Two where the worker is quicker than the loop.
        assert book.syncs <= 2
        await book.close()

    asyncio.run(scene())


def test_a_second_daemon_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """Two daemons on one ledger would hand out each address twice."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        await book.assigned(holding(1, 1))
        with pytest.raises(LedgerError, match="another daemon on this node has it: stop that"):
            opened(tmp_path)
        await book.assigned(holding(2, 2))
        await book.close()
        book, recovered = opened(tmp_path)
        assert len(recovered.holdings) == 2
        await book.close()

    asyncio.run(scene())


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    """The error is one line that says what to do, and the newer daemon finds its file as it was."""
    line = newer_header()
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(line + b"what only version 2 understands\n")
    with pytest.raises(LedgerError, match=r"ledger\.jsonl: it has format 2 .* drain the node"):
        opened(tmp_path)
    assert path.read_bytes().startswith(line)

    async def scene() -> None:
        path.unlink()
        book, _ = opened(tmp_path)
        await book.close()

    asyncio.run(scene())


def test_damage_is_told_and_kept_and_gone_from_the_ledger(tmp_path: Path) -> None:
    """Who wants to know what happened finds the old file; the next start finds a sound one."""
    path = tmp_path / "ledger.jsonl"
    data = bytearray(ledger(*(holding(n, n) for n in range(90))))
    feeds = [at for at, byte in enumerate(data) if byte == ord("\n")]
    for at in feeds[1:71]:
        data[at - 30] ^= 1
    path.write_bytes(data)

    async def scene() -> None:
        book, recovered = opened(tmp_path)
        assert len(recovered.holdings) == 20
        assert len(recovered.problems) == 52
        assert "line 2 is left out, for it does not fit its checksum" in recovered.problems[0]
        assert recovered.problems[-2] == "there are 20 more problems of this kind"
        assert recovered.problems[-1].endswith("is kept as " + str(path) + ".damaged")
        await book.close()
        book, recovered = opened(tmp_path)
        assert len(recovered.holdings) == 20
        assert recovered.problems == ()
        await book.close()

    asyncio.run(scene())
    assert Path(f"{path}.damaged").read_bytes() == data


def test_a_reboot_voids_what_was_held(tmp_path: Path) -> None:
    """It is told once, and the file then belongs to the new boot."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        await book.assigned(holding(1, 1))
        await book.close()
        book, recovered = opened(tmp_path, boot="another")
        assert recovered.holdings == ()
        assert "the node was rebooted" in recovered.problems[0]
        await book.assigned(holding(2, 2))
        await book.close()
        book, recovered = opened(tmp_path, boot="another")
        assert recovered.holdings == (holding(2, 2),)
        assert recovered.problems == ()
        await book.close()

    asyncio.run(scene())


# A disk that fails.


def test_a_full_disk_refuses_in_one_line_and_works_again_with_room(tmp_path: Path) -> None:
    """What was refused is nowhere, and the next append needs no restart."""

    async def scene() -> None:
        disk = FaultyDisk()
        book, _ = opened(tmp_path, disk)
        await book.assigned(holding(1, 1))
        disk.room = 100
        with pytest.raises(LedgerError, match="No space left on device: free space") as refused:
            await book.assigned(holding(2, 2))
        assert refused.value.errno == errno.ENOSPC
        assert "\n" not in str(refused.value)
        assert in_memory(book) == on_disk(tmp_path) == {sandbox(1): address(1)}
        disk.room = None
        await book.assigned(holding(3, 2))
        assert in_memory(book) == on_disk(tmp_path)
        assert on_disk(tmp_path) == {sandbox(1): address(1), sandbox(3): address(2)}
        await book.close()

    asyncio.run(scene())


def test_all_of_a_batch_are_refused_together(tmp_path: Path) -> None:
    """Lines of a batch that fitted before the disk was full are taken back: nobody got them."""

    async def scene() -> None:
        disk = FaultyDisk()
        book, _ = opened(tmp_path, disk)
        disk.room = 1000
        results = await asyncio.gather(
            *(book.assigned(holding(n, n)) for n in range(9)), return_exceptions=True
        )
        assert all(isinstance(one, LedgerError) for one in results)
        assert in_memory(book) == on_disk(tmp_path) == {}
        await book.close()

    asyncio.run(scene())


def test_what_cannot_be_cut_off_at_once_is_before_the_next_append(tmp_path: Path) -> None:
    """A torn line in the middle would cost the line after it."""

    async def scene() -> None:
        disk = FaultyDisk()
        book, _ = opened(tmp_path, disk)
        disk.room = 50
        disk.fail("truncate", errno.EIO, times=2)
        for _ in range(2):
            with pytest.raises(LedgerError):
                await book.assigned(holding(1, 1))
        disk.room = None
        await book.assigned(holding(2, 2))
        assert on_disk(tmp_path) == {sandbox(2): address(2)}
        await book.close()

    asyncio.run(scene())


def test_after_a_failed_sync_the_file_is_written_anew(tmp_path: Path) -> None:
    """The next sync would succeed without the pages that the kernel dropped."""

    async def scene() -> None:
        disk = FaultyDisk()
        book, _ = opened(tmp_path, disk)
        await book.assigned(holding(1, 1))
        before = (tmp_path / "ledger.jsonl").stat().st_ino
        disk.fail("fdatasync")
        with pytest.raises(LedgerError, match="the disk fails, see the kernel's log"):
            await book.assigned(holding(2, 2))
        assert in_memory(book) == on_disk(tmp_path) == {sandbox(1): address(1)}
        await book.assigned(holding(3, 3))
        assert (tmp_path / "ledger.jsonl").stat().st_ino != before
        assert in_memory(book) == on_disk(tmp_path)
        assert set(on_disk(tmp_path)) == {sandbox(1), sandbox(3)}
        await book.close()

    asyncio.run(scene())


@pytest.mark.parametrize("operation", ["open", "write", "fsync", "replace"])
def test_a_rewrite_that_fails_leaves_the_old_file(tmp_path: Path, operation: str) -> None:
    """Appends are refused while the file cannot be trusted, and work once it is written anew."""

    async def scene() -> None:
        disk = FaultyDisk()
        book, _ = opened(tmp_path, disk)
        await book.assigned(holding(1, 1))
        disk.fail("fdatasync")
        with pytest.raises(LedgerError):
            await book.assigned(holding(2, 2))
        disk.fail(operation, errno.EROFS)
        with pytest.raises(LedgerError, match="mount it writable"):
            await book.assigned(holding(2, 2))
        assert on_disk(tmp_path) == {sandbox(1): address(1)}
        await book.assigned(holding(2, 2))
        assert set(on_disk(tmp_path)) == {sandbox(1), sandbox(2)}
        await book.close()
        assert files_in(tmp_path) == ["ledger.jsonl", "ledger.jsonl.lock"]

    asyncio.run(scene())


def test_a_disk_that_takes_little_at_a_time_gets_all(tmp_path: Path) -> None:
    """A short write is no failure."""

    async def scene() -> None:
        disk = FaultyDisk()
        disk.at_most = 7
        book, _ = opened(tmp_path, disk)
        await book.assigned(holding(1, 1))
        assert on_disk(tmp_path) == {sandbox(1): address(1)}
        await book.close()

    asyncio.run(scene())


def test_a_daemon_starts_on_a_full_disk(tmp_path: Path) -> None:
    """What is held is read; the first append after there is room puts the file right."""

    async def scene() -> None:
        torn = ledger(holding(1, 1), holding(2, 2))[:-9]
        (tmp_path / "ledger.jsonl").write_bytes(torn)
        disk = FaultyDisk()
        disk.room = 0
        book, recovered = opened(tmp_path, disk)
        assert recovered.holdings == (holding(1, 1),)
        assert "No space left on device: free space there" in recovered.problems[0]
        with pytest.raises(LedgerError):
            await book.assigned(holding(3, 3))
        assert (tmp_path / "ledger.jsonl").read_bytes() == torn
        disk.room = None
        await book.assigned(holding(3, 3))
        assert set(on_disk(tmp_path)) == {sandbox(1), sandbox(3)}
        await book.close()

    asyncio.run(scene())


def test_a_ledger_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    """To start without it would hand out addresses that are held."""
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(LedgerError, match=r"cannot open the ledger .*: Is a directory"):
        opened(tmp_path)


def test_a_file_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    """Lines appended to a file without a name would be gone with the process."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        await book.assigned(holding(1, 1))
        (tmp_path / "ledger.jsonl").unlink()
        await book.assigned(holding(2, 2))
        assert set(on_disk(tmp_path)) == {sandbox(1), sandbox(2)}
        await book.close()

    asyncio.run(scene())


# Compaction.


def test_the_file_stays_in_proportion_to_what_is_held(tmp_path: Path) -> None:
    """After any number of pods it holds a bounded number of lines, and says the same."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        await book.assigned(holding(9999, 0))
        for turn in range(12):
            batch = [holding(turn * 300 + n, 1 + n, NOW) for n in range(300)]
            await asyncio.gather(*map(book.assigned, batch))
            await asyncio.gather(
                *(book.released(one.sandbox, one.address, NOW + turn) for one in batch)
            )
            lines = (tmp_path / "ledger.jsonl").read_bytes().count(b"\n")
            assert lines <= 1 + 2 * 301 + module.DEAD_LINES_MIN + 300
        assert book.rewrites > 2
        assert book.rewrites < 9
        await book.close()
        book, recovered = opened(tmp_path)
        assert recovered.holdings == (holding(9999, 0),)
        assert len(recovered.cooling) == 300
        await book.close()

    asyncio.run(scene())


def test_a_compaction_that_finds_no_room_harms_nothing(tmp_path: Path) -> None:
    """A long file serves as well as a short one; appends go on, and so does the wish for less."""

    async def scene() -> None:
        disk = FaultyDisk()
        book, _ = opened(tmp_path, disk)
        disk.fail("replace", errno.ENOSPC)
        for turn in range(9):
            for number in range(150):
                await book.assigned(holding(number, number))
                await book.released(sandbox(number), address(number), NOW)
            if turn == 4:
                assert disk.calls["replace"] == 2, "it tries each time"
        assert disk.calls["replace"] >= 3
        assert book.rewrites >= 2
        await book.assigned(holding(1, 1))
        assert in_memory(book) == on_disk(tmp_path) == {sandbox(1): address(1)}
        await book.close()
        assert files_in(tmp_path) == ["ledger.jsonl", "ledger.jsonl.lock"]

    asyncio.run(scene())


# Whoever hangs up, and the end.


def test_who_hangs_up_while_waiting_can_release(tmp_path: Path) -> None:
    """A cancelled append may be on disk: its release comes after it, and nothing is left."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        task = asyncio.create_task(book.assigned(holding(1, 1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await book.released(sandbox(1), address(1), NOW)
        await book.assigned(holding(2, 1))
        assert in_memory(book) == on_disk(tmp_path) == {sandbox(2): address(1)}
        await book.close()

    asyncio.run(scene())


def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    """Who was promised an answer gets one; who comes later is told that it is too late."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        tasks = [asyncio.create_task(book.assigned(holding(n, n))) for n in range(3)]
        await asyncio.sleep(0)
        await book.close()
        await asyncio.gather(*tasks)
        await book.close()
        with pytest.raises(LedgerError, match="the daemon is stopping"):
            await book.assigned(holding(9, 9))
        assert len(on_disk(tmp_path)) == 3

    asyncio.run(scene())


def test_a_defect_reaches_who_waits(tmp_path: Path) -> None:
    """Nobody waits for ever, whatever breaks; and the file is written anew afterwards."""

    async def scene() -> None:
        book, _ = opened(tmp_path)
        real = book._file.append
        book._file.append = _broken  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            await book.assigned(holding(1, 1))
        book._file.append = real  # type: ignore[method-assign]
        await book.assigned(holding(2, 2))
        assert set(on_disk(tmp_path)) == {sandbox(2)}
        assert book.rewrites == 2
        await book.close()

    asyncio.run(scene())


def _broken(_data: bytes, _whole: Callable[[], bytes]) -> None:
    raise ZeroDivisionError


# Programs.

Step = tuple[str, int, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("assigned"), st.integers(0, 5), st.integers(0, 5)),
        st.tuples(st.just("released"), st.integers(0, 5), st.integers(0, 5)),
        st.tuples(
            st.sampled_from(
                ("write", "fdatasync", "truncate", "fsync", "replace", "open", "unlink")
            ),
            st.sampled_from((errno.ENOSPC, errno.EIO, errno.EROFS)),
            st.integers(1, 3),
        ),
        st.tuples(st.just("room"), st.integers(0, 2000), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps)
def test_memory_is_disk_whatever_fails(
    tmp_path_factory: pytest.TempPathFactory, program: list[Step]
) -> None:
    """After each answer, file and memory say the same, and what was answered for is in both."""
    folder = tmp_path_factory.mktemp("ledger")

    async def scene() -> None:
        disk = FaultyDisk()
        book, _ = opened(folder, disk)
        held: dict[int, int] = {}
        for step in program:
            if step[0] == "reopen":
                await book.close()
                disk = FaultyDisk()
                book, recovered = opened(folder, disk)
                assert {o.sandbox: o.address for o in recovered.holdings} == in_memory(book)
            else:
                await _play(step, book, disk, held)
            expected = {sandbox(pod): address(host) for pod, host in held.items()}
            assert in_memory(book) == expected
            if not disk.faults.get("truncate"):
                # Where nothing can be cut off, the file is right before the next append.
                assert on_disk(folder) == expected
        await book.close()

    asyncio.run(scene())


async def _play(step: Step, book: Ledger, disk: FaultyDisk, held: dict[int, int]) -> None:
    """Do one step of a program; keep in `held` what was answered for."""
    name, first, second = step
    if name == "room":
        disk.room = first or None
    elif name == "assigned":
        free = first not in held and second not in held.values()
        if free and await _done(book.assigned(holding(first, second))):
            held[first] = second
    elif name == "released":
        host = held.get(first)
        if host is not None and await _done(book.released(sandbox(first), address(host), NOW)):
            del held[first]
    else:
        disk.fail(name, first, times=second)


async def _done(work: Coroutine[Any, Any, None]) -> bool:
    try:
        await work
    except LedgerError:
        return False
    return True


@pytest.mark.parametrize("dead_lines", [1000, 3])
def test_killed_at_any_operation_nothing_answered_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_lines: int
) -> None:
    """`kill -9` between or amid any two operations on files: all that was answered comes back."""
    monkeypatch.setattr(module, "DEAD_LINES_MIN", dead_lines)
    script: list[Holding | SandboxKey] = [
        *(holding(n, n) for n in range(4)),
        *(sandbox(n) for n in range(3)),
        *(holding(n + 10, n) for n in range(3)),
        *(sandbox(n + 10) for n in range(3)),
    ]
    for operations in range(200):
        folder = tmp_path / str(operations)
        answered: dict[SandboxKey, IPv4Address] = {}
        maybe: dict[SandboxKey, IPv4Address] = {}

        async def scene(
            folder: Path = folder,
            operations: int = operations,
            answered: dict[SandboxKey, IPv4Address] = answered,
            maybe: dict[SandboxKey, IPv4Address] = maybe,
        ) -> bool:
            disk = LethalDisk(operations)
            try:
                book, _ = opened(folder, disk)
            except Killed:
                return False
            try:
                for step in script:
                    maybe.clear()
                    maybe.update(answered)
                    if isinstance(step, Holding):
                        maybe[step.sandbox] = step.address
                        await book.assigned(step)
                    else:
                        gone = maybe.pop(step)
                        await book.released(step, gone, NOW)
                    answered.clear()
                    answered.update(maybe)
            except (Killed, asyncio.CancelledError):
                return False
            finally:
                # What the kernel does for a process that is no more.
                os.close(book._lock)
                book._worker.stop()
            return True

        loop = asyncio.new_event_loop()
        try:
            lived = loop.run_until_complete(scene())
        except Killed:
            lived = False
        finally:
            loop.close()
        found = on_disk(folder) if (folder / "ledger.jsonl").exists() else {}
        assert found in (answered, maybe), operations
        if lived:
            assert operations > 30
            return
    raise AssertionError("the script does not end")
